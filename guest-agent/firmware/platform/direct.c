/* SPDX-License-Identifier: Apache-2.0 */
#include "direct.h"

#include "crypto.h"

uint32_t direct_look(const struct cpc_region *region, uint64_t first, uint32_t wanted,
                     uint8_t *kinds, uint32_t *zero)
{
    (void)kinds;
    *zero = 0;
    if (memory_indirect(region)) {
        return CPC_P_OK;
    }
    for (uint32_t i = 0; wanted >> i != 0; i++) {   /* <= CPC_RUN_PAGES */
        if ((wanted >> i & 1) != 0 &&
            arch_page_is_zero(memory_page(region, first + i))) {
            *zero |= 1u << i;
        }
    }
    return CPC_P_OK;
}

uint32_t direct_read(const struct cpc_region *region, uint64_t first, uint32_t *pages,
                     uint8_t kind, uint8_t *bounce, const uint8_t **bytes)
{
    (void)kind;
    if (!memory_indirect(region)) {
        *bytes = memory_page(region, first);
        return CPC_P_OK;
    }
    *bytes = bounce;
    return direct_copy_out(region->id, first, *pages, bounce);
}

uint32_t direct_erase_all(const struct cpc_region *region)
{
    return direct_erase(region->id, 0, region->pages);
}

uint32_t direct_insert(const struct cpc_region *region, uint64_t first, uint32_t pages,
                       const uint32_t *entries, uint8_t kind, const uint8_t *from)
{
    bool other_kind = false;

    for (uint32_t i = 0; i < pages; i++) {          /* <= CPC_RUN_PAGES */
        other_kind |= entries[i] != 0 && MEMORY_KIND(entries[i]) != kind;
    }
    if (other_kind) {
        uint32_t status = direct_erase(region->id, first, pages);
        if (status != CPC_P_OK) {
            return PLATFORM_AT(CPC_PCALL_ERASE, status);
        }
    }
    return direct_copy_in(region->id, first, pages, from);
}

void direct_vmsa_wipe(bool received)
{
    (void)received;
    for (uint32_t i = 0; i < arch_boot_info()->gvcpu_max; i++) {
        crypto_wipe(platform_vmsa(i), CPC_VMSA_STRIDE);     /* i < CPC_GVCPU_LIMIT */
    }
}

/* Erase the pages that hold something; the others still are as erase_all left
   them, absent, and must not become resident. */
uint32_t direct_clear(const struct cpc_region *region, uint64_t first, uint64_t pages,
                      const uint32_t *entries, uint8_t kind)
{
    uint64_t from = 0;

    (void)kind;
    /* Both loops together pass over every page once. */
    while (from < pages) {
        uint64_t to = from;
        while (to < pages && entries[to] != 0) {
            to++;
        }
        if (to > from) {
            uint32_t status = direct_erase(region->id, first + from, to - from);
            if (status != CPC_P_OK) {
                return status;
            }
        }
        from = to + 1;
    }
    return CPC_P_OK;
}
