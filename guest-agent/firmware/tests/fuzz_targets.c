/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One libFuzzer entry point; the first byte of the input chooses what the rest
 * is fed to. Whatever a host sends, the firmware answers with a status: it does
 * not fault, and a destination that was fed anything but the true stream does
 * not prepare. Build with clang -fsanitize=fuzzer; test_fuzz.c drives the same
 * entry point where there is no clang.
 */
#include "driver.h"
#include "firmware.h"
#include "fuzz_targets.h"

static struct host_machine *destination;
static struct wire valid;            /* as sealed for `destination` */
static struct migrate opened;        /* the destination's state at its start */
static struct cpc_hello peer_hello;
static struct migrate before_accept;

static struct migrate *state(void)
{
    host_machine = destination;
    return runtime_get()->module_state[CPC_MODULE_MIGRATE];
}

/* The calls run in this thread: an input takes microseconds, not wake-ups. */
static uint32_t run(uint32_t op, const uint64_t arg[6], const void *payload, size_t size)
{
    struct runtime *runtime = (state(), runtime_get());
    struct call *call = &runtime->hvcpu[0].call;
    const struct module *module = module_table[CPC_MODULE_MIGRATE];
    uint32_t function = op & 0xffffu;

    memset(call, 0, __builtin_offsetof(struct call, payload));
    call->runtime = runtime;
    call->hvcpu = &runtime->hvcpu[0];
    call->mailbox = host_mailbox(destination, 0);
    call->request = 1;
    call->mailbox->cancel = 0;
    memcpy(call->arg, arg, sizeof(call->arg));
    call->payload_size = (uint32_t)size;
    memcpy(call->payload, payload, size);
    uint32_t status = module->enter(call, function);
    if (status == CPC_S_OK) {
        status = module->functions[function](call);
    }
    module->leave(call, function, status);
    return status;
}

/* There is never more to wait for. */
static void cancel_wait(struct host_machine *machine)
{
    host_mailbox(machine, 0)->cancel = 1;
}

void fuzz_begin(void)
{
    struct pair pair = pair_new(NULL, NULL);
    struct answer answer;

    answer = call(pair.source, CPC_OP_OPEN, CPC_ROLE_SOURCE, 0x1e, NULL, 0);
    memcpy(&peer_hello, answer.payload, sizeof(peer_hello));
    call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0);
    pair_open(&pair, 0x1e);
    make_wire(&pair, &valid);
    destination = pair.destination;
    opened = *state();
    before_accept = opened;
    before_accept.session.phase = CPC_PHASE_OPEN;
    for (uint32_t i = 0; i < destination->boot.hvcpu_max; i++) {
        host_hvcpu_kill(destination, i);
    }
    destination->on_park = cancel_wait;
    host_machine_free(pair.source);
}

void fuzz_end(void)
{
    host_machine_free(destination);
    wire_free(&valid);
}

static const struct wire *true_wire(void)
{
    return &valid;
}

/* Bytes for the ring of stream 0. */
static void feed_ring(const uint8_t *data, size_t size)
{
    static const uint64_t arg[6];
    struct runtime *runtime = (state(), runtime_get());
    const struct wire *wire = true_wire();

    if (size > CPC_RING_MIN) {
        size = CPC_RING_MIN;
    }
    *state() = opened;
    memset(runtime->versions, 0, 4 * runtime->version_count);
    ring_reset(&runtime->hvcpu[0].ring);
    memcpy(destination->ring[0], data, size);
    host_ring(destination, 0)->head = size;
    uint32_t status = run(CPC_OP_RECV, arg, "", 0);
    if (status == CPC_S_OK) {
        CHECK(size >= wire->size && memcmp(data, wire->bytes, wire->size) == 0);
    }
}

uint64_t fuzz_ring_records(void)
{
    state();
    return runtime_get()->hvcpu[0].call.progress.records;
}

/* A header by itself: the judge must be total and right. */
static void judge_header(const uint8_t *data, size_t size)
{
    struct cpc_record record;
    struct channel channel = opened.session.stream[0].channel;

    if (size < sizeof(record)) {
        return;
    }
    memcpy(&record, data, sizeof(record));
    if (record_check(&record, &channel) == CPC_S_OK) {
        CHECK(record.length <= CPC_RUN_BYTES && record.sequence == channel.sequence);
        CHECK(record.stream < record.streams);
    } else {
        CHECK(record_check(&record, &channel) >= CPC_S_WIRE_MAGIC);
    }
}

/* A hello for ACCEPT; without a change it is accepted. */
static void accept_hello(const uint8_t *data, size_t size)
{
    static const uint64_t arg[6];

    *state() = before_accept;
    uint32_t status = run(CPC_OP_ACCEPT, arg, data,
                          size < CPC_PAYLOAD_MAX ? size : CPC_PAYLOAD_MAX);
    CHECK(status != CPC_S_FAULT);
    if (status == CPC_S_OK) {
        CHECK_IS(size, sizeof(struct cpc_hello));
        CHECK_IS(migrate_phase(&state()->session), CPC_PHASE_ACCEPTED);
    }
}

/* A token for RUN: nothing made up lets the guest run. */
static void run_token(const uint8_t *data, size_t size)
{
    static const uint64_t arg[6];

    *state() = opened;
    state()->session.phase = CPC_PHASE_PREPARED;
    CHECK(run(CPC_OP_RUN, arg, data, size < 256 ? size : 256) != CPC_S_OK);
    CHECK(destination->frozen);
}

/* Any call with any arguments on a destination in the middle of a stream. */
static void any_call(const uint8_t *data, size_t size)
{
    uint64_t arg[6] = { 0 };
    uint32_t function;

    if (size < 1 + sizeof(arg)) {
        return;
    }
    function = data[0] % module_table[CPC_MODULE_MIGRATE]->count;
    if (module_table[CPC_MODULE_MIGRATE]->functions[function] == NULL) {
        return;
    }
    memcpy(arg, data + 1, sizeof(arg));
    size -= 1 + sizeof(arg);
    *state() = opened;
    uint32_t status = run(CPC_OP(CPC_MODULE_MIGRATE, function), arg,
                          data + 1 + sizeof(arg),
                          size < CPC_PAYLOAD_MAX ? size : CPC_PAYLOAD_MAX);
    CHECK(status == CPC_S_OK || status >= 100);
    CHECK(destination->frozen);
    CHECK_IS(state()->gate, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (destination == NULL) {
        fuzz_begin();
    }
    if (size == 0) {
        return 0;
    }
    switch (data[0] % FUZZ_TARGETS) {
    case FUZZ_RING:
        feed_ring(data + 1, size - 1);
        break;
    case FUZZ_HEADER:
        judge_header(data + 1, size - 1);
        break;
    case FUZZ_HELLO:
        accept_hello(data + 1, size - 1);
        break;
    case FUZZ_TOKEN:
        run_token(data + 1, size - 1);
        break;
    default:
        any_call(data + 1, size - 1);
        break;
    }
    return 0;
}

/* A valid input of a target, for the mutating driver to start from. */
size_t fuzz_seed(uint32_t target, uint8_t *data, size_t room)
{
    struct cpc_token token = { .magic = CPC_TOKEN_MAGIC, .wire = CPC_WIRE_VERSION,
                               .type = CPC_TOKEN_COMMIT };
    const struct wire *wire = true_wire();
    size_t size;

    data[0] = (uint8_t)target;
    switch (target) {
    case FUZZ_RING:
        /* the first records are enough to get everywhere but the end */
        size = (size_t)((uint8_t *)wire_find(wire, 0, 4) - wire->bytes);
        memcpy(data + 1, wire->bytes, size < room - 1 ? size : room - 1);
        return 1 + (size < room - 1 ? size : room - 1);
    case FUZZ_HEADER:
        memcpy(data + 1, wire->bytes, sizeof(struct cpc_record));
        return 1 + sizeof(struct cpc_record);
    case FUZZ_HELLO:
        memcpy(data + 1, &peer_hello, sizeof(peer_hello));
        return 1 + sizeof(peer_hello);
    case FUZZ_TOKEN:
        memcpy(token.session, opened.session.id, sizeof(token.session));
        memcpy(data + 1, &token, sizeof(token));
        return 1 + sizeof(token);
    default:
        memset(data + 1, 0, 300);
        return 301;
    }
}
