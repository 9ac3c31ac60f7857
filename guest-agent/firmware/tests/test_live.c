/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Migrations with everything running: two streams on two hvCPUs, hosts that
 * pump, and a guest that writes, zeroes and gives pages back until the freeze.
 */
#include "driver.h"

#include <fcntl.h>

#define STREAMS 2u

struct writer {
    struct host_machine *machine;
    pthread_t thread;
    bool stop;
    uint64_t writes;
};

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void write_something(struct host_machine *machine, uint64_t luck)
{
    uint32_t region = luck % 9 == 0 ? 1 : 0;
    uint64_t page = (luck >> 8) % machine->table.region[region].pages;

    if (luck % 16 == 1) {        /* the balloon takes a page; a platform that
                                    discards one says so in the dirty hint */
        fallocate(machine->region[region].fd,
                  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (int64_t)(page * CPC_PAGE_SIZE), CPC_PAGE_SIZE);
        mark_dirty(machine, region, page);
    } else {
        touch_page(machine, region, page, luck % 5 == 0 ? 0 : luck);
    }
}

static void *write_always(void *argument)
{
    struct writer *writer = argument;
    uint64_t state = 88172645463325252ull;

    while (!__atomic_load_n(&writer->stop, __ATOMIC_ACQUIRE)) {
        pthread_rwlock_rdlock(&writer->machine->gvcpus_run);
        if (!writer->machine->frozen) {
            write_something(writer->machine, next(&state));
            writer->writes++;
        }
        pthread_rwlock_unlock(&writer->machine->gvcpus_run);
    }
    return NULL;
}

static void start_writer(struct writer *writer, struct host_machine *machine)
{
    *writer = (struct writer){ .machine = machine };
    CHECK(pthread_create(&writer->thread, NULL, write_always, writer) == 0);
}

static void stop_writer(struct writer *writer)
{
    __atomic_store_n(&writer->stop, true, __ATOMIC_RELEASE);
    pthread_join(writer->thread, NULL);
    CHECK(writer->writes > 0);
}

static void round_of(struct pair *pair, uint32_t round, uint64_t flags)
{
    double deadline = now() + DEADLINE_SECONDS;

    for (uint32_t s = 0; s < STREAMS; s++) {
        uint64_t arg[6] = { s, STREAMS, round, flags };
        post(pair->source, s, CPC_OP_SEND, arg, NULL, 0);
    }
    while (!answered(pair->source, 0) || !answered(pair->source, 1)) {
        pump(pair->source, pair->destination, 0);
        pump(pair->source, pair->destination, 1);
        pause_until(deadline, "a round");
    }
    CHECK_IS(take_answer(pair->source, 0).status, CPC_S_OK);
    CHECK_IS(take_answer(pair->source, 1).status, CPC_S_OK);
}

static void run_handover(struct pair *pair)
{
    double deadline = now() + DEADLINE_SECONDS;
    uint64_t arg[6] = { STREAMS };
    struct answer answer;

    post(pair->source, 0, CPC_OP_STATE, arg, NULL, 0);
    while (!answered(pair->destination, 0) || !answered(pair->destination, 1)) {
        pump(pair->source, pair->destination, 0);
        pump(pair->source, pair->destination, 1);
        pause_until(deadline, "the manifest");
    }
    CHECK_IS(take_answer(pair->source, 0).status, CPC_S_OK);
    CHECK_IS(take_answer(pair->destination, 0).status, CPC_S_OK);
    CHECK_IS(take_answer(pair->destination, 1).status, CPC_S_OK);
    CHECK(same_memory(pair));
    load_devices(pair->destination, 0xd5);
    answer = call(pair->destination, CPC_OP_PREPARE, 0, 0, NULL, 0);
    CHECK_IS(answer.status, CPC_S_OK);
    answer = call(pair->source, CPC_OP_COMMIT, 0, 0, answer.payload, answer.size);
    CHECK_IS(answer.status, CPC_S_OK);
    answer = call(pair->destination, CPC_OP_RUN, 0, 0, answer.payload, answer.size);
    CHECK_IS(answer.status, CPC_S_OK);
    answer = call(pair->source, CPC_OP_FINISH, 0, 0, answer.payload, answer.size);
    CHECK_IS(answer.status, CPC_S_OK);
}

static void migrate_live(struct pair *pair)
{
    struct writer writer;

    pair_open(pair, 0x1e);
    for (uint32_t s = 0; s < STREAMS; s++) {
        uint64_t arg[6] = { s };
        post(pair->destination, s, CPC_OP_RECV, arg, NULL, 0);
    }
    start_writer(&writer, pair->source);
    round_of(pair, 1, CPC_SEND_FULL);
    for (uint32_t round = 2; round < 6; round++) {
        round_of(pair, round, 0);
    }
    CHECK_IS(call(pair->source, CPC_OP_FREEZE, 0, 0, NULL, 0).status, CPC_S_OK);
    save_devices(pair->source, 0xd5);
    round_of(pair, 6, CPC_SEND_FINAL);
    run_handover(pair);
    stop_writer(&writer);
    for (uint32_t r = 0; r < pair->source->table.count; r++) {
        CHECK(resident_pages(pair->destination, r) <= resident_pages(pair->source, r));
    }
}

static void five_hops_under_a_writer(void)
{
    struct pair pair = pair_new(NULL, NULL);

    fill_guest(pair.source, 3);
    for (int hop = 0; hop < 5; hop++) {
        migrate_live(&pair);
        host_machine_free(pair.source);
        pair.source = pair.destination;
        struct host_layout layout = standard_layout;
        layout.incoming = true;
        pair.destination = host_machine_new(&layout);
        host_machine_start(pair.destination);
    }
    pair_free(&pair);
}

/* A guest of which nothing was ever written stays so on both sides. */
static void untouched_guest_stays_untouched(void)
{
    struct pair pair = pair_new(NULL, NULL);
    struct wire wire = { 0 };

    pair_open(&pair, 0x1e);
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    finish_source(&pair, 2, &wire);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    CHECK(wire_find(&wire, CPC_RECORD_PAGES, 0) == NULL);
    for (uint32_t r = 0; r < 3; r++) {
        CHECK_IS(resident_pages(pair.source, r), 0);
        CHECK_IS(resident_pages(pair.destination, r), 0);
    }
    wire_free(&wire);
    pair_free(&pair);
}

/* A page that was sent and then given back is gone on the destination too. */
static void page_given_back_is_erased(void)
{
    struct pair pair = pair_new(NULL, NULL);
    struct wire wire = { 0 };

    touch_page(pair.source, 0, 700, 1);
    touch_page(pair.source, 0, 701, 2);
    pair_open(&pair, 0x1e);
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    fallocate(pair.source->region[0].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              700 * CPC_PAGE_SIZE, CPC_PAGE_SIZE);
    finish_source(&pair, 2, &wire);
    struct cpc_record *record = wire_find(&wire, CPC_RECORD_KIND, 0);
    CHECK(record != NULL);
    CHECK_IS(record->count, 1);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    CHECK_IS(resident_pages(pair.destination, 0), 1);
    load_devices(pair.destination, 0xd5);
    CHECK_IS(call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0).status, CPC_S_OK);
    wire_free(&wire);
    pair_free(&pair);
}

/* Changed from private to shared without a write: sent again, with the kind. */
static void page_that_became_shared_is_sent_again(void)
{
    struct pair pair = pair_new(NULL, NULL);
    struct wire wire = { 0 };

    touch_page(pair.source, 0, 700, 1);
    pair_open(&pair, 0x1e);
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    pair.source->region[0].shared[700] = 1;
    finish_source(&pair, 2, &wire);
    struct cpc_record *record = wire_find(&wire, CPC_RECORD_PAGES, 1);
    CHECK(record != NULL);
    CHECK_IS(record->kind, CPC_KIND_SHARED);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    CHECK(same_memory(&pair));
    wire_free(&wire);
    pair_free(&pair);
}

/* What was private is erased before it is shared: the erase is not left out. */
static void page_that_became_shared_is_erased_first(void)
{
    struct pair pair = pair_new(NULL, NULL);
    struct wire wire = { 0 };

    touch_page(pair.source, 0, 700, 1);
    pair_open(&pair, 0x1e);
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    pair.source->region[0].shared[700] = 1;
    finish_source(&pair, 2, &wire);
    pair.destination->fail[CPC_PCALL_ERASE] = CPC_P_FAILED;
    struct answer answer = import_call(pair.destination, 0, 0, &wire);
    if (pair.destination->snp == NULL) {     /* else see test_snp.c */
        CHECK_IS(answer.status, CPC_S_PLATFORM);
        CHECK_IS(answer.result[0], CPC_PCALL_ERASE);
    }
    wire_free(&wire);
    pair_free(&pair);
}

static const struct test tests[] = {
    { "page_that_became_shared_is_erased_first",
      page_that_became_shared_is_erased_first },
    { "five_hops_under_a_writer", five_hops_under_a_writer },
    { "untouched_guest_stays_untouched", untouched_guest_stays_untouched },
    { "page_given_back_is_erased", page_given_back_is_erased },
    { "page_that_became_shared_is_sent_again", page_that_became_shared_is_sent_again },
};
TEST_MAIN(tests)
