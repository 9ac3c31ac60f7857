/* SPDX-License-Identifier: Apache-2.0 */
#include "memory.h"

static bool name_valid(const char name[CPC_REGION_NAME])
{
    for (uint32_t i = 0; i < CPC_REGION_NAME; i++) {
        if (name[i] == 0) {
            /* zero to the end, so that names compare as whole arrays */
            for (uint32_t j = i; j < CPC_REGION_NAME; j++) {
                if (name[j] != 0) {
                    return false;
                }
            }
            return i > 0;
        }
    }
    return false;
}

static bool overlap(const struct cpc_region *a, const struct cpc_region *b)
{
    return a->first_page < b->first_page + b->pages &&
           b->first_page < a->first_page + a->pages;
}

static uint32_t region_check(const struct memory *memory, uint32_t number,
                             uint64_t max_pages)
{
    const struct cpc_region *region = &memory->region[number];

    if (region->id != number || !name_valid(region->name) || region->pages == 0 ||
        region->first_page % 64 != 0 ||
        (!memory_indirect(region) && region->window == 0)) {
        return CPC_S_BOOT_INFO;
    }
    if (region->pages > max_pages || region->first_page > max_pages - region->pages) {
        return CPC_S_TOO_LARGE;
    }
    for (uint32_t i = 0; i < number; i++) {   /* < CPC_REGION_LIMIT */
        const struct cpc_region *other = &memory->region[i];
        if (memory_present(memory, i) &&
            (overlap(region, other) ||
             memcmp(region->name, other->name, CPC_REGION_NAME) == 0)) {
            return CPC_S_BOOT_INFO;
        }
    }
    return CPC_S_OK;
}

uint32_t memory_snapshot(struct memory *memory, const struct cpc_region_table *table,
                         uint64_t max_pages)
{
    memory->generation = table->generation;
    memory->count = table->count;
    if (memory->count > CPC_REGION_LIMIT) {
        return CPC_S_BOOT_INFO;
    }
    memcpy(memory->region, table->region, memory->count * sizeof(memory->region[0]));
    for (uint32_t i = 0; i < memory->count; i++) {   /* <= CPC_REGION_LIMIT */
        if (memory_present(memory, i)) {
            uint32_t status = region_check(memory, i, max_pages);
            if (status != CPC_S_OK) {
                return status;
            }
        }
    }
    return CPC_S_OK;
}
