/* SPDX-License-Identifier: Apache-2.0 */
/* Two models of SEV-SNP machines and what the tests on them have in common. */
#ifndef CPC_TESTS_SNP_PAIR_H
#define CPC_TESTS_SNP_PAIR_H

#include "driver.h"
#include "platform.h"
#include "snp_machine.h"
#include "snp/vmsa.h"

#define ALL 0x1eu

/* Of the one test program that includes this. */
static struct pair pair;
static struct wire wire;

static inline void begin(void)
{
    host_all_snp = true;
    pair = pair_new(NULL, NULL);
}

static inline void end(void)
{
    wire_free(&wire);
    pair_free(&pair);
}

static inline struct rmp_entry *rmp(struct host_machine *machine, uint32_t region, uint64_t page)
{
    return &machine->snp->rmp[machine->table.region[region].first_page + page];
}

static inline uint32_t version_of(struct host_machine *machine, uint64_t page)
{
    host_machine = machine;
    return runtime_get()->versions[page];
}

/* The rest of a migration, from the round before the last. */
static inline void finish(uint32_t round)
{
    finish_source(&pair, round, &wire);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    load_devices(pair.destination, 0xd5);
}

static inline struct answer prepare_and_commit(void)
{
    struct answer token = call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0);
    CHECK_IS(token.status, CPC_S_OK);
    token = call(pair.source, CPC_OP_COMMIT, 0, 0, token.payload, token.size);
    CHECK_IS(token.status, CPC_S_OK);
    return token;
}

static inline void is_hardware(struct answer answer, uint32_t what, uint32_t code)
{
    CHECK_IS(answer.status, CPC_S_HARDWARE);
    CHECK_IS(answer.result[0], what);
    CHECK_IS(answer.result[1], code);
}

#endif
