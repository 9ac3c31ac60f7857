/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of a guest that arrives. Whether a page is validated is known from
 * the version table: this firmware did it, exactly once. Content is verified
 * in trusted memory before a page is validated for it.
 */
#include "snp.h"

static uint64_t gpa_of(const struct cpc_region *region, uint64_t page)
{
    uint64_t flat = region->first_page + page;
    const struct cpc_snp_extent *extent = snp_find(flat);   /* it is covered */

    return extent->gpa + (flat - extent->first_page) * CPC_PAGE_SIZE;
}

/* Unchanged means that the page is not what this firmware knows it to be: the host
   has swapped what lies behind the address. */
static uint32_t pvalidate(const struct cpc_region *region, uint64_t page, bool validate)
{
    bool changed = false;
    uint32_t code = insn_pvalidate(snp_guest_page(region, page, CPC_KIND_PRIVATE), validate,
                                   &changed);

    if (code != 0 || !changed) {
        return PLATFORM_HARDWARE(PLATFORM_PVALIDATE, code != 0 ? code : 0x100);
    }
    return CPC_P_OK;
}

/* A batch of page state changes. */
struct batch {
    uint32_t state;
    uint32_t count;
    uint64_t gpa[GHCB_PSC_MAX];
};

static uint32_t flush(struct batch *batch)
{
    uint32_t count = batch->count;

    batch->count = 0;
    return ghcb_psc(batch->gpa, count, batch->state);
}

static uint32_t add(struct batch *batch, uint64_t gpa)
{
    batch->gpa[batch->count++] = gpa;
    return batch->count == GHCB_PSC_MAX ? flush(batch) : CPC_P_OK;
}

/* Private, and validated: those of the (<= GHCB_PSC_MAX) pages that are not. */
static uint32_t make_private(const struct cpc_region *region, uint64_t first,
                             uint32_t pages, const uint32_t *entries)
{
    struct batch batch = { .state = GHCB_PSC_PRIVATE };
    uint32_t status = CPC_P_OK;

    for (uint32_t i = 0; i < pages && status == CPC_P_OK; i++) {
        if (MEMORY_KIND(entries[i]) != CPC_KIND_PRIVATE) {
            status = add(&batch, gpa_of(region, first + i));
        }
    }
    if (status == CPC_P_OK) {
        status = flush(&batch);
    }
    for (uint32_t i = 0; i < pages && status == CPC_P_OK; i++) {
        if (MEMORY_KIND(entries[i]) != CPC_KIND_PRIVATE) {
            status = pvalidate(region, first + i, true);
        }
    }
    return status;
}

/* Not validated any more, and the host's. To be shared, pages that were absent
   are told to the host as well. */
static uint32_t make_shared(const struct cpc_region *region, uint64_t first,
                            uint64_t pages, const uint32_t *entries, bool absent_too)
{
    struct batch batch = { .state = GHCB_PSC_SHARED };
    uint32_t status = CPC_P_OK;

    for (uint64_t i = 0; i < pages && status == CPC_P_OK; i++) {
        uint32_t kind = MEMORY_KIND(entries[i]);
        if (kind == CPC_KIND_PRIVATE) {
            status = pvalidate(region, first + i, false);
        }
        if (status == CPC_P_OK && (kind == CPC_KIND_PRIVATE ||
                                   (kind == CPC_KIND_ABSENT && absent_too))) {
            status = add(&batch, gpa_of(region, first + i));
        }
    }
    return status == CPC_P_OK ? flush(&batch) : status;
}

static uint32_t erase_range(const struct cpc_region *region, uint64_t first, uint64_t pages)
{
    uint32_t status = snp_pcall(CPC_PCALL_ERASE, region->id, first, pages);

    return status > CPC_P_FAILED || status == CPC_P_OK
               ? status
               : PLATFORM_AT(CPC_PCALL_ERASE, status);
}

/*
 * Before the first page: what the launch validated here is given up. Which pages
 * that are is measured, so the host cannot hide one: neither from this nor, with
 * other memory in its place, from PVALIDATE, which has to find it validated.
 */
static uint32_t give_up(const struct cpc_region *region, const struct cpc_snp_range *range)
{
    struct batch batch = { .state = GHCB_PSC_SHARED };
    uint32_t status = CPC_P_OK;

    for (uint64_t i = 0; i < range->pages && status == CPC_P_OK; i++) {
        uint64_t gpa = range->gpa + i * CPC_PAGE_SIZE;
        const struct cpc_snp_extent *extent = snp_find_gpa(gpa);  /* it is covered */
        uint64_t flat = extent->first_page + (gpa - extent->gpa) / CPC_PAGE_SIZE;

        if (flat - region->first_page >= region->pages) {
            continue;
        }
        status = pvalidate(region, flat - region->first_page, false);
        if (status == CPC_P_OK) {
            status = add(&batch, gpa);
        }
    }
    return status == CPC_P_OK ? flush(&batch) : status;
}

uint32_t snp_erase(const struct cpc_region *region)
{
    const struct cpc_boot_info *boot = arch_boot_info();
    uint32_t status = CPC_P_OK;

    for (uint32_t i = 0; i < boot->launch_ranges && status == CPC_P_OK; i++) {
        status = give_up(region, &boot->launch[i]);   /* <= CPC_SNP_LAUNCH ranges */
    }
    return status == CPC_P_OK ? erase_range(region, 0, region->pages) : status;
}

/* Private pages have no place in the host's hands, direct ones none where no
   extent is. */
static uint32_t check_place(const struct cpc_region *region, uint64_t first,
                            uint64_t pages, uint8_t kind)
{
    bool fits = memory_indirect(region) ? kind != CPC_KIND_PRIVATE
                                        : snp_covered(region->first_page + first, pages);

    return fits ? CPC_P_OK : PLATFORM_HARDWARE(PLATFORM_NO_PLACE, 0);
}

struct fill {
    uint8_t *to;
    const uint8_t *from;     /* NULL: zeroes */
    uint32_t pages;
};

static uint32_t fill_on(void *argument)
{
    const struct fill *fill = argument;

    if (fill->from != NULL) {
        arch_copy_pages(fill->to, fill->from, fill->pages);
    } else {
        memset(fill->to, 0, (size_t)fill->pages * CPC_PAGE_SIZE);
    }
    return CPC_S_OK;
}

/* The host can take a validated page away again; that ends the session. */
static uint32_t fill(const struct cpc_region *region, uint64_t first, uint32_t pages,
                     uint8_t kind, const uint8_t *from)
{
    struct fill fill = { snp_guest_page(region, first, kind), from, pages };
    struct arch_fault fault;

    if (arch_guard(fill_on, &fill, &fault) != CPC_S_FAULT) {
        return CPC_P_OK;
    }
    if (!snp_not_validated(&fault)) {
        arch_raise(&fault);
    }
    return PLATFORM_HARDWARE(PLATFORM_LOST, 1);
}

static uint32_t copy_in(const struct cpc_region *region, uint64_t first,
                        uint32_t pages, const uint8_t *from)
{
    uint32_t status = CPC_P_OK;

    for (uint32_t i = 0; i < pages && status == CPC_P_OK; i++) { /* <= CPC_RUN_PAGES */
        snp_bounce_put(from + i * CPC_PAGE_SIZE, CPC_PAGE_SIZE);
        status = snp_pcall(CPC_PCALL_COPY_IN, region->id, first + i, 1);
    }
    return status;
}

uint32_t snp_insert(const struct cpc_region *region, uint64_t first, uint32_t pages,
                    const uint32_t *entries, uint8_t kind, const uint8_t *from)
{
    uint32_t status = check_place(region, first, pages, kind);

    if (status != CPC_P_OK) {
        return status;
    }
    if (memory_indirect(region)) {
        return copy_in(region, first, pages, from);
    }
    status = kind == CPC_KIND_PRIVATE ? make_private(region, first, pages, entries)
                                      : make_shared(region, first, pages, entries, true);
    return status == CPC_P_OK ? fill(region, first, pages, kind, from) : status;
}

static uint32_t clear_private(const struct cpc_region *region, uint64_t first,
                              uint64_t pages, const uint32_t *entries)
{
    uint32_t status = CPC_P_OK;

    /* pages / GHCB_PSC_MAX turns */
    for (uint64_t at = 0; at < pages && status == CPC_P_OK; at += GHCB_PSC_MAX) {
        uint64_t left = pages - at;
        uint32_t count = left < GHCB_PSC_MAX ? (uint32_t)left : GHCB_PSC_MAX;

        status = make_private(region, first + at, count, entries + at);
        if (status == CPC_P_OK) {
            status = fill(region, first + at, count, CPC_KIND_PRIVATE, NULL);
        }
    }
    return status;
}

/* The host drops what is there. What was never filled is not mentioned. */
static uint32_t erase_filled(const struct cpc_region *region, uint64_t first,
                             uint64_t pages, const uint32_t *entries)
{
    uint64_t from = 0;

    /* Both loops together pass over every page once. */
    while (from < pages) {
        uint64_t to = from;
        while (to < pages && entries[to] != 0) {
            to++;
        }
        if (to > from) {
            uint32_t status = erase_range(region, first + from, to - from);
            if (status != CPC_P_OK) {
                return status;
            }
        }
        from = to + 1;
    }
    return CPC_P_OK;
}

uint32_t snp_clear(const struct cpc_region *region, uint64_t first, uint64_t pages,
                   const uint32_t *entries, uint8_t kind)
{
    uint32_t status = kind == CPC_KIND_ABSENT ? CPC_P_OK
                                              : check_place(region, first, pages, kind);

    if (status != CPC_P_OK) {
        return status;
    }
    if (kind == CPC_KIND_PRIVATE) {
        return clear_private(region, first, pages, entries);
    }
    if (!memory_indirect(region)) {
        status = make_shared(region, first, pages, entries, kind == CPC_KIND_SHARED);
    }
    return status == CPC_P_OK ? erase_filled(region, first, pages, entries) : status;
}
