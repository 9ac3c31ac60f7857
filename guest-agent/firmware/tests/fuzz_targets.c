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
#include "platform.h"
#include "snp_machine.h"

static struct host_machine *destination;
static struct wire valid;            /* as sealed for `destination` */
static struct migrate opened;        /* the destination's state at its start */
static struct cpc_hello peer_hello;
static struct migrate before_accept;
static struct host_machine *confidential;  /* a model of SEV-SNP */
static struct cpc_snp_hints true_hints;

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
    struct host_layout layout = standard_layout;
    layout.snp = true;
    layout.incoming = true;
    confidential = host_machine_new(&layout);
    host_machine_start(confidential);
    for (uint32_t i = 0; i < confidential->boot.hvcpu_max; i++) {
        host_hvcpu_kill(confidential, i);
    }
    true_hints = *host_hints(confidential);
}

void fuzz_end(void)
{
    host_machine_free(destination);
    host_machine_free(confidential);
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

/* Where guest memory is, from a host: believed only when it can be. */
static void judge_hints(const uint8_t *data, size_t size)
{
    struct cpc_snp_hints *shared = host_hints(confidential);
    struct cpc_region_table table;
    const struct snp *snp;

    host_machine = confidential;
    *shared = true_hints;
    memcpy(shared, data, size < sizeof(*shared) ? size : sizeof(*shared));
    snp_state()->mapped = 0;
    if (snp_regions(&table) != CPC_S_OK) {
        return;
    }
    snp = snp_state();
    CHECK(snp->extents <= CPC_SNP_EXTENTS && table.count <= CPC_REGION_LIMIT);
    for (uint32_t i = 0; i < snp->extents; i++) {
        const struct cpc_snp_extent *e = &snp->extent[i];
        uint64_t next = i + 1 < snp->extents ? e[1].first_page : confidential->boot.max_pages;
        CHECK(e->gpa < CPC_SNP_TRUSTED_GPA && e->pages != 0);
        CHECK(e->pages <= (CPC_SNP_TRUSTED_GPA - e->gpa) / CPC_PAGE_SIZE);
        CHECK(e->first_page < next && e->pages <= next - e->first_page);
    }
}

/* What a host may have written when an exit comes back. */
struct reply {
    uint64_t info_1;
    uint64_t info_2;
    uint64_t psc;            /* the header of the list */
    uint32_t status;         /* of a call */
    uint8_t  bounce[64];
};
static struct reply reply;

static void spoil(struct host_machine *machine, struct ghcb *ghcb)
{
    struct cpc_pcall *pcall = (void *)(machine->shm + CPC_SHM_PCALL);

    ghcb->exit_info_1 = reply.info_1;
    ghcb->exit_info_2 = reply.info_2;
    memcpy(ghcb->buffer, &reply.psc, sizeof(reply.psc));
    pcall->status = reply.status == CPC_P_PENDING ? CPC_P_OK : reply.status;
    memcpy(machine->shm + CPC_SHM_BOUNCE, reply.bounce, sizeof(reply.bounce));
}

/* An insert, a conversion and a freeze with a GHCB that comes back as anything:
   each is done, or has failed with a code. */
static void take_reply(const uint8_t *data, size_t size)
{
    static uint8_t page[CPC_PAGE_SIZE], kinds[64];
    uint32_t entry = 0;
    struct cpc_region_table table;

    host_machine = confidential;
    host_hvcpu = 0;
    *host_hints(confidential) = true_hints;
    snp_state()->mapped = 0;
    CHECK_IS(snp_regions(&table), CPC_S_OK);
    host_rmp_set(confidential, 10, false, false);
    memset(&reply, 0, sizeof(reply));
    memcpy(&reply, data, size < sizeof(reply) ? size : sizeof(reply));
    confidential->snp->spoil = spoil;
    memset(page, (int)size, sizeof(page));
    const struct rmp_entry *e = &confidential->snp->rmp[10];
    if (platform()->insert(&table.region[0], 10, 1, &entry, CPC_KIND_PRIVATE, page) ==
        CPC_P_OK) {
        CHECK(e->private && e->validated);
        CHECK(memcmp(confidential->region[0].memory + 10 * CPC_PAGE_SIZE, page,
                     CPC_PAGE_SIZE) == 0);
        entry = MEMORY_ENTRY(CPC_KIND_PRIVATE, 1);
        platform()->clear(&table.region[0], 10, 1, &entry, CPC_KIND_ABSENT);
        CHECK(!e->validated);
    }
    if (platform()->kinds(&table.region[0], 0, 64, kinds) == CPC_P_OK) {
        for (uint32_t i = 0; i < 64; i++) {
            CHECK(kinds[i] <= CPC_KIND_SHARED);
        }
    }
    confidential->snp->keeps_running = true;
    platform()->freeze();
    platform()->release();
    confidential->snp->spoil = NULL;
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
    case FUZZ_HINTS:
        judge_hints(data + 1, size - 1);
        break;
    case FUZZ_REPLY:
        take_reply(data + 1, size - 1);
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
    case FUZZ_HINTS:
        memcpy(data + 1, &true_hints, sizeof(true_hints));
        return 1 + sizeof(true_hints);
    case FUZZ_REPLY:
        /* a page state change as it comes back when it is done */
        memset(data + 1, 0, sizeof(struct reply));
        data[1 + offsetof(struct reply, psc)] = 1;
        return 1 + sizeof(struct reply);
    default:
        memset(data + 1, 0, 300);
        return 301;
    }
}
