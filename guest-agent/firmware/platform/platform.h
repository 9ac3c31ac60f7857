/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The platform seam: what only the hardware can do. Nothing above it knows
 * whether a plain machine's cpc device or SEV-SNP answers. Every function
 * returns CPC_P_OK or another CPC_P_* code.
 */
#ifndef CPC_PLATFORM_H
#define CPC_PLATFORM_H

#include <stdint.h>

#include "cpc_abi.h"

/* One CPC_KIND_* byte a page; pages <= CPC_KINDS_MAX. */
uint32_t platform_kinds(uint32_t region, uint64_t first, uint32_t pages,
                        uint8_t *kinds);
/* Content gone, pages absent afterwards. */
uint32_t platform_erase(uint32_t region, uint64_t first, uint64_t pages);
/* For CPC_REGION_INDIRECT regions; pages <= CPC_RUN_PAGES, trusted buffer. */
uint32_t platform_copy_out(uint32_t region, uint64_t first, uint32_t pages,
                           void *to);
uint32_t platform_copy_in(uint32_t region, uint64_t first, uint32_t pages,
                          const void *from);

uint32_t platform_freeze(void);
uint32_t platform_release(void);

/* The VMSA of a gvCPU: saved state in trusted memory. */
uint8_t *platform_vmsa(uint32_t gvcpu);
uint32_t platform_vmsa_save(uint32_t gvcpu, uint32_t *bytes);
uint32_t platform_vmsa_load(uint32_t gvcpu, uint32_t bytes);

uint32_t platform_device_digest(uint8_t digest[32]);
uint32_t platform_disks_active(void);
uint32_t platform_disks_inactive(void);
void platform_fault(uint64_t vector, uint64_t ip, uint64_t address);

#endif
