/* SPDX-License-Identifier: Apache-2.0 */
/* RECV: verify, judge and insert what one stream brings. */
#include "migrate.h"

#include "platform.h"

struct receiver {
    struct call *call;
    struct migrate_session *session;
    struct migrate_stream *stream;
    struct cpc_record record;
    bool done;
};

/* The pages a record or an extent speaks of, on this side. */
struct place {
    const struct cpc_region *region;
    uint32_t *versions;          /* of the first page */
    uint64_t page;
    uint64_t pages;
};

static uint32_t check_owner(const struct receiver *recv, const struct place *place)
{
    uint32_t streams = recv->record.streams;
    uint64_t last = (place->page + place->pages - 1) / MEMORY_BLOCK;

    /* At most pages / MEMORY_BLOCK + 2 turns. */
    for (uint64_t block = place->page / MEMORY_BLOCK; block <= last; block++) {
        if (!memory_owned(block * MEMORY_BLOCK, recv->record.stream, streams)) {
            return CPC_S_WIRE_OWNER;
        }
    }
    return CPC_S_OK;
}

/* Address to pages; they exist, belong to this stream, and are older. */
static uint32_t locate(const struct receiver *recv, uint64_t address, uint64_t pages,
                       struct place *place)
{
    const struct migrate_session *session = recv->session;
    uint32_t version = recv->record.version;

    if (address >> 40 >= session->regions) {
        return CPC_S_WIRE_ADDRESS;
    }
    uint32_t own = session->region_of[CPC_ADDRESS_REGION(address)];
    if (own >= session->memory.count) {
        return CPC_S_WIRE_ADDRESS;
    }
    place->region = &session->memory.region[own];
    place->page = CPC_ADDRESS_PAGE(address);
    place->pages = pages;
    if (place->page >= place->region->pages ||
        pages > place->region->pages - place->page) {
        return CPC_S_WIRE_ADDRESS;
    }
    uint32_t status = check_owner(recv, place);
    if (status != CPC_S_OK) {
        return status;
    }
    place->versions = memory_versions(recv->call->runtime, place->region) + place->page;
    if (version <= recv->stream->round) {
        return CPC_S_WIRE_PAGE_VERSION;
    }
    for (uint64_t i = 0; i < pages; i++) {   /* <= pages of the region */
        if (MEMORY_VERSION(place->versions[i]) >= version) {
            return CPC_S_WIRE_PAGE_VERSION;
        }
    }
    return CPC_S_OK;
}

static void set_versions(const struct place *place, uint32_t entry)
{
    for (uint64_t i = 0; i < place->pages; i++) {   /* <= pages of the region */
        place->versions[i] = entry;
    }
}

static uint32_t take_pages(struct receiver *recv)
{
    const struct cpc_record *record = &recv->record;
    struct place place;

    uint32_t status = locate(recv, record->address, record->count, &place);
    if (status == CPC_S_OK) {
        status = operator_mdi(recv->call, place.region, place.page, record->count,
                              place.versions, record->kind);
    }
    if (status == CPC_S_OK) {
        set_versions(&place, MEMORY_ENTRY(record->kind, record->version));
        recv->call->progress.pages += record->count;
    }
    return status;
}

/* ZERO and KIND: the pages hold nothing afterwards. */
static uint32_t take_extents(struct receiver *recv)
{
    const struct cpc_record *record = &recv->record;
    bool zero = record->type == CPC_RECORD_ZERO;

    for (uint32_t i = 0; i < record->count; i++) {  /* <= CPC_EXTENTS_MAX */
        struct cpc_extent extent;
        struct place place;
        uint32_t status;

        memcpy(&extent, recv->call->hvcpu->buffer + i * sizeof(extent), sizeof(extent));
        if (extent.pad != 0) {
            return CPC_S_WIRE_PADDING;
        }
        if (extent.pages == 0) {
            return CPC_S_WIRE_COUNT;
        }
        status = locate(recv, extent.address, extent.pages, &place);
        if (status != CPC_S_OK) {
            return status;
        }
        status = platform()->clear(place.region, place.page, place.pages,
                                   place.versions,
                                   zero ? record->kind : CPC_KIND_ABSENT);
        if (status != CPC_P_OK) {
            return call_platform(recv->call, CPC_PCALL_ERASE, status);
        }
        set_versions(&place, zero ? MEMORY_ENTRY(record->kind, record->version) : 0);
        recv->call->progress.zero_pages += zero ? extent.pages : 0;
    }
    return CPC_S_OK;
}

static uint32_t take_round(struct receiver *recv)
{
    if (recv->record.version <= recv->stream->round) {
        return CPC_S_WIRE_PAGE_VERSION;
    }
    recv->stream->round = recv->record.version;
    return CPC_S_OK;
}

static uint32_t take_end(struct receiver *recv)
{
    if (recv->record.version != recv->stream->round) {
        return CPC_S_WIRE_PAGE_VERSION;
    }
    recv->stream->records = recv->stream->channel.sequence;
    recv->stream->ended = 1;
    recv->done = recv->record.stream != 0;
    return CPC_S_OK;
}

static uint32_t take_vmsa(struct receiver *recv)
{
    struct migrate_session *session = recv->session;
    uint64_t gvcpu = recv->record.address;
    uint32_t bytes = recv->record.length;

    /* Ascending, so no gvCPU comes twice. */
    if (gvcpu >= session->hello.gvcpus || gvcpu < session->vmsa_next) {
        return CPC_S_WIRE_ADDRESS;
    }
    memcpy(platform_vmsa((uint32_t)gvcpu), recv->call->hvcpu->buffer, bytes);
    session->vmsa_bytes[gvcpu] = bytes;
    session->vmsa_next = (uint32_t)gvcpu + 1;
    memcpy(session->vmsa_tags[session->vmsa_count], recv->record.tag, CPC_TAG_MAX);
    session->vmsa_count++;
    return CPC_S_OK;
}

static uint32_t take_manifest(struct receiver *recv)
{
    struct migrate_session *session = recv->session;

    memcpy(&session->manifest, recv->call->hvcpu->buffer, sizeof(session->manifest));
    crypto_sha256(session->manifest_digest, &session->manifest,
                  sizeof(session->manifest));
    migrate_phase_step(session, CPC_PHASE_STREAMING, CPC_PHASE_MANIFEST);
    recv->done = true;
    return CPC_S_OK;
}

static uint32_t take(struct receiver *recv)
{
    uint8_t type = recv->record.type;
    bool tail = type == CPC_RECORD_VMSA || type == CPC_RECORD_MANIFEST;

    if (recv->stream->ended && !tail) {
        return CPC_S_WIRE_AFTER_END;
    }
    if (!recv->stream->ended && tail) {
        return CPC_S_WIRE_TYPE;
    }
    switch (type) {
    case CPC_RECORD_PAGES:
        return take_pages(recv);
    case CPC_RECORD_ZERO:
    case CPC_RECORD_KIND:
        return take_extents(recv);
    case CPC_RECORD_ROUND:
        return take_round(recv);
    case CPC_RECORD_END:
        return take_end(recv);
    case CPC_RECORD_VMSA:
        return take_vmsa(recv);
    default:                     /* record_check lets no other type through */
        return take_manifest(recv);
    }
}

static uint32_t take_next(struct receiver *recv)
{
    struct channel *channel = &recv->stream->channel;
    uint32_t status;

    if (migrate_stopped(recv->call, &status)) {
        return status;
    }
    if (channel->streams == 0) {
        channel->streams =
            (uint8_t)__atomic_load_n(&recv->session->streams, __ATOMIC_ACQUIRE);
    }
    status = operator_sdi(recv->call, channel, &recv->record);
    if (status != CPC_S_OK) {
        return status;
    }
    /* Authenticated now, so it may decide who owns what, once for all. */
    if (!migrate_fix_streams(recv->session, recv->record.streams)) {
        return CPC_S_WIRE_STREAM;
    }
    channel->streams = recv->record.streams;
    return take(recv);
}

uint32_t migrate_recv(struct call *call)
{
    struct migrate_session *session = migrate_session(call);
    struct migrate_stream *stream = &session->stream[call->arg[0]];
    struct receiver recv = { .call = call, .session = session, .stream = stream };

    if (stream->ended &&
        (call->arg[0] != 0 || migrate_phase(session) == CPC_PHASE_MANIFEST)) {
        return CPC_S_WRONG_PHASE;
    }
    /* Ends with the stream, with an error, or when the host cancels. */
    while (!recv.done) {
        uint32_t status = take_next(&recv);
        if (status != CPC_S_OK) {
            return status;
        }
    }
    return CPC_S_OK;
}
