/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plain platform: QEMU's cpc device plays the hardware. Each hvCPU has one
 * request block in trusted memory and hands its address over with a write to
 * the MMIO page.
 */
#include "direct.h"

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

static bool join(void)
{
    return true;
}

static uint32_t nothing(void)
{
    return CPC_S_OK;
}

static void park(void)
{
    *(volatile uint64_t *)(CPC_MMIO_BASE + CPC_MMIO_PARK) = 0;
}

static bool incoming(void)
{
    return arch_boot_info()->incoming != 0;
}

static const struct cpc_region_table *table(void)
{
    return (const struct cpc_region_table *)(uintptr_t)arch_boot_info()->region_table;
}

static uint32_t regions(struct cpc_region_table *copy)
{
    *copy = *table();
    return CPC_S_OK;
}

static uint32_t generation(void)
{
    return __atomic_load_n(&table()->generation, __ATOMIC_RELAXED);
}

static bool binding(uint8_t digest[32])
{
    (void)digest;
    return false;
}

static uint32_t kinds(const struct cpc_region *region, uint64_t first, uint32_t pages,
                      uint8_t *to)
{
    return call(CPC_PCALL_KINDS, (uint64_t[5]){ region->id, first, pages, address(to) },
                NULL);
}

uint32_t direct_erase(uint32_t region, uint64_t first, uint64_t pages)
{
    return call(CPC_PCALL_ERASE, (uint64_t[5]){ region, first, pages }, NULL);
}

uint32_t direct_copy_out(uint32_t region, uint64_t first, uint32_t pages, void *to)
{
    return call(CPC_PCALL_COPY_OUT,
                (uint64_t[5]){ region, first, pages, address(to) }, NULL);
}

uint32_t direct_copy_in(uint32_t region, uint64_t first, uint32_t pages,
                        const void *from)
{
    return call(CPC_PCALL_COPY_IN,
                (uint64_t[5]){ region, first, pages, address(from) }, NULL);
}

static uint32_t freeze(void)
{
    return simple(CPC_PCALL_FREEZE);
}

static uint32_t release(void)
{
    return simple(CPC_PCALL_RELEASE);
}

static uint32_t vmsa_save(uint32_t gvcpu, uint32_t *bytes)
{
    uint64_t ret;
    uint32_t status = call(CPC_PCALL_VMSA_SAVE, (uint64_t[5]){ gvcpu }, &ret);

    *bytes = (uint32_t)ret;
    return status;
}

/* Asking saves a VMSA where the gvCPUs are frozen, which changes nothing. */
static uint32_t gvcpu_present(uint32_t gvcpu)
{
    uint32_t bytes;

    return vmsa_save(gvcpu, &bytes) == CPC_P_NOT_PRESENT ? CPC_P_NOT_PRESENT : CPC_P_OK;
}

static uint32_t vmsa_load(uint32_t gvcpu, uint32_t bytes)
{
    return call(CPC_PCALL_VMSA_LOAD, (uint64_t[5]){ gvcpu, bytes }, NULL);
}

static uint32_t device_digest(uint8_t digest[32])
{
    return call(CPC_PCALL_DEVICE_DIGEST, (uint64_t[5]){ address(digest) }, NULL);
}

static void fault(uint64_t vector, uint64_t ip, uint64_t fault_address)
{
    call(CPC_PCALL_FAULT, (uint64_t[5]){ vector, ip, fault_address }, NULL);
}

const struct platform_ops platform_plain = {
    .join = join,
    .init = nothing,
    .begin = nothing,
    .park = park,
    .incoming = incoming,
    .regions = regions,
    .generation = generation,
    .binding = binding,
    .kinds = kinds,
    .look = direct_look,
    .read = direct_read,
    .erase = direct_erase_all,
    .insert = direct_insert,
    .clear = direct_clear,
    .freeze = freeze,
    .release = release,
    .gvcpu = gvcpu_present,
    .vmsa_save = vmsa_save,
    .vmsa_load = vmsa_load,
    .vmsa_wipe = direct_vmsa_wipe,
    .device_digest = device_digest,
    .disks = simple,
    .fault = fault,
};
