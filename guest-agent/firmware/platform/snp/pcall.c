/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls to the host: struct cpc_pcall in shared memory, handed over by an MMIO
 * request. The host may answer what it likes, and when it likes.
 */
#include "snp.h"

static void *own(uint32_t area)
{
    return (uint8_t *)arch_shm() + snp_page_of(area);
}

uint32_t snp_pcall(uint32_t op, uint64_t a, uint64_t b, uint64_t c)
{
    struct cpc_pcall *pcall = own(CPC_SHM_PCALL);
    uint32_t status;

    pcall->op = op;
    pcall->arg[0] = a;
    pcall->arg[1] = b;
    pcall->arg[2] = c;
    pcall->arg[3] = 0;       /* the bounce page is meant, wherever it matters */
    pcall->arg[4] = 0;
    pcall->ret = 0;
    __atomic_store_n(&pcall->status, CPC_P_PENDING, __ATOMIC_RELEASE);
    status = ghcb_mmio_write(arch_boot_info()->mmio_gpa + CPC_MMIO_CALL, 1);
    if (status != CPC_P_OK) {
        return status;
    }
    /* Unbounded like any wait for the host: it can always stop us. */
    while ((status = __atomic_load_n(&pcall->status, __ATOMIC_ACQUIRE)) == CPC_P_PENDING) {
        arch_relax();
    }
    return status <= CPC_P_FAILED ? status : CPC_P_FAILED;
}

void snp_bounce_get(void *to, uint32_t size)
{
    copy_shared(to, own(CPC_SHM_BOUNCE), size);
}

bool snp_bounce_is_zero(void)
{
    return arch_page_is_zero(own(CPC_SHM_BOUNCE));
}

void snp_bounce_put(const void *from, uint32_t size)
{
    memcpy(own(CPC_SHM_BOUNCE), from, size);
}

void snp_park(void)
{
    /* A host that refuses to park an hvCPU pays for its turning. */
    ghcb_mmio_write(arch_boot_info()->mmio_gpa + CPC_MMIO_PARK, 0);
}

uint32_t snp_device_digest(uint8_t digest[32])
{
    uint32_t status = snp_pcall(CPC_PCALL_DEVICE_DIGEST, 0, 0, 0);

    snp_bounce_get(digest, 32);
    return status;
}

uint32_t snp_disks(uint32_t pcall)
{
    return snp_pcall(pcall, 0, 0, 0);
}

void snp_fault(uint64_t vector, uint64_t ip, uint64_t address)
{
    snp_pcall(CPC_PCALL_FAULT, vector, ip, address);
}
