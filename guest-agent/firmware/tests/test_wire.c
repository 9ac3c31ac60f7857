/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host can do to the stream, and what a broken or hostile source could
 * seal. Every CPC_S_WIRE_* status has a test that provokes it; after each the
 * session is FAILED and the destination cannot run.
 */
#include "driver.h"

static struct pair pair;
static struct wire wire;

static void begin(void)
{
    pair = pair_new(NULL, NULL);
    pair_open(&pair, 0x1e);
    make_wire(&pair, &wire);
}

/* Feed what the test has made of the wire; this status must come out. */
static void refused(uint32_t status)
{
    struct answer answer = import_call(pair.destination, 0, 0, &wire);
    CHECK_IS(answer.status, status);
    CHECK_IS(query(pair.destination).phase, CPC_PHASE_FAILED);
    CHECK_IS(query(pair.destination).failure, status);
    load_devices(pair.destination, 0xd5);
    CHECK_IS(call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0).status,
             CPC_S_SESSION_FAILED);
    CHECK(pair.destination->frozen);
    /* the keys are gone, and the only way on is ABORT */
    struct migrate_session *session = session_of(pair.destination);
    static const uint8_t none[CPC_KEY_MAX];
    for (uint32_t i = 0; i < MIGRATE_STREAMS; i++) {
        CHECK(memcmp(session->stream[i].channel.key, none, sizeof(none)) == 0);
    }
    CHECK_IS(call(pair.destination, CPC_OP_ABORT, 0, 0, NULL, 0).status, CPC_S_OK);
    wire_free(&wire);
    pair_free(&pair);
}

/* One field of one header changed by the host. */
#define FLIPPED(name, type, field, change, status)                           \
    static void name(void)                                                   \
    {                                                                        \
        begin();                                                             \
        struct cpc_record *record = wire_find(&wire, type, 0);               \
        CHECK(record != NULL);                                               \
        record->field = (__typeof__(record->field))(change);                 \
        refused(status);                                                     \
    }

FLIPPED(magic, CPC_RECORD_PAGES, magic, 1, CPC_S_WIRE_MAGIC)
FLIPPED(version, CPC_RECORD_PAGES, wire, 2, CPC_S_WIRE_VERSION)
FLIPPED(type_unknown, CPC_RECORD_PAGES, type, 99, CPC_S_WIRE_TYPE)
FLIPPED(type_zero, CPC_RECORD_PAGES, type, 0, CPC_S_WIRE_TYPE)
FLIPPED(length_long, CPC_RECORD_PAGES, length, 0xfffff000, CPC_S_WIRE_LENGTH)
FLIPPED(length_short, CPC_RECORD_PAGES, length, 1, CPC_S_WIRE_LENGTH)
FLIPPED(length_vmsa, CPC_RECORD_VMSA, length, CPC_VMSA_STRIDE + 1, CPC_S_WIRE_LENGTH)
FLIPPED(length_manifest, CPC_RECORD_MANIFEST, length, 1231, CPC_S_WIRE_LENGTH)
FLIPPED(suite, CPC_RECORD_PAGES, suite, 9, CPC_S_WIRE_SUITE)
FLIPPED(stream, CPC_RECORD_PAGES, stream, 1, CPC_S_WIRE_STREAM)
FLIPPED(streams_none, CPC_RECORD_PAGES, streams, 0, CPC_S_WIRE_STREAM)
FLIPPED(streams_many, CPC_RECORD_PAGES, streams, 17, CPC_S_WIRE_STREAM)
FLIPPED(streams_change, CPC_RECORD_ROUND, streams, 2, CPC_S_WIRE_STREAM)
FLIPPED(direction, CPC_RECORD_PAGES, direction, 2, CPC_S_WIRE_DIRECTION)
FLIPPED(epoch, CPC_RECORD_PAGES, epoch, 2, CPC_S_WIRE_EPOCH)
FLIPPED(session, CPC_RECORD_PAGES, session[15], record->session[15] ^ 1,
        CPC_S_WIRE_SESSION)
FLIPPED(sequence, CPC_RECORD_ZERO, sequence, record->sequence + 1,
        CPC_S_WIRE_SEQUENCE)
FLIPPED(address, CPC_RECORD_PAGES, address, record->address ^ 1, CPC_S_WIRE_TAG)
FLIPPED(address_none, CPC_RECORD_ROUND, address, 1, CPC_S_WIRE_ADDRESS)
FLIPPED(kind_absent, CPC_RECORD_PAGES, kind, CPC_KIND_ABSENT, CPC_S_WIRE_KIND)
FLIPPED(kind_wild, CPC_RECORD_PAGES, kind, 200, CPC_S_WIRE_KIND)
FLIPPED(kind_swapped, CPC_RECORD_PAGES, kind, record->kind ^ 3, CPC_S_WIRE_TAG)
FLIPPED(page_version_none, CPC_RECORD_PAGES, version, 0, CPC_S_WIRE_PAGE_VERSION)
FLIPPED(page_version_huge, CPC_RECORD_PAGES, version, 1u << 30,
        CPC_S_WIRE_PAGE_VERSION)
FLIPPED(page_version_newer, CPC_RECORD_PAGES, version, 2, CPC_S_WIRE_TAG)
FLIPPED(count_none, CPC_RECORD_PAGES, count, 0, CPC_S_WIRE_COUNT)
FLIPPED(count_many, CPC_RECORD_PAGES, count, 17, CPC_S_WIRE_COUNT)
FLIPPED(count_extents, CPC_RECORD_ZERO, count, CPC_EXTENTS_MAX + 1, CPC_S_WIRE_COUNT)
FLIPPED(tag, CPC_RECORD_PAGES, tag[3], record->tag[3] ^ 1, CPC_S_WIRE_TAG)
FLIPPED(header_padding, CPC_RECORD_PAGES, pad2[31], 1, CPC_S_WIRE_PADDING)
FLIPPED(header_pad1, CPC_RECORD_PAGES, pad1, 1, CPC_S_WIRE_PADDING)

static void ciphertext(void)
{
    begin();
    uint8_t *body = (uint8_t *)(wire_find(&wire, CPC_RECORD_PAGES, 1) + 1);
    body[4095] ^= 0x80;
    refused(CPC_S_WIRE_TAG);
}

static void trailing_padding(void)
{
    begin();
    struct cpc_record *record = wire_find(&wire, CPC_RECORD_MANIFEST, 0);
    size_t size = wire_record_size(record);
    CHECK(size > sizeof(*record) + record->length);
    ((uint8_t *)record)[size - 1] = 1;
    refused(CPC_S_WIRE_PADDING);
}

static void replayed(void)
{
    begin();
    struct cpc_record *record = wire_find(&wire, CPC_RECORD_PAGES, 0);
    struct wire copy = { 0 };
    wire_append(&copy, record, wire_record_size(record));
    wire_insert(&wire, record, copy.bytes, copy.size);
    wire_free(&copy);
    refused(CPC_S_WIRE_SEQUENCE);
}

static void reordered(void)
{
    begin();
    struct cpc_record *first = wire_find(&wire, 0, 2);
    struct wire copy = { 0 };
    wire_append(&copy, first, wire_record_size(first));
    wire_cut(&wire, first);
    wire_insert(&wire, wire_find(&wire, 0, 3), copy.bytes, copy.size);
    wire_free(&copy);
    refused(CPC_S_WIRE_SEQUENCE);
}

static void dropped(void)
{
    begin();
    wire_cut(&wire, wire_find(&wire, CPC_RECORD_PAGES, 3));
    refused(CPC_S_WIRE_SEQUENCE);
}

static void truncated(void)
{
    begin();
    wire.size -= 64;         /* inside the manifest */
    refused(CPC_S_CANCELLED);
}

static void truncated_after_a_record(void)
{
    begin();
    wire.size = (size_t)((uint8_t *)wire_find(&wire, CPC_RECORD_MANIFEST, 0) -
                         wire.bytes);
    refused(CPC_S_CANCELLED);
}

static void spliced_from_another_session(void)
{
    struct pair other = pair_new(NULL, NULL);
    struct wire theirs = { 0 };
    pair_open(&other, 0x1e);
    make_wire(&other, &theirs);
    begin();
    struct cpc_record *mine = wire_find(&wire, CPC_RECORD_PAGES, 0);
    struct cpc_record *foreign = wire_find(&theirs, CPC_RECORD_PAGES, 0);
    CHECK_IS(mine->length, foreign->length);
    memcpy(mine, foreign, wire_record_size(foreign));
    wire_free(&theirs);
    pair_free(&other);
    refused(CPC_S_WIRE_SESSION);
}

static void spliced_under_our_session_id(void)
{
    struct pair other = pair_new(NULL, NULL);
    struct wire theirs = { 0 };
    pair_open(&other, 0x1e);
    make_wire(&other, &theirs);
    begin();
    struct cpc_record *mine = wire_find(&wire, CPC_RECORD_PAGES, 0);
    struct cpc_record *foreign = wire_find(&theirs, CPC_RECORD_PAGES, 0);
    memcpy(foreign->session, mine->session, sizeof(mine->session));
    memcpy(mine, foreign, wire_record_size(foreign));
    wire_free(&theirs);
    pair_free(&other);
    refused(CPC_S_WIRE_TAG);
}

/* ---- what a source with the right key could get wrong ----------------------- */

/* Seal a record as the source would, with fields of our choice, in front of
   the stream's END; what follows in the wire is then never reached. */
static void forge(uint8_t streams, uint16_t stream, const struct record_body *body,
                  const void *plaintext)
{
    struct migrate_session *session = session_of(pair.destination);
    struct channel channel = session->stream[stream].channel;
    uint8_t buffer[RECORD_SIZE_MAX] = { 0 };
    struct cpc_record record;
    uint8_t nonce[16];
    struct cpc_record *last = wire_find(&wire, 0, 0);
    uint64_t sequence = 0;

    while (last != NULL && last->type != CPC_RECORD_MANIFEST && sequence < UINT32_MAX) {
        sequence++;
        last = wire_find(&wire, 0, (uint32_t)sequence);
    }
    channel.streams = streams;
    channel.sequence = sequence;
    record_fill(&record, &channel, body);
    record_nonce(nonce, sequence, channel.epoch);
    CHECK(channel.suite->seal(buffer + sizeof(record), record.tag, plaintext,
                              body->length, (uint8_t *)&record, CPC_RECORD_AAD, nonce,
                              channel.key) == 0);
    memcpy(buffer, &record, sizeof(record));
    wire_append(&wire, buffer, record_size(body->length));
}

/* A session whose wire holds nothing yet. */
static void begin_forged(void)
{
    pair = pair_new(NULL, NULL);
    pair_open(&pair, 0x1e);
}

static const uint8_t page_data[CPC_RUN_BYTES] = { 1, 2, 3 };

static struct record_body pages_at(uint32_t region, uint64_t page, uint32_t count,
                                   uint32_t version)
{
    return (struct record_body){
        .type = CPC_RECORD_PAGES,
        .kind = CPC_KIND_PRIVATE,
        .address = CPC_ADDRESS(region, page),
        .version = version,
        .count = count,
        .length = count * CPC_PAGE_SIZE,
    };
}

static void forge_pages(uint8_t streams, uint32_t region, uint64_t page, uint32_t count,
                        uint32_t version)
{
    struct record_body body = pages_at(region, page, count, version);
    forge(streams, 0, &body, page_data);
}

static void address_of_no_region(void)
{
    begin_forged();
    forge_pages(1, 3, 0, 1, 1);
    refused(CPC_S_WIRE_ADDRESS);
}

static void address_beyond_region_ids(void)
{
    begin_forged();
    struct record_body body = pages_at(0, 0, 1, 1);
    body.address = UINT64_MAX;
    forge(1, 0, &body, page_data);
    refused(CPC_S_WIRE_ADDRESS);
}

static void address_behind_the_region(void)
{
    begin_forged();
    forge_pages(1, 0, 2600, 1, 1);
    refused(CPC_S_WIRE_ADDRESS);
}

static void address_across_the_end(void)
{
    begin_forged();
    forge_pages(1, 0, 2599, 2, 1);
    refused(CPC_S_WIRE_ADDRESS);
}

static void page_of_another_stream(void)
{
    begin_forged();
    forge_pages(2, 0, 512, 1, 1);
    refused(CPC_S_WIRE_OWNER);
}

static void run_into_another_stream(void)
{
    begin_forged();
    forge_pages(2, 0, 505, 16, 1);
    refused(CPC_S_WIRE_OWNER);
}

static void same_page_twice(void)
{
    begin_forged();
    forge_pages(1, 0, 8, 8, 5);
    forge_pages(1, 0, 15, 1, 5);
    refused(CPC_S_WIRE_PAGE_VERSION);
}

static void older_than_what_is_there(void)
{
    begin_forged();
    forge_pages(1, 0, 8, 8, 5);
    forge_pages(1, 0, 4, 8, 4);
    refused(CPC_S_WIRE_PAGE_VERSION);
}

static void forge_mark(uint8_t type, uint32_t version)
{
    struct record_body body = { .type = type, .version = version };
    forge(1, 0, &body, page_data);
}

static void page_of_a_finished_round(void)
{
    begin_forged();
    forge_mark(CPC_RECORD_ROUND, 3);
    forge_pages(1, 0, 8, 8, 3);
    refused(CPC_S_WIRE_PAGE_VERSION);
}

static void round_that_goes_back(void)
{
    begin_forged();
    forge_mark(CPC_RECORD_ROUND, 3);
    forge_mark(CPC_RECORD_ROUND, 3);
    refused(CPC_S_WIRE_PAGE_VERSION);
}

static void end_of_an_unfinished_round(void)
{
    begin_forged();
    forge_mark(CPC_RECORD_ROUND, 3);
    forge_mark(CPC_RECORD_END, 4);
    refused(CPC_S_WIRE_PAGE_VERSION);
}

static void page_after_the_end(void)
{
    begin_forged();
    forge_mark(CPC_RECORD_ROUND, 3);
    forge_mark(CPC_RECORD_END, 3);
    forge_pages(1, 0, 8, 8, 4);
    refused(CPC_S_WIRE_AFTER_END);
}

static void vmsa_before_the_end(void)
{
    begin_forged();
    struct record_body body = { .type = CPC_RECORD_VMSA, .count = 1, .length = 2000 };
    forge(1, 0, &body, page_data);
    refused(CPC_S_WIRE_TYPE);
}

static void forge_vmsa(uint64_t gvcpu)
{
    struct record_body body = {
        .type = CPC_RECORD_VMSA, .address = gvcpu, .count = 1, .length = 2000
    };
    forge(1, 0, &body, page_data);
}

static void begin_ended(void)
{
    begin_forged();
    forge_mark(CPC_RECORD_ROUND, 3);
    forge_mark(CPC_RECORD_END, 3);
}

static void vmsa_of_no_gvcpu(void)
{
    begin_ended();
    forge_vmsa(4);
    refused(CPC_S_WIRE_ADDRESS);
}

static void vmsa_twice(void)
{
    begin_ended();
    forge_vmsa(1);
    forge_vmsa(1);
    refused(CPC_S_WIRE_ADDRESS);
}

static void forge_extents(uint8_t type, const struct cpc_extent *list, uint32_t count)
{
    struct record_body body = {
        .type = type,
        .kind = type == CPC_RECORD_ZERO ? CPC_KIND_PRIVATE : CPC_KIND_ABSENT,
        .version = 1,
        .count = count,
        .length = count * (uint32_t)sizeof(*list),
    };
    forge(1, 0, &body, list);
}

static void extent_behind_the_region(void)
{
    struct cpc_extent list[] = { { CPC_ADDRESS(1, 99), 1, 0 },
                                 { CPC_ADDRESS(1, 100), 1, 0 } };
    begin_forged();
    forge_extents(CPC_RECORD_ZERO, list, 2);
    refused(CPC_S_WIRE_ADDRESS);
}

static void extent_huge(void)
{
    struct cpc_extent list[] = { { CPC_ADDRESS(0, 1), UINT32_MAX, 0 } };
    begin_forged();
    forge_extents(CPC_RECORD_KIND, list, 1);
    refused(CPC_S_WIRE_ADDRESS);
}

static void extent_empty(void)
{
    struct cpc_extent list[] = { { CPC_ADDRESS(0, 1), 0, 0 } };
    begin_forged();
    forge_extents(CPC_RECORD_ZERO, list, 1);
    refused(CPC_S_WIRE_COUNT);
}

static void extent_padding(void)
{
    struct cpc_extent list[] = { { CPC_ADDRESS(0, 1), 1, 1 } };
    begin_forged();
    forge_extents(CPC_RECORD_ZERO, list, 1);
    refused(CPC_S_WIRE_PADDING);
}

static void extents_alias(void)
{
    struct cpc_extent list[] = { { CPC_ADDRESS(0, 10), 10, 0 },
                                 { CPC_ADDRESS(0, 19), 1, 0 } };
    begin_forged();
    forge_extents(CPC_RECORD_ZERO, list, 2);
    refused(CPC_S_WIRE_PAGE_VERSION);
}

#define T(name) { #name, name }
static const struct test tests[] = {
    T(magic), T(version), T(type_unknown), T(type_zero), T(length_long),
    T(length_short), T(length_vmsa), T(length_manifest), T(suite), T(stream),
    T(streams_none), T(streams_many), T(streams_change), T(direction), T(epoch),
    T(session), T(sequence), T(address), T(address_none), T(kind_absent),
    T(kind_wild), T(kind_swapped), T(page_version_none), T(page_version_huge),
    T(page_version_newer), T(count_none), T(count_many), T(count_extents), T(tag),
    T(header_padding), T(header_pad1), T(ciphertext), T(trailing_padding),
    T(replayed), T(reordered), T(dropped), T(truncated),
    T(truncated_after_a_record), T(spliced_from_another_session),
    T(spliced_under_our_session_id), T(address_of_no_region),
    T(address_beyond_region_ids), T(address_behind_the_region),
    T(address_across_the_end), T(page_of_another_stream),
    T(run_into_another_stream), T(same_page_twice), T(older_than_what_is_there),
    T(page_of_a_finished_round), T(round_that_goes_back),
    T(end_of_an_unfinished_round), T(page_after_the_end), T(vmsa_before_the_end),
    T(vmsa_of_no_gvcpu), T(vmsa_twice), T(extent_behind_the_region),
    T(extent_huge), T(extent_empty), T(extent_padding), T(extents_alias),
};
TEST_MAIN(tests)
