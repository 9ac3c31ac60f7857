/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages into records. On some platforms a running guest can take a page away
 * while it waits here. Then it is not sent in this round, but owed: the version
 * table says so, and the dirty bit is set again.
 */
#include "migrate_pack.h"

#include "platform.h"

/* So many take the other side as long as a lot of ciphertext, in a few bytes:
   they go early, so that it has them done when the rest has arrived. */
#define ZERO_PAGES_MAX 2048u

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
    send->zero_pages = 0;
    return seal_extents(send, CPC_RECORD_ZERO, send->zero_kind, send->scratch->zero,
                        &send->zeros);
}

static uint32_t flush_absents(struct sender *send)
{
    return seal_extents(send, CPC_RECORD_KIND, CPC_KIND_ABSENT,
                        send->scratch->absent, &send->absents);
}

uint64_t *pack_dirty_hint(const struct cpc_region *region, uint64_t page)
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
    /* The final round sends it or says that it is gone, or the manifest does not fit. The hint
       alone is the host's to clear. */
    send->versions[page] = MEMORY_ENTRY(MEMORY_OWED, MEMORY_VERSION(send->run_old[0]));
    /* Flat and region numbers agree in their last six bits. */
    __atomic_or_fetch(pack_dirty_hint(send->region, page), 1ull << (page % 64),
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

uint32_t pack_flush_run(struct sender *send)
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

uint32_t pack_absent(struct sender *send, uint64_t page)
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
    if (kind != send->zero_kind || send->zero_pages == ZERO_PAGES_MAX) {
        status = flush_zeros(send);
        send->zero_kind = kind;
    }
    _Static_assert(ZERO_PAGES_MAX <= CPC_EXTENTS_MAX, "there is room for each alone");
    add_extent(send->scratch->zero, &send->zeros, address);
    send->zero_pages++;
    return status;
}

static uint32_t add_content(struct sender *send, uint64_t page, uint8_t kind,
                            uint32_t old)
{
    uint32_t status = CPC_S_OK;

    if (send->run_count == CPC_RUN_PAGES || kind != send->run_kind ||
        page != send->run_first + send->run_count) {
        status = pack_flush_run(send);
    }
    if (send->run_count == 0) {
        send->run_first = page;
        send->run_kind = kind;
    }
    send->run_old[send->run_count] = old;
    send->run_count++;
    return status;
}

uint32_t pack_page(struct sender *send, uint64_t page, uint8_t kind, bool zero)
{
    uint32_t old = send->versions[page];

    send->versions[page] = MEMORY_ENTRY(kind, send->round);
    return zero ? add_zero(send, page, kind) : add_content(send, page, kind, old);
}

uint32_t pack_flush_extents(struct sender *send)
{
    uint32_t status = flush_zeros(send);

    return status == CPC_S_OK ? flush_absents(send) : status;
}

uint32_t pack_mark(struct sender *send, uint8_t type)
{
    struct record_body body = { .type = type, .version = send->round };
    return operator_see(send->call, send->channel, &body, &body, NULL);
}
