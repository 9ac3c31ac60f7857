/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where guest memory is: from the host, copied once a look, checked, and never
 * allowed to say later that a page is somewhere else than it said before.
 */
#include "crypto.h"
#include "snp.h"

#define BYTES(pages) ((pages) * CPC_PAGE_SIZE)

static const struct cpc_snp_hints *shared_hints(void)
{
    return (const struct cpc_snp_hints *)(const void *)((uint8_t *)arch_shm() +
                                                        CPC_SHM_HINTS);
}

uint32_t snp_init(void)
{
    uint32_t incoming = __atomic_load_n(&shared_hints()->incoming, __ATOMIC_RELAXED);

    snp_state()->incoming = incoming == 1;
    return incoming <= 1 ? CPC_S_OK : CPC_S_BOOT_INFO;
}

uint32_t snp_generation(void)
{
    return __atomic_load_n(&shared_hints()->table.generation, __ATOMIC_RELAXED);
}

static bool cuts(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

static bool same_flat(const struct cpc_snp_extent *a, const struct cpc_snp_extent *b)
{
    return cuts(a->first_page, a->pages, b->first_page, b->pages);
}

static bool same_gpa(const struct cpc_snp_extent *a, const struct cpc_snp_extent *b)
{
    return cuts(a->gpa, BYTES(a->pages), b->gpa, BYTES(b->pages));
}

/* The region, present and direct, that has all of the extent; or NULL. */
static const struct cpc_region *region_of(const struct cpc_region_table *table,
                                          const struct cpc_snp_extent *extent)
{
    for (uint32_t i = 0; i < table->count; i++) {   /* <= CPC_REGION_LIMIT */
        const struct cpc_region *region = &table->region[i];
        uint64_t offset = extent->first_page - region->first_page;

        if ((region->flags & CPC_REGION_PRESENT) != 0 && !memory_indirect(region) &&
            extent->first_page >= region->first_page && offset < region->pages &&
            extent->pages <= region->pages - offset) {
            return region;
        }
    }
    return NULL;
}

/* Alone: in a region, and below everything that is the firmware's. */
static bool extent_valid(const struct cpc_snp_extent *extent,
                         const struct cpc_region_table *table,
                         const struct cpc_boot_info *boot)
{
    return extent->pages != 0 && extent->gpa % CPC_PAGE_SIZE == 0 &&
           extent->gpa < boot->trusted_gpa &&
           extent->pages <= (boot->trusted_gpa - extent->gpa) / CPC_PAGE_SIZE &&
           extent->first_page < boot->max_pages &&
           extent->pages <= boot->max_pages - extent->first_page &&
           region_of(table, extent) != NULL;
}

static void sort(struct cpc_snp_extent *list, uint32_t count, bool by_gpa)
{
    for (uint32_t i = 1; i < count; i++) {          /* < CPC_SNP_EXTENTS */
        struct cpc_snp_extent one = list[i];
        uint32_t at = i;
        while (at > 0 && (by_gpa ? list[at - 1].gpa > one.gpa
                                 : list[at - 1].first_page > one.first_page)) {
            list[at] = list[at - 1];
            at--;
        }
        list[at] = one;
    }
}

static const struct cpc_snp_extent *find_gpa(const struct cpc_snp_extent *list,
                                             uint32_t count, uint64_t gpa)
{
    for (uint32_t i = 0; i < count; i++) {          /* <= CPC_SNP_EXTENTS */
        if (gpa - list[i].gpa < BYTES(list[i].pages)) {
            return &list[i];
        }
    }
    return NULL;
}

/* True when extents cover all of a range. */
static bool covers(const struct cpc_snp_hints *hints, const struct cpc_snp_range *range)
{
    uint64_t gpa = range->gpa;
    uint64_t end = gpa + BYTES(range->pages);

    /* <= CPC_SNP_EXTENTS turns: each goes to the end of another extent */
    while (gpa < end) {
        const struct cpc_snp_extent *extent =
            find_gpa(hints->extent, hints->extents, gpa);
        if (extent == NULL) {
            return false;
        }
        gpa = extent->gpa + BYTES(extent->pages);
    }
    return true;
}

/* A page of the launch that is nowhere could not be given up by a destination. */
static bool launch_covered(const struct cpc_snp_hints *hints,
                           const struct cpc_boot_info *boot)
{
    for (uint32_t i = 0; i < boot->launch_ranges; i++) {   /* <= CPC_SNP_LAUNCH */
        if (!covers(hints, &boot->launch[i])) {
            return false;
        }
    }
    return true;
}

uint32_t snp_check_extents(struct cpc_snp_hints *hints, const struct cpc_boot_info *boot)
{
    if (hints->extents > CPC_SNP_EXTENTS || hints->table.count > CPC_REGION_LIMIT) {
        return CPC_S_BOOT_INFO;
    }
    for (uint32_t i = 0; i < hints->extents; i++) {
        if (!extent_valid(&hints->extent[i], &hints->table, boot)) {
            return CPC_S_BOOT_INFO;
        }
        for (uint32_t j = 0; j < i; j++) {
            if (same_flat(&hints->extent[i], &hints->extent[j]) ||
                same_gpa(&hints->extent[i], &hints->extent[j])) {
                return CPC_S_BOOT_INFO;
            }
        }
    }
    sort(hints->extent, hints->extents, false);
    return launch_covered(hints, boot) ? CPC_S_OK : CPC_S_BOOT_INFO;
}

/* Map what is not mapped yet. Nothing that is changes its place. */
static uint32_t map_extent(struct snp *snp, const struct cpc_snp_extent *extent)
{
    for (uint32_t i = 0; i < snp->mapped; i++) {    /* <= CPC_SNP_EXTENTS */
        const struct cpc_snp_extent *old = &snp->map[i];
        bool same = old->gpa - BYTES(old->first_page) ==
                    extent->gpa - BYTES(extent->first_page);

        if (!same && (same_flat(old, extent) || same_gpa(old, extent))) {
            return CPC_S_BOOT_INFO;
        }
        if (same && extent->first_page >= old->first_page &&
            extent->first_page + extent->pages <= old->first_page + old->pages) {
            return CPC_S_OK;
        }
    }
    if (snp->mapped == CPC_SNP_EXTENTS) {
        return CPC_S_TOO_LARGE;
    }
    if (!arch_map(extent->gpa, extent->first_page, extent->pages)) {
        /* The tables have a part of it that `map` does not know. */
        snp->torn = true;
        return CPC_S_TOO_LARGE;
    }
    snp->map[snp->mapped++] = *extent;
    return CPC_S_OK;
}

/*
 * Which page of which region is at which physical address. Both ends of a
 * migration derive their keys from it: a page of the guest can arrive at its
 * own address only.
 */
static void bind(struct snp *snp, const struct cpc_region_table *table)
{
    struct {
        char name[CPC_REGION_NAME];
        uint64_t page;
        uint64_t gpa;
        uint64_t pages;
    } place[CPC_SNP_EXTENTS];
    struct cpc_snp_extent list[CPC_SNP_EXTENTS];
    uint32_t count = 0;

    memset(place, 0, sizeof(place));
    memcpy(list, snp->extent, sizeof(list));
    sort(list, snp->extents, true);
    for (uint32_t i = 0; i < snp->extents; i++) {   /* <= CPC_SNP_EXTENTS */
        const struct cpc_region *region = region_of(table, &list[i]);
        uint64_t page = list[i].first_page - region->first_page;

        if (count > 0 && place[count - 1].gpa + BYTES(place[count - 1].pages) == list[i].gpa &&
            place[count - 1].page + place[count - 1].pages == page &&
            memcmp(place[count - 1].name, region->name, CPC_REGION_NAME) == 0) {
            place[count - 1].pages += list[i].pages;
            continue;
        }
        memcpy(place[count].name, region->name, CPC_REGION_NAME);
        place[count].page = page;
        place[count].gpa = list[i].gpa;
        place[count].pages = list[i].pages;
        count++;
    }
    crypto_sha256(snp->binding, place, sizeof(place));
}

uint32_t snp_regions(struct cpc_region_table *table)
{
    struct snp *snp = snp_state();
    struct cpc_snp_hints hints;

    if (snp->torn) {
        return CPC_S_TOO_LARGE;
    }
    copy_shared(&hints, shared_hints(), sizeof(hints));
    uint32_t status = snp_check_extents(&hints, arch_boot_info());
    snp->extents = 0;
    for (uint32_t i = 0; i < hints.extents && status == CPC_S_OK; i++) {
        status = map_extent(snp, &hints.extent[i]); /* <= CPC_SNP_EXTENTS */
    }
    if (status != CPC_S_OK) {
        return status;
    }
    for (uint32_t i = 0; i < hints.table.count; i++) {
        struct cpc_region *region = &hints.table.region[i];
        region->window = memory_indirect(region)
                             ? 0
                             : (uint64_t)(uintptr_t)arch_window(true) +
                                   BYTES(region->first_page);
    }
    snp->extents = hints.extents;
    memcpy(snp->extent, hints.extent, sizeof(snp->extent));
    *table = hints.table;
    bind(snp, table);
    return CPC_S_OK;
}

bool snp_binding(uint8_t digest[32])
{
    memcpy(digest, snp_state()->binding, 32);
    return true;
}

const struct cpc_snp_extent *snp_find(uint64_t flat)
{
    const struct snp *snp = snp_state();

    for (uint32_t i = 0; i < snp->extents; i++) {   /* <= CPC_SNP_EXTENTS */
        if (flat - snp->extent[i].first_page < snp->extent[i].pages) {
            return &snp->extent[i];
        }
    }
    return NULL;
}

const struct cpc_snp_extent *snp_find_gpa(uint64_t gpa)
{
    return find_gpa(snp_state()->extent, snp_state()->extents, gpa);
}

bool snp_covered(uint64_t flat, uint64_t pages)
{
    uint64_t end = flat + pages;

    /* <= CPC_SNP_EXTENTS turns: each goes to the end of another extent */
    while (flat < end) {
        const struct cpc_snp_extent *extent = snp_find(flat);
        if (extent == NULL) {
            return false;
        }
        flat = extent->first_page + extent->pages;
    }
    return true;
}
