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

static const struct test tests[] = {
    { "migrate_with_every_suite", every_suite },
};
TEST_MAIN(tests)
