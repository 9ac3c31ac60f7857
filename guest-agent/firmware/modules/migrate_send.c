/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SEND: one round of one stream.
 *
 * The order for every piece of memory is: take the dirty bits, ask for the
 * kinds, read the pages. A page written after its bit was taken is dirty
 * again, so nothing is lost between the three.
 *
 * A page is read twice, for the zero check and for the seal, and a running
 * guest may write in between. Before the freeze that is harmless: such a page
 * is dirty again and goes into a later round. After the freeze nobody writes.
 */
#include "migrate_pack.h"

#include "platform.h"

#define FLAGS (CPC_SEND_FULL | CPC_SEND_FINAL)

/*
 * True when eight pages are all absent or all private and the table says so
 * already. Most of a guest is like that, and this looks at it in words.
 */
static bool quiet(const uint32_t *versions, const uint8_t *kinds)
{
    const uint64_t mask = 0xc0000000c0000000ull;
    const uint64_t all_private = 0x4000000040000000ull;
    uint64_t kind, v[4];

    memcpy(&kind, kinds, sizeof(kind));
    memcpy(v, versions, sizeof(v));
    if (kind == 0) {
        return (v[0] | v[1] | v[2] | v[3]) == 0;
    }
    return kind == 0x0101010101010101ull * CPC_KIND_PRIVATE &&
           ((v[0] | v[1] | v[2] | v[3]) & mask) == all_private &&
           ((v[0] & v[1] & v[2] & v[3]) & mask) == all_private;
}

/* Eight pages, from i in the chunk, of which there is nothing to say. An absent
   page is skipped in FULL as well. */
static bool skippable(const struct sender *send, uint64_t chunk, uint32_t i)
{
    const uint8_t *kinds = &send->scratch->kinds[i];

    return (send->scratch->dirty[i / 64] >> (i % 64) & 0xff) == 0 &&
           (!send->full || kinds[0] == CPC_KIND_ABSENT) &&
           quiet(&send->versions[chunk + i], kinds);
}

/*
 * Pages i .. i + count (<= CPC_RUN_PAGES) of the chunk. A page goes when the
 * hint says so or when its kind is not the one last sent; so what became
 * present is sent without a hint, zero pages that a read has allocated
 * included. An absent page is never read.
 */
static uint32_t send_group(struct sender *send, uint64_t chunk, uint32_t i,
                           uint32_t count)
{
    const uint32_t *versions = &send->versions[chunk + i];
    uint8_t *kinds = &send->scratch->kinds[i];
    uint32_t dirty = (uint32_t)(send->scratch->dirty[i / 64] >> (i % 64));
    uint32_t wanted = 0;
    uint32_t zero = 0;
    uint32_t status = CPC_S_OK;

    for (uint32_t n = 0; n < count; n++) {
        if (kinds[n] != CPC_KIND_ABSENT &&
            (send->full || MEMORY_KIND(versions[n]) != kinds[n] ||
             (dirty >> n & 1) != 0)) {
            wanted |= 1u << n;
        }
    }
    if (wanted != 0) {
        uint32_t looked = platform()->look(send->region, chunk + i, wanted, kinds, &zero);
        if (looked != CPC_P_OK) {
            return call_platform(send->call, CPC_PCALL_KINDS, looked);
        }
    }
    for (uint32_t n = 0; n < count && status == CPC_S_OK; n++) {
        if (kinds[n] == CPC_KIND_ABSENT) {
            bool sent = MEMORY_VERSION(versions[n]) != 0;    /* or owed only */
            send->versions[chunk + i + n] = 0;
            if (sent) {
                status = pack_absent(send, chunk + i + n);
            }
        } else if ((wanted >> n & 1) != 0) {
            status = pack_page(send, chunk + i + n, kinds[n], (zero >> n & 1) != 0);
        }
    }
    return status;
}

/* Pages first .. first + count of the chunk at `chunk`, all of this stream. */
static uint32_t send_block(struct sender *send, uint64_t chunk, uint32_t first,
                           uint32_t count)
{
    uint32_t end = first + count;
    uint32_t status = CPC_S_OK;

    /* <= MEMORY_BLOCK / CPC_RUN_PAGES turns */
    for (uint32_t i = first; i < end && status == CPC_S_OK; i += CPC_RUN_PAGES) {
        if (i + CPC_RUN_PAGES <= end && skippable(send, chunk, i) &&
            skippable(send, chunk, i + 8)) {
            continue;
        }
        status = send_group(send, chunk, i,
                            end - i < CPC_RUN_PAGES ? end - i : CPC_RUN_PAGES);
    }
    return status;
}

/* Take this stream's dirty bits of a chunk. True when there was one. */
static bool take_dirty(struct sender *send, uint64_t chunk, uint32_t pages)
{
    uint64_t *shared = pack_dirty_hint(send->region, chunk);
    uint64_t *dirty = send->scratch->dirty;
    uint64_t any = 0;

    for (uint32_t word = 0; word < (pages + 63) / 64; word++) {
        dirty[word] = 0;         /* <= CPC_KINDS_MAX / 64 turns */
        if (memory_owned(chunk + word * 64u, send->channel->stream,
                         send->channel->streams) &&
            __atomic_load_n(&shared[word], __ATOMIC_RELAXED) != 0) {
            dirty[word] = __atomic_exchange_n(&shared[word], 0, __ATOMIC_ACQ_REL);
            any |= dirty[word];
        }
    }
    return any != 0;
}

static uint32_t send_chunk(struct sender *send, uint64_t chunk, uint32_t pages)
{
    uint32_t status;

    if (call_cancelled(send->call)) {
        return CPC_S_CANCELLED;
    }
    if (migrate_stopped(send->call, &status)) {
        return status;
    }
    if (!take_dirty(send, chunk, pages) && !send->full && !send->final) {
        return CPC_S_OK;
    }
    /* One call for all of the chunk: with several streams each is told of the
       others' pages as well, but a call costs more than looking at a few MiB. */
    uint32_t asked = platform()->kinds(send->region, chunk, pages,
                                        send->scratch->kinds);
    if (asked != CPC_P_OK) {
        return call_platform(send->call, CPC_PCALL_KINDS, asked);
    }
    for (uint32_t first = 0; first < pages; first += MEMORY_BLOCK) {
        uint32_t count = pages - first < MEMORY_BLOCK ? pages - first : MEMORY_BLOCK;
        if (!memory_owned(chunk + first, send->channel->stream,
                          send->channel->streams)) {
            continue;            /* <= CPC_KINDS_MAX / MEMORY_BLOCK turns */
        }
        status = send_block(send, chunk, first, count);
        if (status != CPC_S_OK) {
            return status;
        }
    }
    return CPC_S_OK;
}

static uint32_t send_region(struct sender *send, const struct cpc_region *region)
{
    send->region = region;
    send->versions = memory_versions(send->call->runtime, region);
    /* pages / CPC_KINDS_MAX turns */
    for (uint64_t chunk = 0; chunk < region->pages; chunk += CPC_KINDS_MAX) {
        uint64_t left = region->pages - chunk;
        uint32_t status = send_chunk(
            send, chunk, left < CPC_KINDS_MAX ? (uint32_t)left : CPC_KINDS_MAX);
        if (status != CPC_S_OK) {
            return status;
        }
    }
    return pack_flush_run(send);      /* a run lies in one region */
}

static uint32_t send_round(struct sender *send)
{
    const struct memory *memory = &send->session->memory;
    uint32_t status = CPC_S_OK;

    for (uint32_t i = 0; i < memory->count; i++) {   /* <= CPC_REGION_LIMIT */
        if (memory_present(memory, i)) {
            status = send_region(send, &memory->region[i]);
        }
        if (status != CPC_S_OK) {
            return status;
        }
    }
    status = pack_flush_extents(send);
    return status == CPC_S_OK ? pack_mark(send, CPC_RECORD_ROUND) : status;
}

static uint32_t check(const struct call *call, struct migrate_session *session)
{
    uint64_t stream = call->arg[0];      /* < MIGRATE_STREAMS by the gate */
    uint64_t streams = call->arg[1];
    uint64_t round = call->arg[2];
    uint64_t flags = call->arg[3];
    bool final = (flags & CPC_SEND_FINAL) != 0;

    if (streams == 0 || streams > MIGRATE_STREAMS || stream >= streams ||
        round == 0 || round > RECORD_VERSION_MAX || (flags & ~(uint64_t)FLAGS) != 0) {
        return CPC_S_BAD_ARGUMENT;
    }
    if (final != (migrate_phase(session) == CPC_PHASE_FROZEN) ||
        session->stream[stream].ended) {
        return CPC_S_WRONG_PHASE;
    }
    if (round <= session->stream[stream].round ||
        !migrate_fix_streams(session, (uint32_t)streams)) {
        return CPC_S_BAD_ARGUMENT;
    }
    return CPC_S_OK;
}

uint32_t migrate_send(struct call *call)
{
    struct migrate_session *session = migrate_session(call);
    uint32_t status = check(call, session);

    if (status != CPC_S_OK) {
        return status;
    }
    struct migrate_stream *stream = &session->stream[call->arg[0]];
    struct sender send = {
        .call = call,
        .session = session,
        .scratch = migrate_scratch(call),
        .channel = &stream->channel,
        .round = (uint32_t)call->arg[2],
        .full = (call->arg[3] & CPC_SEND_FULL) != 0,
        .final = (call->arg[3] & CPC_SEND_FINAL) != 0,
    };
    stream->channel.streams = (uint8_t)call->arg[1];
    stream->round = send.round;
    status = send_round(&send);
    if (status == CPC_S_OK && send.final) {
        status = pack_mark(&send, CPC_RECORD_END);
        if (status == CPC_S_OK) {
            stream->records = stream->channel.sequence;
            stream->ended = 1;
        }
    }
    return status;
}
