/* SPDX-License-Identifier: Apache-2.0 */
#include "record.h"

#include "bytes.h"

_Static_assert(sizeof(struct cpc_record) == 128, "two ring units");
_Static_assert(__builtin_offsetof(struct cpc_record, tag) == CPC_RECORD_AAD,
               "all before the tag is authenticated");
_Static_assert(sizeof(struct cpc_record) % CPC_RECORD_ALIGN == 0, "aligned");
_Static_assert(CPC_EXTENTS_MAX * sizeof(struct cpc_extent) <= CPC_RUN_BYTES,
               "an extent list fits a record buffer");
_Static_assert(sizeof(struct cpc_manifest) <= CPC_RUN_BYTES, "so does this");
_Static_assert(CPC_VMSA_STRIDE <= CPC_RUN_BYTES, "and a VMSA");

/* What a type allows. unit: bytes a count; 0 means length_max bounds it. */
struct type_rule {
    bool known;
    bool address;            /* may be other than 0 */
    bool version;            /* must be 1 .. RECORD_VERSION_MAX, else 0 */
    uint8_t kinds;           /* bit n: CPC_KIND n allowed */
    uint32_t count_min;
    uint32_t count_max;
    uint32_t unit;
    uint32_t length_max;
};

#define KIND_BIT(k) (1u << (k))
#define CONTENT_KINDS (KIND_BIT(CPC_KIND_PRIVATE) | KIND_BIT(CPC_KIND_SHARED))
#define NO_KIND KIND_BIT(0)

static const struct type_rule rules[] = {
    [CPC_RECORD_PAGES] = { true, true, true, CONTENT_KINDS,
                           1, CPC_RUN_PAGES, CPC_PAGE_SIZE, 0 },
    [CPC_RECORD_ZERO] = { true, false, true, CONTENT_KINDS, 1, CPC_EXTENTS_MAX,
                          sizeof(struct cpc_extent), 0 },
    [CPC_RECORD_KIND] = { true, false, true, KIND_BIT(CPC_KIND_ABSENT), 1,
                          CPC_EXTENTS_MAX, sizeof(struct cpc_extent), 0 },
    [CPC_RECORD_ROUND] = { true, false, true, NO_KIND, 0, 0, 1, 0 },
    [CPC_RECORD_VMSA] = { true, true, false, NO_KIND, 1, 1, 0, CPC_VMSA_STRIDE },
    [CPC_RECORD_MANIFEST] = { true, false, false, NO_KIND, 1, 1,
                              sizeof(struct cpc_manifest), 0 },
    [CPC_RECORD_END] = { true, false, true, NO_KIND, 0, 0, 1, 0 },
};

void record_nonce(uint8_t nonce[16], uint64_t sequence, uint32_t epoch)
{
    memset(nonce, 0, 16);
    memcpy(nonce, &sequence, 8);
    memcpy(nonce + 8, &epoch, 4);
}

void record_fill(struct cpc_record *record, const struct channel *channel,
                 const struct record_body *body)
{
    memset(record, 0, sizeof(*record));
    record->magic = CPC_RECORD_MAGIC;
    record->wire = CPC_WIRE_VERSION;
    record->type = body->type;
    record->kind = body->kind;
    record->suite = (uint8_t)channel->suite->id;
    record->stream = channel->stream;
    record->direction = channel->direction;
    record->streams = channel->streams;
    record->epoch = channel->epoch;
    memcpy(record->session, channel->session, sizeof(record->session));
    record->sequence = channel->sequence;
    record->address = body->address;
    record->version = body->version;
    record->count = body->count;
    record->length = body->length;
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) {   /* <= 64 bytes of header padding */
        sum |= bytes[i];
    }
    return sum == 0;
}

static uint32_t check_place(const struct cpc_record *record,
                            const struct channel *channel)
{
    if (record->suite != channel->suite->id) {
        return CPC_S_WIRE_SUITE;
    }
    if (record->stream != channel->stream || record->streams == 0 ||
        record->streams > CPC_HVCPU_LIMIT || record->stream >= record->streams ||
        (channel->streams != 0 && record->streams != channel->streams)) {
        return CPC_S_WIRE_STREAM;
    }
    if (record->direction != channel->direction) {
        return CPC_S_WIRE_DIRECTION;
    }
    if (memcmp(record->session, channel->session, sizeof(record->session)) != 0) {
        return CPC_S_WIRE_SESSION;
    }
    if (record->epoch != channel->epoch) {
        return CPC_S_WIRE_EPOCH;
    }
    return record->sequence == channel->sequence ? CPC_S_OK
                                                 : CPC_S_WIRE_SEQUENCE;
}

static uint32_t check_body(const struct cpc_record *record,
                           const struct type_rule *rule)
{
    if (record->count < rule->count_min || record->count > rule->count_max) {
        return CPC_S_WIRE_COUNT;
    }
    /* count and unit are bounded by the table: no overflow in 32 bits. */
    if (rule->unit != 0 ? record->length != record->count * rule->unit
                        : record->length == 0 || record->length > rule->length_max) {
        return CPC_S_WIRE_LENGTH;
    }
    if (record->kind > CPC_KIND_SHARED ||
        (rule->kinds & KIND_BIT(record->kind)) == 0) {
        return CPC_S_WIRE_KIND;
    }
    if (rule->version ? record->version == 0 || record->version > RECORD_VERSION_MAX
                      : record->version != 0) {
        return CPC_S_WIRE_PAGE_VERSION;
    }
    return rule->address || record->address == 0 ? CPC_S_OK : CPC_S_WIRE_ADDRESS;
}

uint32_t record_check(const struct cpc_record *record,
                      const struct channel *channel)
{
    uint32_t tag_size = channel->suite->tag_size;
    uint32_t status;

    if (record->magic != CPC_RECORD_MAGIC) {
        return CPC_S_WIRE_MAGIC;
    }
    if (record->wire != CPC_WIRE_VERSION) {
        return CPC_S_WIRE_VERSION;
    }
    if (record->type >= ARRAY_SIZE(rules) || !rules[record->type].known) {
        return CPC_S_WIRE_TYPE;
    }
    status = check_place(record, channel);
    if (status == CPC_S_OK) {
        status = check_body(record, &rules[record->type]);
    }
    if (status != CPC_S_OK) {
        return status;
    }
    if (record->pad1 != 0 || !all_zero(record->pad2, sizeof(record->pad2)) ||
        !all_zero(record->tag + tag_size, CPC_TAG_MAX - tag_size)) {
        return CPC_S_WIRE_PADDING;
    }
    return CPC_S_OK;
}
