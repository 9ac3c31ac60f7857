/* SPDX-License-Identifier: Apache-2.0 */
/* Which platform this is, and what is the same on all of them. */
#include "platform.h"

const struct platform_ops *platform(void)
{
    return arch_boot_info()->platform == CPC_PLATFORM_SEV_SNP ? &platform_snp
                                                              : &platform_plain;
}

uint8_t *platform_vmsa(uint32_t gvcpu)
{
    const struct cpc_boot_info *boot = arch_boot_info();

    return (uint8_t *)(uintptr_t)(boot->vmsa_base + (uint64_t)gvcpu * boot->vmsa_stride);
}
