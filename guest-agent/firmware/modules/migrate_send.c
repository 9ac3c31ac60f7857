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
 *
 * On some platforms a running guest can even take a page away in between. Then
 * it is not sent in this round, and its dirty bit is set again.
 */
#include "migrate.h"

#include "platform.h"

#define FLAGS (CPC_SEND_FULL | CPC_SEND_FINAL)

struct sender {
    struct call *call;
    struct migrate_session *session;
    struct migrate_scratch *scratch;
    struct channel *channel;
    const struct cpc_region *region;
    uint32_t *versions;          /* of the region */
    uint32_t round;
    bool full;
    bool final;
    /* pages with content that go into one record */
    uint64_t run_first;
    uint32_t run_count;
    uint8_t run_kind;
    uint32_t run_old[CPC_RUN_PAGES]; /* their entries before this round */
    /* extents not sealed yet */
    uint32_t zeros;
    uint8_t zero_kind;
    uint32_t absents;
};

static uint32_t seal_extents(struct sender *send, uint8_t type, uint8_t kind,
                             const struct cpc_extent *list, uint32_t *count)
{
    struct record_body body = {
        .type = type,
        .kind = kind,
        .version = send->round,
        .count = *count,
        .length = *count * (uint32_t)sizeof(*list),
    };
    if (*count == 0) {
        return CPC_S_OK;
    }
    *count = 0;
    return operator_see(send->call, send->channel, &body, list, NULL);
}

static uint32_t flush_zeros(struct sender *send)
{
    return seal_extents(send, CPC_RECORD_ZERO, send->zero_kind, send->scratch->zero,
                        &send->zeros);
}

static uint32_t flush_absents(struct sender *send)
{
    return seal_extents(send, CPC_RECORD_KIND, CPC_KIND_ABSENT,
                        send->scratch->absent, &send->absents);
}

static uint64_t *dirty_hint(const struct cpc_region *region, uint64_t page)
{
    uint64_t *shared = (uint64_t *)(void *)((uint8_t *)arch_shm() +
                                            arch_boot_info()->bitmap_offset);
    return shared + (region->first_page + page) / 64;
}

/* The first page of the run cannot be read any more: another round's. */
static uint32_t drop_first(struct sender *send)
{
    uint64_t page = send->run_first;

    if (send->final) {
        return call_platform(send->call, 0, PLATFORM_HARDWARE(PLATFORM_LOST, 0));
    }
    send->versions[page] = send->run_old[0];
    /* Flat and region numbers agree in their last six bits. */
    __atomic_or_fetch(dirty_hint(send->region, page), 1ull << (page % 64),
                      __ATOMIC_ACQ_REL);
    return CPC_S_OK;
}

static void shorten_run(struct sender *send, uint32_t pages)
{
    send->run_first += pages;
    send->run_count -= pages;
    memmove(send->run_old, send->run_old + pages,
            send->run_count * sizeof(send->run_old[0]));
}

static uint32_t flush_run(struct sender *send)
{
    /* Every turn takes a page or more from the run. */
    while (send->run_count != 0) {
        struct record_body body = {
            .type = CPC_RECORD_PAGES,
            .kind = send->run_kind,
            .version = send->round,
            .count = send->run_count,
        };
        uint32_t status = operator_mee(send->call, send->channel, &body, send->region,
                                       send->run_first, send->scratch->bounce);
        if (status != CPC_S_OK) {
            return status;
        }
        send->call->progress.pages += body.count;
        if (body.count == send->run_count) {
            send->run_count = 0;
            break;
        }
        shorten_run(send, body.count);
        status = drop_first(send);
        if (status != CPC_S_OK) {
            return status;
        }
        shorten_run(send, 1);
    }
    return CPC_S_OK;
}

/* Make the last extent longer, or begin one. False when there is no room. */
static bool add_extent(struct cpc_extent *list, uint32_t *count, uint64_t address)
{
    if (*count > 0) {
        struct cpc_extent *last = &list[*count - 1];
        if (last->address + last->pages == address && last->pages != UINT32_MAX) {
            last->pages++;
            return true;
        }
    }
    if (*count == CPC_EXTENTS_MAX) {
        return false;
    }
    list[*count] = (struct cpc_extent){ .address = address, .pages = 1 };
    (*count)++;
    return true;
}

static uint32_t add_absent(struct sender *send, uint64_t page)
{
    uint64_t address = CPC_ADDRESS(send->region->id, page);

    if (!add_extent(send->scratch->absent, &send->absents, address)) {
        uint32_t status = flush_absents(send);
        if (status != CPC_S_OK) {
            return status;
        }
        add_extent(send->scratch->absent, &send->absents, address);
    }
    return CPC_S_OK;
}

static uint32_t add_zero(struct sender *send, uint64_t page, uint8_t kind)
{
    uint64_t address = CPC_ADDRESS(send->region->id, page);
    uint32_t status = CPC_S_OK;

    send->call->progress.zero_pages++;
    if (kind != send->zero_kind) {
        status = flush_zeros(send);
        send->zero_kind = kind;
    }
    if (status == CPC_S_OK &&
        !add_extent(send->scratch->zero, &send->zeros, address)) {
        status = flush_zeros(send);
        add_extent(send->scratch->zero, &send->zeros, address);
    }
    return status;
}

static uint32_t add_content(struct sender *send, uint64_t page, uint8_t kind,
                            uint32_t old)
{
    uint32_t status = CPC_S_OK;

    if (send->run_count == CPC_RUN_PAGES || kind != send->run_kind ||
        page != send->run_first + send->run_count) {
        status = flush_run(send);
    }
    if (send->run_count == 0) {
        send->run_first = page;
        send->run_kind = kind;
    }
    send->run_old[send->run_count] = old;
    send->run_count++;
    return status;
}

static uint32_t add_page(struct sender *send, uint64_t page, uint8_t kind, bool zero)
{
    uint32_t old = send->versions[page];

    send->versions[page] = MEMORY_ENTRY(kind, send->round);
    return zero ? add_zero(send, page, kind) : add_content(send, page, kind, old);
}

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
            if (versions[n] != 0) {
                send->versions[chunk + i + n] = 0;
                status = add_absent(send, chunk + i + n);
            }
        } else if ((wanted >> n & 1) != 0) {
            status = add_page(send, chunk + i + n, kinds[n], (zero >> n & 1) != 0);
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
    uint64_t *shared = dirty_hint(send->region, chunk);
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
    return flush_run(send);      /* a run lies in one region */
}

static uint32_t send_mark(struct sender *send, uint8_t type)
{
    struct record_body body = { .type = type, .version = send->round };
    return operator_see(send->call, send->channel, &body, &body, NULL);
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
    status = flush_zeros(send);
    if (status == CPC_S_OK) {
        status = flush_absents(send);
    }
    return status == CPC_S_OK ? send_mark(send, CPC_RECORD_ROUND) : status;
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
        status = send_mark(&send, CPC_RECORD_END);
        if (status == CPC_S_OK) {
            stream->records = stream->channel.sequence;
            stream->ended = 1;
        }
    }
    return status;
}
