/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plain platform: QEMU's cpc device plays the hardware. Each hvCPU has one
 * request block in trusted memory and hands its address over with a write to
 * the MMIO page.
 */
#include "platform.h"

#include "arch.h"

static struct cpc_pcall calls[CPC_HVCPU_LIMIT] __attribute__((aligned(64)));

static uint32_t call(uint32_t op, const uint64_t arg[5], uint64_t *ret)
{
    struct cpc_pcall *pcall = &calls[arch_hvcpu()];
    uint32_t status;

    pcall->op = op;
    for (uint32_t i = 0; i < 5; i++) {
        pcall->arg[i] = arg[i];
    }
    pcall->ret = 0;
    __atomic_store_n(&pcall->status, CPC_P_PENDING, __ATOMIC_RELEASE);
    *(volatile uint64_t *)(CPC_MMIO_BASE + CPC_MMIO_CALL) = (uint64_t)(uintptr_t)pcall;
    while ((status = __atomic_load_n(&pcall->status, __ATOMIC_ACQUIRE)) == CPC_P_PENDING) {
        arch_relax();
    }
    if (ret != NULL) {
        *ret = pcall->ret;
    }
    return status;
}

static uint32_t simple(uint32_t op)
{
    return call(op, (uint64_t[5]){ 0 }, NULL);
}

static uint64_t address(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

uint32_t platform_kinds(uint32_t region, uint64_t first, uint32_t pages, uint8_t *kinds)
{
    return call(CPC_PCALL_KINDS,
                (uint64_t[5]){ region, first, pages, address(kinds) }, NULL);
}

uint32_t platform_erase(uint32_t region, uint64_t first, uint64_t pages)
{
    return call(CPC_PCALL_ERASE, (uint64_t[5]){ region, first, pages }, NULL);
}

uint32_t platform_copy_out(uint32_t region, uint64_t first, uint32_t pages, void *to)
{
    return call(CPC_PCALL_COPY_OUT,
                (uint64_t[5]){ region, first, pages, address(to) }, NULL);
}

uint32_t platform_copy_in(uint32_t region, uint64_t first, uint32_t pages, const void *from)
{
    return call(CPC_PCALL_COPY_IN,
                (uint64_t[5]){ region, first, pages, address(from) }, NULL);
}

uint32_t platform_freeze(void)
{
    return simple(CPC_PCALL_FREEZE);
}

uint32_t platform_release(void)
{
    return simple(CPC_PCALL_RELEASE);
}

uint8_t *platform_vmsa(uint32_t gvcpu)
{
    const struct cpc_boot_info *boot = arch_boot_info();

    return (uint8_t *)(uintptr_t)(boot->vmsa_base + (uint64_t)gvcpu * boot->vmsa_stride);
}

uint32_t platform_vmsa_save(uint32_t gvcpu, uint32_t *bytes)
{
    uint64_t ret;
    uint32_t status = call(CPC_PCALL_VMSA_SAVE, (uint64_t[5]){ gvcpu }, &ret);

    *bytes = (uint32_t)ret;
    return status;
}

uint32_t platform_vmsa_load(uint32_t gvcpu, uint32_t bytes)
{
    return call(CPC_PCALL_VMSA_LOAD, (uint64_t[5]){ gvcpu, bytes }, NULL);
}

uint32_t platform_device_digest(uint8_t digest[32])
{
    return call(CPC_PCALL_DEVICE_DIGEST, (uint64_t[5]){ address(digest) }, NULL);
}

uint32_t platform_disks_active(void)
{
    return simple(CPC_PCALL_DISKS_ACTIVE);
}

uint32_t platform_disks_inactive(void)
{
    return simple(CPC_PCALL_DISKS_INACTIVE);
}

void platform_fault(uint64_t vector, uint64_t ip, uint64_t fault_address)
{
    call(CPC_PCALL_FAULT, (uint64_t[5]){ vector, ip, fault_address }, NULL);
}
