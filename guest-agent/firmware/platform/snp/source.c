/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of a guest that is to be sent. The host hints at their kinds. A page
 * it calls private is believed when a private access finds it validated; a
 * page it wrongly calls shared or absent is lost to the guest, which notices.
 *
 * Shared pages are read by the host for us. A shared access of our own to a
 * page that the guest makes private in this moment would have the hypervisor
 * take it back, and with it the guest's data.
 */
#include "snp.h"

bool snp_not_validated(const struct arch_fault *fault)
{
    return fault->vector == VECTOR_VC && fault->code == VC_NOT_VALIDATED;
}

/* Pages that no extent has are absent. */
static void cut_to_extents(uint64_t flat, uint32_t pages, uint8_t *kinds)
{
    uint32_t i = 0;

    while (i < pages) {
        const struct cpc_snp_extent *extent = snp_find(flat + i);
        if (extent == NULL) {
            kinds[i++] = CPC_KIND_ABSENT;
        } else {
            uint64_t left = extent->first_page + extent->pages - (flat + i);
            i = left < pages - i ? i + (uint32_t)left : pages;
        }
    }
}

static uint32_t kinds_some(const struct cpc_region *region, uint64_t first,
                           uint32_t pages, uint8_t *kinds)
{
    uint32_t status = snp_pcall(CPC_PCALL_KINDS, region->id, first, pages);

    if (status != CPC_P_OK) {
        return status;
    }
    snp_bounce_get(kinds, pages);
    for (uint32_t i = 0; i < pages; i++) {
        if (kinds[i] > CPC_KIND_SHARED) {
            return CPC_P_FAILED;
        }
        /* An indirect page goes through the host's hands: it is not private. */
        if (memory_indirect(region) && kinds[i] == CPC_KIND_PRIVATE) {
            kinds[i] = CPC_KIND_SHARED;
        }
    }
    if (!memory_indirect(region)) {
        cut_to_extents(region->first_page + first, pages, kinds);
    }
    return CPC_P_OK;
}

uint32_t snp_kinds(const struct cpc_region *region, uint64_t first, uint32_t pages,
                   uint8_t *kinds)
{
    uint32_t status = CPC_P_OK;

    /* <= CPC_KINDS_MAX / CPC_PAGE_SIZE turns */
    for (uint32_t at = 0; at < pages && status == CPC_P_OK; at += CPC_PAGE_SIZE) {
        uint32_t count = pages - at < CPC_PAGE_SIZE ? pages - at : CPC_PAGE_SIZE;
        status = kinds_some(region, first + at, count, kinds + at);
    }
    return status;
}

static uint32_t copy_out(const struct cpc_region *region, uint64_t first,
                         uint32_t pages, uint8_t *to)
{
    for (uint32_t i = 0; i < pages; i++) {               /* <= CPC_RUN_PAGES */
        uint32_t status = snp_pcall(CPC_PCALL_COPY_OUT, region->id, first + i, 1);
        if (status != CPC_P_OK) {
            return PLATFORM_AT(CPC_PCALL_COPY_OUT, status);
        }
        snp_bounce_get(to + i * CPC_PAGE_SIZE, CPC_PAGE_SIZE);
    }
    return CPC_P_OK;
}

struct look {
    const struct cpc_region *region;
    uint64_t first;
    uint32_t wanted;
    volatile uint32_t at;    /* the page that is being read */
    volatile uint32_t zero;
};

static uint32_t look_on(void *argument)
{
    struct look *look = argument;

    for (; look->wanted >> look->at != 0; look->at++) {  /* <= CPC_RUN_PAGES */
        uint32_t at = look->at;
        if ((look->wanted >> at & 1) != 0 &&
            arch_page_is_zero(snp_guest_page(look->region, look->first + at, CPC_KIND_PRIVATE))) {
            look->zero |= 1u << at;
        }
    }
    return CPC_S_OK;
}

uint32_t snp_look(const struct cpc_region *region, uint64_t first, uint32_t wanted,
                  uint8_t *kinds, uint32_t *zero)
{
    struct look look = { .region = region, .first = first, .wanted = wanted };
    struct arch_fault fault;

    *zero = 0;
    if (memory_indirect(region)) {
        return CPC_P_OK;
    }
    for (uint32_t at = 0; look.wanted >> at != 0; at++) {    /* <= CPC_RUN_PAGES */
        if ((look.wanted >> at & 1) != 0 && kinds[at] == CPC_KIND_SHARED) {
            uint32_t status = snp_pcall(CPC_PCALL_COPY_OUT, region->id, first + at, 1);
            if (status != CPC_P_OK) {
                return PLATFORM_AT(CPC_PCALL_COPY_OUT, status);
            }
            look.wanted &= ~(1u << at);
            look.zero |= snp_bounce_is_zero() ? 1u << at : 0;
        }
    }
    /* At most one turn for each page. A #VC while none was being read is one that the host
       injected: it says nothing of a page. */
    while (arch_guard(look_on, &look, &fault) == CPC_S_FAULT) {
        if (!snp_not_validated(&fault) || look.at >= CPC_RUN_PAGES ||
            (look.wanted >> look.at & 1) == 0) {
            arch_raise(&fault);
        }
        kinds[look.at] = CPC_KIND_ABSENT;
        look.at++;
    }
    *zero = look.zero;
    return CPC_P_OK;
}

struct copy {
    uint8_t *to;
    const uint8_t *from;
    uint32_t pages;
    volatile uint32_t done;
};

static uint32_t copy_on(void *argument)
{
    struct copy *copy = argument;

    for (; copy->done < copy->pages; copy->done++) {     /* <= CPC_RUN_PAGES */
        size_t at = (size_t)copy->done * CPC_PAGE_SIZE;
        arch_copy_pages(copy->to + at, copy->from + at, 1);
    }
    return CPC_S_OK;
}

/*
 * Always a copy: an exception in the middle of a seal would leave a sequence
 * number that no record has, and the stream would end with it.
 */
uint32_t snp_read(const struct cpc_region *region, uint64_t first, uint32_t *pages,
                  uint8_t kind, uint8_t *bounce, const uint8_t **bytes)
{
    struct copy copy = { .to = bounce, .pages = *pages };
    struct arch_fault fault;

    *bytes = bounce;
    if (kind == CPC_KIND_SHARED) {
        return copy_out(region, first, *pages, bounce);
    }
    copy.from = snp_guest_page(region, first, CPC_KIND_PRIVATE);
    if (arch_guard(copy_on, &copy, &fault) == CPC_S_FAULT && !snp_not_validated(&fault)) {
        arch_raise(&fault);
    }
    *pages = copy.done;
    return CPC_P_OK;
}
