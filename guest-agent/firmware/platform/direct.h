/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages on a machine whose memory has one kind of mapping only: plain's way to
 * look at, read and insert them, on top of calls that differ between the cpc
 * device and the model of it that tests use.
 */
#ifndef CPC_PLATFORM_DIRECT_H
#define CPC_PLATFORM_DIRECT_H

#include "platform.h"

/* These three are the user's: pages of a region by the platform's calls. */
uint32_t direct_erase(uint32_t region, uint64_t first, uint64_t pages);
uint32_t direct_copy_out(uint32_t region, uint64_t first, uint32_t pages, void *to);
uint32_t direct_copy_in(uint32_t region, uint64_t first, uint32_t pages,
                        const void *from);

uint32_t direct_look(const struct cpc_region *region, uint64_t first, uint32_t wanted,
                     uint8_t *kinds, uint32_t *zero);
uint32_t direct_read(const struct cpc_region *region, uint64_t first, uint32_t *pages,
                     uint8_t kind, uint8_t *bounce, const uint8_t **bytes);
uint32_t direct_erase_all(const struct cpc_region *region);
uint32_t direct_insert(const struct cpc_region *region, uint64_t first, uint32_t pages,
                       const uint32_t *entries, uint8_t kind, const uint8_t *from);
/* The hardware has the registers: here are copies only. */
void direct_vmsa_wipe(bool received);
uint32_t direct_clear(const struct cpc_region *region, uint64_t first, uint64_t pages,
                      const uint32_t *entries, uint8_t kind);

#endif
