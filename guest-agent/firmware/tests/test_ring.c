/* SPDX-License-Identifier: Apache-2.0 */
/* The ring's arithmetic, and a host that lies about its index. */
#include "driver.h"

static struct cpc_ring shared;

static struct ring ring_at_position(uint64_t own, uint64_t peer)
{
    return (struct ring){ .shared = &shared, .size = 4096, .own = own, .peer = peer };
}

static void space_of_a_producer(void)
{
    struct ring ring = ring_at_position(0, 0);
    uint64_t bytes = 0;

    CHECK_IS(ring_space(&ring, 0, &bytes), CPC_S_OK);
    CHECK_IS(bytes, 4096);
    ring = ring_at_position(5000, 1000);
    CHECK_IS(ring_space(&ring, 1000, &bytes), CPC_S_OK);
    CHECK_IS(bytes, 96);
    CHECK_IS(ring_space(&ring, 5000, &bytes), CPC_S_OK);
    CHECK_IS(bytes, 4096);
    CHECK_IS(ring.peer, 5000);
}

static void producer_refuses_absurd_tails(void)
{
    static const uint64_t absurd[] = { 999, 0, 5001, UINT64_MAX, 1ull << 63 };
    uint64_t bytes = 7;

    for (size_t i = 0; i < ARRAY_SIZE(absurd); i++) {
        struct ring ring = ring_at_position(5000, 1000);
        CHECK_IS(ring_space(&ring, absurd[i], &bytes), CPC_S_RING);
        CHECK_IS(ring.peer, 1000);
        CHECK_IS(bytes, 7);
    }
}

static void fill_of_a_consumer(void)
{
    struct ring ring = ring_at_position(1000, 1000);
    uint64_t bytes = 7;

    CHECK_IS(ring_filled(&ring, 1000, &bytes), CPC_S_OK);
    CHECK_IS(bytes, 0);
    CHECK_IS(ring_filled(&ring, 5096, &bytes), CPC_S_OK);
    CHECK_IS(bytes, 4096);
}

static void consumer_refuses_absurd_heads(void)
{
    static const uint64_t absurd[] = { 1999, 0, 999, 6097, UINT64_MAX, 1ull << 63 };
    uint64_t bytes = 7;

    for (size_t i = 0; i < ARRAY_SIZE(absurd); i++) {
        struct ring ring = ring_at_position(1000, 2000);
        CHECK_IS(ring_filled(&ring, absurd[i], &bytes), CPC_S_RING);
        CHECK_IS(bytes, 7);
    }
}

static void own_index_is_never_read_back(void)
{
    struct ring ring = ring_at_position(0, 0);

    ring_produce(&ring, 64);
    shared.head = 1ull << 40;        /* the host scribbles over it */
    ring_produce(&ring, 64);
    CHECK_IS(shared.head, 128);
    ring_reset(&ring);
    CHECK_IS(shared.head, 0);
    CHECK_IS(shared.tail, 0);
}

/* The host moves tail past head while SEND waits for room. */
static void lying_host_ends_a_send(void)
{
    struct pair pair = pair_new(NULL, NULL);
    uint64_t arg[6] = { 0, 1, 1, CPC_SEND_FULL };
    double deadline = now() + DEADLINE_SECONDS;

    pair_open(&pair, 0x1e);
    for (uint64_t page = 0; page < 2000; page++) {
        touch_page(pair.source, 0, page, page + 1);
    }
    post(pair.source, 0, CPC_OP_SEND, arg, NULL, 0);
    while (host_mailbox(pair.source, 0)->state != CPC_STATE_YIELDED) {
        pause_until(deadline, "a full ring");
    }
    __atomic_store_n(&host_ring(pair.source, 0)->tail, UINT64_MAX / 2, __ATOMIC_SEQ_CST);
    host_wake(pair.source, 0);
    CHECK_IS(take_answer(pair.source, 0).status, CPC_S_RING);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_FAILED);
    CHECK_IS(query(pair.source).failure, CPC_S_RING);
    pair_free(&pair);
}

static void lying_host_ends_a_receive(void)
{
    struct pair pair = pair_new(NULL, NULL);

    pair_open(&pair, 0x1e);
    host_ring(pair.destination, 0)->head = CPC_RING_MIN + 1;
    CHECK_IS(call(pair.destination, CPC_OP_RECV, 0, 0, NULL, 0).status, CPC_S_RING);
    CHECK_IS(call(pair.destination, CPC_OP_RECV, 0, 0, NULL, 0).status,
             CPC_S_SESSION_FAILED);
    pair_free(&pair);
}

static const struct test tests[] = {
    { "space_of_a_producer", space_of_a_producer },
    { "producer_refuses_absurd_tails", producer_refuses_absurd_tails },
    { "fill_of_a_consumer", fill_of_a_consumer },
    { "consumer_refuses_absurd_heads", consumer_refuses_absurd_heads },
    { "own_index_is_never_read_back", own_index_is_never_read_back },
    { "lying_host_ends_a_send", lying_host_ends_a_send },
    { "lying_host_ends_a_receive", lying_host_ends_a_receive },
};
TEST_MAIN(tests)
