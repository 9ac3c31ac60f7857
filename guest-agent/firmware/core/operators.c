/* SPDX-License-Identifier: Apache-2.0 */
#include "operators.h"

#include "platform.h"

_Static_assert(RECORD_SIZE_MAX <= CPC_RING_MIN, "a record always fits a ring");

static void count_record(struct call *call, uint64_t bytes)
{
    call->progress.records++;
    call->progress.bytes += bytes;
    call_publish_progress(call);
}

/*
 * Seal into the ring. `plaintext` is guest memory only when `guest` is set;
 * then it is read exactly once, and so is nothing in the ring: a suite that
 * may look twice works on the trusted buffer instead.
 */
static uint32_t seal(struct call *call, struct channel *channel,
                     const struct record_body *body, const uint8_t *plaintext,
                     bool guest, uint8_t *tag)
{
    const struct cpc_suite *suite = channel->suite;
    struct ring *ring = &call->hvcpu->ring;
    uint64_t size = record_size(body->length);
    struct cpc_record record;
    uint8_t nonce[16];

    if (call_cancelled(call)) {
        return CPC_S_CANCELLED;
    }
    uint32_t status = ring_wait_space(call, size);
    if (status != CPC_S_OK) {
        return status;
    }
    record_fill(&record, channel, body);
    record_nonce(nonce, channel->sequence, channel->epoch);
    channel->sequence++;     /* before use: no path can use it twice */

    uint8_t *out = ring_at(ring);
    uint8_t *ciphertext = out + sizeof(record);
    uint8_t *work = suite->single_load ? ciphertext : call->hvcpu->buffer;
    if (!suite->single_load && guest) {
        arch_copy_pages(work, plaintext, body->count);
        plaintext = work;
    }
    if (suite->seal(work, record.tag, plaintext, body->length,
                    (const uint8_t *)&record, CPC_RECORD_AAD, nonce,
                    channel->key) != 0) {
        return CPC_S_CRYPTO;
    }
    if (work != ciphertext) {
        memcpy(ciphertext, work, body->length);
    }
    memset(ciphertext + body->length, 0, size - sizeof(record) - body->length);
    memcpy(out, &record, sizeof(record));
    ring_produce(ring, size);
    if (tag != NULL) {
        memcpy(tag, record.tag, CPC_TAG_MAX);
    }
    count_record(call, size);
    return CPC_S_OK;
}

uint32_t operator_mee(struct call *call, struct channel *channel,
                      struct record_body *body, const struct cpc_region *region,
                      uint64_t page, uint8_t *bounce)
{
    body->address = CPC_ADDRESS(region->id, page);
    const uint8_t *bytes = NULL;
    uint32_t status = platform()->read(region, page, &body->count, body->kind, bounce,
                                       &bytes);
    if (status != CPC_P_OK) {
        return call_platform(call, CPC_PCALL_COPY_OUT, status);
    }
    body->length = body->count * CPC_PAGE_SIZE;
    return body->count == 0
               ? CPC_S_OK
               : seal(call, channel, body, bytes, bytes != bounce, NULL);
}

uint32_t operator_see(struct call *call, struct channel *channel,
                      const struct record_body *body, const void *state,
                      uint8_t *tag)
{
    return seal(call, channel, body, state, false, tag);
}

static uint32_t open_body(struct call *call, struct channel *channel,
                          const struct cpc_record *record)
{
    struct ring *ring = &call->hvcpu->ring;
    uint8_t *buffer = call->hvcpu->buffer;
    uint64_t size = record_size(record->length);
    const uint8_t *in = ring_at(ring) + sizeof(*record);
    const uint8_t *from = in;
    uint8_t padding[CPC_RECORD_ALIGN];
    uint8_t nonce[16];
    size_t pad = size - sizeof(*record) - record->length;

    if (!channel->suite->single_load) {
        copy_shared(buffer, in, record->length);
        from = buffer;
    }
    copy_shared(padding, in + record->length, pad);
    for (size_t i = 0; i < pad; i++) {   /* < CPC_RECORD_ALIGN */
        if (padding[i] != 0) {
            return CPC_S_WIRE_PADDING;
        }
    }
    record_nonce(nonce, channel->sequence, channel->epoch);
    if (channel->suite->open(buffer, from, record->length, record->tag,
                             (const uint8_t *)record, CPC_RECORD_AAD, nonce,
                             channel->key) != 0) {
        return CPC_S_WIRE_TAG;
    }
    channel->sequence++;
    return CPC_S_OK;
}

uint32_t operator_sdi(struct call *call, struct channel *channel,
                      struct cpc_record *record)
{
    struct ring *ring = &call->hvcpu->ring;

    if (call_cancelled(call)) {
        return CPC_S_CANCELLED;
    }
    uint32_t status = ring_wait_filled(call, sizeof(*record));
    if (status != CPC_S_OK) {
        return status;
    }
    copy_shared(record, ring_at(ring), sizeof(*record));
    status = record_check(record, channel);
    if (status != CPC_S_OK) {
        return status;
    }
    status = ring_wait_filled(call, record_size(record->length));
    if (status != CPC_S_OK) {
        return status;
    }
    status = open_body(call, channel, record);
    if (status == CPC_S_OK) {
        ring_consume(ring, record_size(record->length));
        count_record(call, record_size(record->length));
    }
    return status;
}

uint32_t operator_mdi(struct call *call, const struct cpc_region *region,
                      uint64_t page, uint32_t count, const uint32_t *entries,
                      uint8_t kind)
{
    uint32_t status = platform()->insert(region, page, count, entries, kind,
                                         call->hvcpu->buffer);
    return status == CPC_P_OK ? CPC_S_OK
                              : call_platform(call, CPC_PCALL_COPY_IN, status);
}
