/* SPDX-License-Identifier: Apache-2.0 */
/* Whole migrations between two machines in one process. */
#include "driver.h"

#define ALL_SUITES 0x1eu

static void handover(struct pair *pair)
{
    struct host_machine *s = pair->source;
    struct host_machine *d = pair->destination;

    load_devices(d, 0xd5);
    struct answer prepared = call(d, CPC_OP_PREPARE, 0, 0, NULL, 0);
    CHECK_IS(prepared.status, CPC_S_OK);
    CHECK_IS(prepared.size, sizeof(struct cpc_token));
    struct answer commit = call(s, CPC_OP_COMMIT, 0, 0, prepared.payload, prepared.size);
    CHECK_IS(commit.status, CPC_S_OK);
    struct answer again = call(s, CPC_OP_COMMIT, 0, 0, prepared.payload, prepared.size);
    CHECK_IS(again.status, CPC_S_OK);
    CHECK(memcmp(commit.payload, again.payload, sizeof(struct cpc_token)) == 0);
    CHECK(d->frozen);
    struct answer running = call(d, CPC_OP_RUN, 0, 0, commit.payload, commit.size);
    CHECK_IS(running.status, CPC_S_OK);
    CHECK(!d->frozen && s->frozen);
    CHECK_IS(call(s, CPC_OP_FINISH, 0, 0, running.payload, running.size).status,
             CPC_S_OK);
}

static void migrate_with(uint32_t suites, uint32_t suite)
{
    struct pair pair = pair_new(NULL, NULL);
    struct wire wire = { 0 };

    fill_guest(pair.destination, 99);       /* to be erased */
    pair_open(&pair, suites);
    CHECK_IS(resident_pages(pair.destination, 0), 0);
    CHECK_IS(query(pair.source).suite, suite);
    make_wire(&pair, &wire);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    CHECK_IS(query(pair.destination).phase, CPC_PHASE_MANIFEST);
    memset(pair.destination->gvcpu, 0, sizeof(pair.destination->gvcpu));
    handover(&pair);
    for (uint32_t r = 0; r < 3; r++) {
        CHECK(resident_pages(pair.destination, r) <= resident_pages(pair.source, r));
    }
    CHECK(same_memory(&pair));
    CHECK(memcmp(pair.source->gvcpu, pair.destination->gvcpu,
                 sizeof(pair.source->gvcpu)) == 0);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_RUNNING);
    CHECK_IS(query(pair.destination).phase, CPC_PHASE_RUNNING);
    wire_free(&wire);
    pair_free(&pair);
}

static void every_suite(void)
{
    CHECK(crypto_init() != 0);
    for (uint32_t suite = 1; suite <= CPC_SUITE_CHACHA20POLY1305; suite++) {
        if (crypto_suite(suite) != NULL) {
            migrate_with(CPC_SUITE_BIT(suite), suite);
        }
    }
}

/* Not all together after the last page: the other side would be at them for long, and
   the guest might stand still meanwhile. */
static void zero_pages_go_early(void)
{
    struct pair pair = pair_new(NULL, NULL);
    struct wire wire = { 0 };

    for (uint64_t page = 0; page < 2599; page++) {
        touch_page(pair.source, 0, page, 0);
    }
    touch_page(pair.source, 0, 2599, 7);
    pair_open(&pair, ALL_SUITES);
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    const struct cpc_record *zero = wire_find(&wire, CPC_RECORD_ZERO, 0);
    const struct cpc_record *page = wire_find(&wire, CPC_RECORD_PAGES, 0);
    CHECK(zero != NULL && page != NULL && zero < page);
    CHECK(wire_find(&wire, CPC_RECORD_ZERO, 1) > page);
    wire_free(&wire);
    pair_free(&pair);
}

static const struct test tests[] = {
    { "migrate_with_every_suite", every_suite },
    { "zero_pages_go_early", zero_pages_go_early },
};
TEST_MAIN(tests)
