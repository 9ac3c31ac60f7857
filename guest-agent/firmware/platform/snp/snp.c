/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SEV-SNP platform: the processor says what is private, the guest owner's
 * measurement says what runs first, and the host is only asked.
 */
#include "snp.h"

uint64_t snp_gpa(const void *trusted)
{
    return (uint64_t)(uintptr_t)trusted - arch_trusted_base() +
           arch_boot_info()->trusted_gpa;
}

uint64_t snp_shm_gpa(uint64_t offset)
{
    return arch_boot_info()->shm_gpa + offset;
}

uint64_t snp_page_of(uint32_t area)
{
    return area + (uint64_t)arch_hvcpu() * CPC_PAGE_SIZE;
}

uint8_t *snp_guest_page(const struct cpc_region *region, uint64_t page, uint8_t kind)
{
    return arch_window(kind == CPC_KIND_PRIVATE) +
           (region->first_page + page) * CPC_PAGE_SIZE;
}

static bool incoming(void)
{
    return snp_state()->incoming;
}

const struct platform_ops platform_snp = {
    .join = ghcb_register,
    .init = snp_init,
    .begin = snp_begin,
    .park = snp_park,
    .incoming = incoming,
    .regions = snp_regions,
    .generation = snp_generation,
    .binding = snp_binding,
    .kinds = snp_kinds,
    .look = snp_look,
    .read = snp_read,
    .erase = snp_erase,
    .insert = snp_insert,
    .clear = snp_clear,
    .freeze = snp_freeze,
    .release = snp_release,
    .gvcpu = snp_gvcpu_present,
    .vmsa_save = snp_vmsa_save,
    .vmsa_load = snp_vmsa_load,
    .vmsa_wipe = snp_vmsa_wipe,
    .device_digest = snp_device_digest,
    .disks = snp_disks,
    .fault = snp_fault,
};
