/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record header: pure functions that fill and judge one. Every way a
 * header can be wrong has its own status.
 */
#ifndef CPC_CORE_RECORD_H
#define CPC_CORE_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "cpc_abi.h"
#include "crypto.h"

#define RECORD_EPOCH        1u           /* resumption will open further ones */
#define RECORD_VERSION_MAX  0x3fffffffu  /* 30 bits of the version table */

/* One direction of one stream: whose key, and how far it has come. */
struct channel {
    const struct cpc_suite *suite;
    uint8_t key[CPC_KEY_MAX];
    uint8_t session[16];
    uint64_t sequence;       /* of the next record; never goes back */
    uint32_t epoch;
    uint16_t stream;
    uint8_t streams;         /* 0 while a receiver has not seen a record */
    uint8_t direction;       /* CPC_ROLE_* of the sender */
};

/* What the caller decides about a record; the channel knows the rest. */
struct record_body {
    uint8_t type;
    uint8_t kind;
    uint64_t address;
    uint32_t version;
    uint32_t count;
    uint32_t length;
};

/* Bytes of the whole record on the wire. */
static inline uint64_t record_size(uint32_t length)
{
    return (sizeof(struct cpc_record) + (uint64_t)length +
            CPC_RECORD_ALIGN - 1) & ~(uint64_t)(CPC_RECORD_ALIGN - 1);
}

#define RECORD_SIZE_MAX (sizeof(struct cpc_record) + CPC_RUN_BYTES)

/* Header without its tag, and the nonce, for the channel's next record. */
void record_fill(struct cpc_record *record, const struct channel *channel,
                 const struct record_body *body);
void record_nonce(uint8_t nonce[16], uint64_t sequence, uint32_t epoch);

/* CPC_S_OK or the CPC_S_WIRE_* that says what is wrong with a header. */
uint32_t record_check(const struct cpc_record *record,
                      const struct channel *channel);

#endif
