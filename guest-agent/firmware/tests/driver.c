/* SPDX-License-Identifier: Apache-2.0 */
/* Calls and ciphertext: what a controller does, without a controller. */
#include "driver.h"

#include <sched.h>
#include <time.h>

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void pause_until(double deadline, const char *waiting_for)
{
    if (now() > deadline) {
        fprintf(stderr, "deadline passed, waiting for %s\n", waiting_for);
        abort();
    }
    sched_yield();
}

bool all_zero(const void *data, size_t size)
{
    const uint8_t *bytes = data;

    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

void no_keys(struct host_machine *machine)
{
    struct migrate_session *session = session_of(machine);

    CHECK(all_zero(&session->secret, sizeof(session->secret)));
    CHECK(all_zero(session->signer_private, sizeof(session->signer_private)));
    for (uint32_t i = 0; i < MIGRATE_STREAMS; i++) {
        CHECK(all_zero(session->stream[i].channel.key, CPC_KEY_MAX));
    }
}

int test_main(int argc, char **argv, const struct test *tests, size_t count)
{
    const char *name = getenv("CPC_TEST_PLATFORM");

    host_all_snp = name != NULL && strcmp(name, "sev-snp") == 0;
    for (size_t i = 0; i < count; i++) {
        bool wanted = argc == 1;
        for (int a = 1; a < argc; a++) {
            wanted |= strcmp(argv[a], tests[i].name) == 0;
        }
        if (wanted) {
            double start = now();
            tests[i].run();
            printf("ok %-48s %7.1f ms\n", tests[i].name, (now() - start) * 1e3);
            fflush(stdout);
        }
    }
    return 0;
}

void post(struct host_machine *machine, uint32_t hvcpu, uint32_t op,
          const uint64_t arg[6], const void *payload, uint32_t size)
{
    struct cpc_mailbox *mailbox = host_mailbox(machine, hvcpu);

    mailbox->op = op;
    memcpy(mailbox->arg, arg, sizeof(mailbox->arg));
    mailbox->payload_size = size;
    if (size != 0) {
        memcpy(mailbox->payload, payload,
               size < CPC_PAYLOAD_MAX ? size : CPC_PAYLOAD_MAX);
    }
    __atomic_store_n(&mailbox->request, mailbox->request + 1, __ATOMIC_RELEASE);
    host_wake(machine, hvcpu);
}

bool answered(struct host_machine *machine, uint32_t hvcpu)
{
    struct cpc_mailbox *mailbox = host_mailbox(machine, hvcpu);
    return __atomic_load_n(&mailbox->done, __ATOMIC_ACQUIRE) == mailbox->request;
}

struct answer take_answer(struct host_machine *machine, uint32_t hvcpu)
{
    struct cpc_mailbox *mailbox = host_mailbox(machine, hvcpu);
    double deadline = now() + DEADLINE_SECONDS;
    struct answer answer = { 0 };

    while (!answered(machine, hvcpu)) {
        pause_until(deadline, "an answer");
    }
    answer.status = mailbox->status;
    answer.size = mailbox->reply_size;
    memcpy(answer.result, mailbox->result, sizeof(answer.result));
    memcpy(answer.fault, mailbox->fault, sizeof(answer.fault));
    memcpy(answer.payload, mailbox->payload, sizeof(answer.payload));
    return answer;
}

void cancel(struct host_machine *machine, uint32_t hvcpu)
{
    struct cpc_mailbox *mailbox = host_mailbox(machine, hvcpu);
    __atomic_store_n(&mailbox->cancel, mailbox->request, __ATOMIC_SEQ_CST);
    host_wake(machine, hvcpu);
}

struct answer call(struct host_machine *machine, uint32_t op, uint64_t arg0,
                   uint64_t arg1, const void *payload, uint32_t size)
{
    uint64_t arg[6] = { arg0, arg1 };
    post(machine, 0, op, arg, payload, size);
    return take_answer(machine, 0);
}

void wire_append(struct wire *wire, const void *bytes, size_t size)
{
    if (wire->bytes == NULL || wire->size + size > wire->room) {
        wire->room = (wire->size + size) * 2 + 1;
        wire->bytes = realloc(wire->bytes, wire->room);
        CHECK(wire->bytes != NULL);
    }
    if (size != 0) {
        memcpy(wire->bytes + wire->size, bytes, size);
        wire->size += size;
    }
}

void wire_free(struct wire *wire)
{
    free(wire->bytes);
    *wire = (struct wire){ 0 };
}

size_t wire_record_size(const struct cpc_record *record)
{
    return record_size(record->length);
}

struct cpc_record *wire_find(const struct wire *wire, uint8_t type, uint32_t n)
{
    size_t at = 0;
    while (at + sizeof(struct cpc_record) <= wire->size) {
        struct cpc_record *record = (void *)(wire->bytes + at);
        if ((type == 0 || record->type == type) && n-- == 0) {
            return record;
        }
        at += wire_record_size(record);
    }
    return NULL;
}

void wire_cut(struct wire *wire, struct cpc_record *record)
{
    size_t size = wire_record_size(record);
    uint8_t *from = (uint8_t *)record;
    memmove(from, from + size, wire->size - (size_t)(from - wire->bytes) - size);
    wire->size -= size;
}

void wire_insert(struct wire *wire, const struct cpc_record *before,
                 const void *bytes, size_t size)
{
    size_t at = (size_t)((const uint8_t *)before - wire->bytes);
    uint8_t *copy = malloc(size);
    CHECK(copy != NULL);
    memcpy(copy, bytes, size);
    wire_append(wire, copy, size);
    memmove(wire->bytes + at + size, wire->bytes + at, wire->size - at - size);
    memcpy(wire->bytes + at, copy, size);
    free(copy);
}

/* Wake an hvCPU that gave itself back. */
static void wake_yielded(struct host_machine *machine, uint32_t hvcpu)
{
    if (__atomic_load_n(&host_mailbox(machine, hvcpu)->state, __ATOMIC_SEQ_CST) ==
        CPC_STATE_YIELDED) {
        host_wake(machine, hvcpu);
    }
}

static void drain(struct host_machine *machine, uint32_t hvcpu, struct wire *wire)
{
    struct cpc_ring *ring = host_ring(machine, hvcpu);
    uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
    uint64_t size = machine->boot.ring_size;

    CHECK(head >= ring->tail && head - ring->tail <= size);
    wire_append(wire, machine->ring[hvcpu] + ring->tail % size, head - ring->tail);
    __atomic_store_n(&ring->tail, head, __ATOMIC_SEQ_CST);
    wake_yielded(machine, hvcpu);
}

struct answer export_call(struct host_machine *machine, uint32_t hvcpu, uint32_t op,
                          const uint64_t arg[6], struct wire *wire)
{
    double deadline = now() + DEADLINE_SECONDS;

    post(machine, hvcpu, op, arg, NULL, 0);
    while (!answered(machine, hvcpu)) {
        drain(machine, hvcpu, wire);
        pause_until(deadline, "an export");
    }
    drain(machine, hvcpu, wire);
    return take_answer(machine, hvcpu);
}

/*
 * The receiver sleeps although it was given everything: it waits for what does
 * not come. Its own word, not a guess from the record it is at: a receiver that
 * is about to refuse a header does not wait for the body.
 */
static bool starved(struct host_machine *machine, uint32_t hvcpu)
{
    return host_asleep(machine, hvcpu) &&
           __atomic_load_n(&host_mailbox(machine, hvcpu)->state, __ATOMIC_SEQ_CST) ==
               CPC_STATE_YIELDED;
}

struct answer import_call(struct host_machine *machine, uint32_t hvcpu,
                          uint32_t stream, const struct wire *wire)
{
    struct cpc_ring *ring = host_ring(machine, hvcpu);
    uint64_t size = machine->boot.ring_size;
    uint64_t arg[6] = { stream };
    double deadline = now() + DEADLINE_SECONDS;

    post(machine, hvcpu, CPC_OP_RECV, arg, NULL, 0);
    while (!answered(machine, hvcpu)) {
        uint64_t tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
        uint64_t room = size - (ring->head - tail);
        uint64_t left = wire->size - ring->head;
        uint64_t step = room < left ? room : left;
        memcpy(machine->ring[hvcpu] + ring->head % size, wire->bytes + ring->head, step);
        __atomic_store_n(&ring->head, ring->head + step, __ATOMIC_SEQ_CST);
        wake_yielded(machine, hvcpu);
        if (ring->head == wire->size && starved(machine, hvcpu)) {
            cancel(machine, hvcpu);
        }
        pause_until(deadline, "an import");
    }
    return take_answer(machine, hvcpu);
}

void pump(struct host_machine *from, struct host_machine *to, uint32_t hvcpu)
{
    struct cpc_ring *out = host_ring(from, hvcpu);
    struct cpc_ring *in = host_ring(to, hvcpu);
    uint64_t there = __atomic_load_n(&out->head, __ATOMIC_ACQUIRE) - out->tail;
    uint64_t room = to->boot.ring_size -
                    (in->head - __atomic_load_n(&in->tail, __ATOMIC_ACQUIRE));
    uint64_t step = there < room ? there : room;

    memcpy(to->ring[hvcpu] + in->head % to->boot.ring_size,
           from->ring[hvcpu] + out->tail % from->boot.ring_size, step);
    __atomic_store_n(&in->head, in->head + step, __ATOMIC_SEQ_CST);
    __atomic_store_n(&out->tail, out->tail + step, __ATOMIC_SEQ_CST);
    wake_yielded(from, hvcpu);
    wake_yielded(to, hvcpu);
}
