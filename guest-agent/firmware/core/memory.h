/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checked map of guest memory: which regions exist, where a page of one
 * lies, and what the version table says about it.
 */
#ifndef CPC_CORE_MEMORY_H
#define CPC_CORE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime.h"

/* In the place of a kind, source only: the page has changed since that version and has to be
   sent, whatever the host's hint says. */
#define MEMORY_OWED 3u
#define MEMORY_VERSION_MASK 0x3fffffffu
#define MEMORY_ENTRY(kind, version) (((uint32_t)(kind) << 30) | (version))
#define MEMORY_KIND(entry) ((entry) >> 30)
#define MEMORY_VERSION(entry) ((entry) & MEMORY_VERSION_MASK)

/* Pages that always belong to one stream together. */
#define MEMORY_BLOCK 512u

struct memory {
    uint32_t generation;
    uint32_t count;
    struct cpc_region region[CPC_REGION_LIMIT];
};

/*
 * Copy the platform's table and check it: names terminated and different, no
 * two regions in the same flat pages. CPC_S_OK, CPC_S_BOOT_INFO (table makes
 * no sense) or CPC_S_TOO_LARGE (more pages than the version table has).
 */
uint32_t memory_snapshot(struct memory *memory, const struct cpc_region_table *table,
                         uint64_t max_pages);

static inline bool memory_present(const struct memory *memory, uint32_t region)
{
    return region < memory->count &&
           (memory->region[region].flags & CPC_REGION_PRESENT) != 0;
}

static inline bool memory_indirect(const struct cpc_region *region)
{
    return (region->flags & CPC_REGION_INDIRECT) != 0;
}

/* First byte of a page in a region that is not indirect. */
static inline uint8_t *memory_page(const struct cpc_region *region, uint64_t page)
{
    return (uint8_t *)(uintptr_t)(region->window + page * CPC_PAGE_SIZE);
}

static inline uint32_t *memory_versions(const struct runtime *runtime,
                                        const struct cpc_region *region)
{
    return runtime->versions + region->first_page;
}

static inline bool memory_owned(uint64_t page, uint32_t stream, uint32_t streams)
{
    return page / MEMORY_BLOCK % streams == stream;
}

#endif
