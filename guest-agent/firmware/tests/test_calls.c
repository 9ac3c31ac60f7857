/* SPDX-License-Identifier: Apache-2.0 */
/* Calls: answered once, while others wait, when the platform refuses, and when their hvCPU dies. */
#include "driver.h"

#define ALL 0x1eu

static struct pair pair;

static void ping(void)
{
    pair = pair_new(NULL, NULL);
    for (uint64_t i = 0; i < 3; i++) {
        struct answer answer = call(pair.source, CPC_OP_PING, 0, 0, NULL, 0);
        struct cpc_ping_reply reply;
        CHECK_IS(answer.status, CPC_S_OK);
        CHECK_IS(answer.size, sizeof(reply));
        memcpy(&reply, answer.payload, sizeof(reply));
        CHECK_IS(reply.abi, CPC_ABI_VERSION);
        CHECK_IS(reply.calls, i);
        CHECK(reply.suites != 0 && reply.version[0] != 0);
    }
    pair_free(&pair);
}

static uint32_t speed(uint64_t suite, uint64_t direction, uint64_t records)
{
    uint64_t arg[6] = { suite, direction, records };

    post(pair.source, 0, CPC_OP_SPEED, arg, NULL, 0);
    return take_answer(pair.source, 0).status;
}

/* Every suite that ping names, both ways, and nothing that it does not name. */
static void speed_of_suites(void)
{
    struct cpc_ping_reply reply;

    pair = pair_new(NULL, NULL);
    struct answer answer = call(pair.source, CPC_OP_PING, 0, 0, NULL, 0);
    memcpy(&reply, answer.payload, sizeof(reply));
    for (uint64_t suite = 0; suite < 64; suite++) {
        bool there = suite < 32 && (reply.suites & CPC_SUITE_BIT(suite)) != 0;
        uint32_t expected = there ? CPC_S_OK : CPC_S_BAD_ARGUMENT;
        CHECK_IS(speed(suite, CPC_SPEED_SEAL, 3), expected);
        CHECK_IS(speed(suite, CPC_SPEED_OPEN, 3), expected);
    }
    uint64_t some = CPC_SUITE_CHACHA20POLY1305;
    CHECK_IS(speed(some, 0, 1), CPC_S_BAD_ARGUMENT);
    CHECK_IS(speed(some, 3, 1), CPC_S_BAD_ARGUMENT);
    CHECK_IS(speed(some | 1ull << 32, CPC_SPEED_SEAL, 1), CPC_S_BAD_ARGUMENT);
    CHECK_IS(speed(some, CPC_SPEED_SEAL, 0), CPC_S_BAD_ARGUMENT);
    CHECK_IS(speed(some, CPC_SPEED_SEAL, CPC_SPEED_RECORDS_MAX + 1), CPC_S_BAD_ARGUMENT);
    pair_free(&pair);
}

/* A host that asks for the most can take it back. */
static void speed_can_be_cancelled(void)
{
    uint64_t arg[6] = { CPC_SUITE_CHACHA20POLY1305, CPC_SPEED_OPEN, CPC_SPEED_RECORDS_MAX };

    pair = pair_new(NULL, NULL);
    host_mailbox(pair.source, 0)->cancel = host_mailbox(pair.source, 0)->request + 1;
    post(pair.source, 0, CPC_OP_SPEED, arg, NULL, 0);
    CHECK_IS(take_answer(pair.source, 0).status, CPC_S_CANCELLED);
    pair_free(&pair);
}

static void unknown_calls(void)
{
    static const uint32_t ops[] = { 0, 3, 0x10000, 0x1000f, 0x1ffff, 0x20001,
                                    0xffffffff };
    static const uint8_t page[CPC_PAYLOAD_MAX];

    pair = pair_new(NULL, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
        CHECK_IS(call(pair.source, ops[i], 0, 0, NULL, 0).status, CPC_S_UNKNOWN_OP);
    }
    CHECK_IS(call(pair.source, CPC_OP_PING, 0, 0, page, CPC_PAYLOAD_MAX + 1).status,
             CPC_S_BAD_PAYLOAD);
    CHECK_IS(call(pair.source, CPC_OP_PING, 0, 0, page, UINT32_MAX).status,
             CPC_S_BAD_PAYLOAD);
    pair_free(&pair);
}

static void a_wake_without_a_request_means_nothing(void)
{
    pair = pair_new(NULL, NULL);
    call(pair.source, CPC_OP_PING, 0, 0, NULL, 0);
    for (int i = 0; i < 100; i++) {
        host_wake(pair.source, 0);
    }
    struct answer answer = call(pair.source, CPC_OP_PING, 0, 0, NULL, 0);
    CHECK_IS(((struct cpc_ping_reply *)(void *)answer.payload)->calls, 1);
    pair_free(&pair);
}

static void wait_for_yield(struct host_machine *machine, uint32_t hvcpu)
{
    double deadline = now() + DEADLINE_SECONDS;
    while (__atomic_load_n(&host_mailbox(machine, hvcpu)->state, __ATOMIC_SEQ_CST) !=
           CPC_STATE_YIELDED) {
        pause_until(deadline, "a yield");
    }
}

static void busy_while_a_stream_runs(void)
{
    uint64_t arg[6] = { 0 };

    pair = pair_new(NULL, NULL);
    pair_open(&pair, ALL);
    post(pair.destination, 0, CPC_OP_RECV, arg, NULL, 0);
    wait_for_yield(pair.destination, 0);
    post(pair.destination, 1, CPC_OP_RECV, arg, NULL, 0);
    CHECK_IS(take_answer(pair.destination, 1).status, CPC_S_BUSY);
    post(pair.destination, 1, CPC_OP_ABORT, arg, NULL, 0);
    CHECK_IS(take_answer(pair.destination, 1).status, CPC_S_BUSY);
    post(pair.destination, 1, CPC_OP_QUERY, arg, NULL, 0);
    CHECK_IS(take_answer(pair.destination, 1).status, CPC_S_OK);
    cancel(pair.destination, 0);
    CHECK_IS(take_answer(pair.destination, 0).status, CPC_S_CANCELLED);
    CHECK_IS(query(pair.destination).failure, CPC_S_CANCELLED);
    CHECK_IS(call(pair.destination, CPC_OP_ABORT, 0, 0, NULL, 0).status, CPC_S_OK);
    pair_free(&pair);
}

static void fill_ring(void)
{
    uint64_t arg[6] = { 0, 1, 1, CPC_SEND_FULL };

    pair = pair_new(NULL, NULL);
    pair_open(&pair, ALL);
    for (uint64_t page = 0; page < 2000; page++) {
        touch_page(pair.source, 0, page, page + 1);
    }
    post(pair.source, 0, CPC_OP_SEND, arg, NULL, 0);
    wait_for_yield(pair.source, 0);
}

static void cancel_while_the_ring_is_full(void)
{
    fill_ring();
    cancel(pair.source, 0);
    CHECK_IS(take_answer(pair.source, 0).status, CPC_S_CANCELLED);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK_IS(call(pair.source, CPC_OP_OPEN, CPC_ROLE_SOURCE, ALL, NULL, 0).status, CPC_S_OK);
    CHECK_IS(host_ring(pair.source, 0)->head, 0);
    CHECK_IS(host_ring(pair.source, 0)->tail, 0);
    pair_free(&pair);
}

/* Removed while it had yielded, added again: the call is over, the session too. */
static void hvcpu_removed_in_a_call(void)
{
    fill_ring();
    host_hvcpu_kill(pair.source, 0);
    host_hvcpu_add(pair.source, 0);
    CHECK_IS(take_answer(pair.source, 0).status, CPC_S_FAULT);
    CHECK_IS(query(pair.source).failure, CPC_S_FAULT);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    pair_free(&pair);
}

/* The host has taken the request back meanwhile: nobody waits for an answer, and
   what is left in the mailbox is no call. */
static void hvcpu_removed_in_a_call_taken_back(void)
{
    fill_ring();
    host_hvcpu_kill(pair.source, 0);
    struct cpc_mailbox *mailbox = host_mailbox(pair.source, 0);
    uint32_t done = mailbox->done;
    mailbox->request = done;
    mailbox->op = CPC_OP_RESUME;
    host_hvcpu_add(pair.source, 0);
    double deadline = now() + DEADLINE_SECONDS;
    while (!host_asleep(pair.source, 0)) {
        pause_until(deadline, "the hvCPU to park");
    }
    CHECK_IS(mailbox->done, done);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_FAILED);
    CHECK_IS(query(pair.source).failure, CPC_S_FAULT);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    pair_free(&pair);
}

/* Taken back, and another call is there instead, of a new number: it is the one that is
   run and answered. */
static void hvcpu_removed_in_a_call_replaced(void)
{
    uint64_t arg[6] = { 0 };

    fill_ring();
    host_hvcpu_kill(pair.source, 0);
    host_mailbox(pair.source, 0)->cancel = host_mailbox(pair.source, 0)->request;
    post(pair.source, 0, CPC_OP_PING, arg, NULL, 0);
    host_hvcpu_add(pair.source, 0);
    CHECK_IS(take_answer(pair.source, 0).status, CPC_S_OK);
    CHECK_IS(query(pair.source).failure, CPC_S_FAULT);
    pair_free(&pair);
}

static void fault_ends_the_call_only(void)
{
    struct wire wire = { 0 };

    pair = pair_new(NULL, NULL);
    pair_open(&pair, ALL);
    pair.source->crash[CPC_PCALL_KINDS] = true;
    struct answer answer = send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire);
    CHECK_IS(answer.status, CPC_S_FAULT);
    CHECK_IS(answer.fault[0], 14);
    CHECK_IS(answer.fault[2], 0xdead0);
    CHECK_IS(pair.source->faults, 1);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_FAILED);
    CHECK_IS(send_round(pair.source, 0, 1, 2, CPC_SEND_FULL, &wire).status,
             CPC_S_SESSION_FAILED);
    pair.source->crash[CPC_PCALL_KINDS] = false;
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    wire_free(&wire);
    pair_free(&pair);
}

static void platform_refuses(uint32_t pcall)
{
    struct wire wire = { 0 };

    pair = pair_new(NULL, NULL);
    pair_open(&pair, ALL);
    fill_guest(pair.source, 7);
    pair.source->fail[pcall] = CPC_P_FAILED;
    struct answer answer = send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire);
    CHECK_IS(answer.status, CPC_S_PLATFORM);
    CHECK_IS(answer.result[0], pcall);
    CHECK_IS(answer.result[1], CPC_P_FAILED);
    wire_free(&wire);
    pair_free(&pair);
}

static void platform_refuses_kinds(void)
{
    platform_refuses(CPC_PCALL_KINDS);
}

static void platform_refuses_copy_out(void)
{
    platform_refuses(CPC_PCALL_COPY_OUT);
}

static void platform_refuses_the_freeze(void)
{
    pair = pair_new(NULL, NULL);
    pair_open(&pair, ALL);
    pair.source->fail[CPC_PCALL_FREEZE] = CPC_P_FAILED;
    struct answer answer = call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0);
    CHECK_IS(answer.status, CPC_S_PLATFORM);
    CHECK_IS(answer.result[0], CPC_PCALL_FREEZE);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK_IS(call(pair.source, CPC_OP_OPEN, CPC_ROLE_SOURCE, ALL, NULL, 0).status, CPC_S_OK);
    pair_free(&pair);
}

#define T(name) { #name, name }
static const struct test tests[] = {
    T(ping), T(speed_of_suites), T(speed_can_be_cancelled), T(unknown_calls), T(a_wake_without_a_request_means_nothing),
    T(busy_while_a_stream_runs), T(cancel_while_the_ring_is_full),
    T(hvcpu_removed_in_a_call), T(hvcpu_removed_in_a_call_taken_back),
    T(hvcpu_removed_in_a_call_replaced), T(fault_ends_the_call_only),
    T(platform_refuses_kinds), T(platform_refuses_copy_out),
    T(platform_refuses_the_freeze),
};
TEST_MAIN(tests)
