/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The platform seam for a plain process. It keeps the rules of the real one:
 * absence comes from the holes of the memory files, freeze and release are
 * refused in the wrong state. A test can make any call fail or fault.
 */
#include "direct.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine.h"

/* The answer a test has set for this call, or CPC_P_OK. */
static uint32_t broken(uint32_t pcall)
{
    if (host_machine->crash[pcall]) {
        *(volatile uint32_t *)(uintptr_t)0xdead0 = 1;
    }
    return host_machine->fail[pcall];
}

static bool inside(uint32_t region, uint64_t first, uint64_t pages)
{
    const struct cpc_region *r = &host_machine->table.region[region];
    return region < host_machine->table.count && first < r->pages &&
           pages <= r->pages - first;
}

static uint32_t kinds_of(const struct cpc_region *of, uint64_t first, uint32_t pages,
                         uint8_t *kinds)
{
    uint32_t region = of->id;

    if (broken(CPC_PCALL_KINDS) != CPC_P_OK) {
        return broken(CPC_PCALL_KINDS);
    }
    if (!inside(region, first, pages) || pages > CPC_KINDS_MAX) {
        return CPC_P_BAD_ARGUMENT;
    }
    const struct host_region *host = &host_machine->region[region];
    int64_t at = (int64_t)(first * CPC_PAGE_SIZE);
    int64_t end = at + (int64_t)pages * CPC_PAGE_SIZE;
    memset(kinds, CPC_KIND_ABSENT, pages);
    while (at < end) {
        int64_t data = lseek(host->fd, at, SEEK_DATA);
        if (data < 0 || data >= end) {
            break;
        }
        int64_t hole = lseek(host->fd, data, SEEK_HOLE);
        if (hole < 0 || hole > end) {
            hole = end;
        }
        for (uint64_t p = (uint64_t)data / CPC_PAGE_SIZE;
             p < (uint64_t)hole / CPC_PAGE_SIZE; p++) {
            kinds[p - first] = host->shared[p] ? CPC_KIND_SHARED : CPC_KIND_PRIVATE;
        }
        at = hole;
    }
    return CPC_P_OK;
}

uint32_t direct_erase(uint32_t region, uint64_t first, uint64_t pages)
{
    if (broken(CPC_PCALL_ERASE) != CPC_P_OK) {
        return broken(CPC_PCALL_ERASE);
    }
    if (!inside(region, first, pages)) {
        return CPC_P_BAD_ARGUMENT;
    }
    return fallocate(host_machine->region[region].fd,
                     FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (int64_t)(first * CPC_PAGE_SIZE),
                     (int64_t)(pages * CPC_PAGE_SIZE)) == 0
               ? CPC_P_OK
               : CPC_P_FAILED;
}

static uint32_t copy(uint32_t pcall, uint32_t region, uint64_t first, uint32_t pages,
                     void *out, const void *in)
{
    if (broken(pcall) != CPC_P_OK) {
        return broken(pcall);
    }
    if (!inside(region, first, pages) || pages > CPC_RUN_PAGES) {
        return CPC_P_BAD_ARGUMENT;
    }
    uint8_t *memory = host_machine->region[region].memory + first * CPC_PAGE_SIZE;
    memcpy(out != NULL ? out : memory, in != NULL ? in : memory,
           (size_t)pages * CPC_PAGE_SIZE);
    return CPC_P_OK;
}

uint32_t direct_copy_out(uint32_t region, uint64_t first, uint32_t pages, void *to)
{
    return copy(CPC_PCALL_COPY_OUT, region, first, pages, to, NULL);
}

uint32_t direct_copy_in(uint32_t region, uint64_t first, uint32_t pages,
                        const void *from)
{
    return copy(CPC_PCALL_COPY_IN, region, first, pages, NULL, from);
}

static uint32_t set_frozen(uint32_t pcall, bool frozen)
{
    uint32_t status = CPC_P_BAD_STATE;

    if (broken(pcall) != CPC_P_OK) {
        return broken(pcall);
    }
    pthread_rwlock_wrlock(&host_machine->gvcpus_run);
    if (host_machine->frozen != frozen) {
        status = host_machine->on_freeze != NULL
                     ? host_machine->on_freeze(host_machine, frozen)
                     : CPC_P_OK;
    }
    if (status == CPC_P_OK) {
        host_machine->frozen = frozen;
        host_machine->releases += !frozen;
        host_machine->device_known = false;
    }
    pthread_rwlock_unlock(&host_machine->gvcpus_run);
    return status;
}

static uint32_t freeze(void)
{
    return set_frozen(CPC_PCALL_FREEZE, true);
}

static uint32_t release(void)
{
    return set_frozen(CPC_PCALL_RELEASE, false);
}

static uint32_t check_gvcpu(uint32_t gvcpu)
{
    if (gvcpu >= host_machine->boot.gvcpu_max || !host_machine->gvcpu_present[gvcpu]) {
        return CPC_P_NOT_PRESENT;
    }
    return host_machine->frozen ? CPC_P_OK : CPC_P_BAD_STATE;
}

static uint32_t vmsa_save(uint32_t gvcpu, uint32_t *bytes)
{
    uint32_t status = check_gvcpu(gvcpu);

    if (status == CPC_P_OK) {
        status = broken(CPC_PCALL_VMSA_SAVE);
    }
    if (status == CPC_P_OK) {
        memcpy(platform_vmsa(gvcpu), host_machine->gvcpu[gvcpu], HOST_VMSA_BYTES);
        *bytes = HOST_VMSA_BYTES;
    }
    return status;
}

static uint32_t vmsa_load(uint32_t gvcpu, uint32_t bytes)
{
    uint32_t status = check_gvcpu(gvcpu);

    if (status == CPC_P_OK) {
        status = broken(CPC_PCALL_VMSA_LOAD);
    }
    if (status == CPC_P_OK && bytes != HOST_VMSA_BYTES) {
        status = CPC_P_BAD_ARGUMENT;
    }
    if (status == CPC_P_OK) {
        memcpy(host_machine->gvcpu[gvcpu], platform_vmsa(gvcpu), bytes);
    }
    return status;
}

static uint32_t device_digest(uint8_t digest[32])
{
    if (broken(CPC_PCALL_DEVICE_DIGEST) != CPC_P_OK) {
        return broken(CPC_PCALL_DEVICE_DIGEST);
    }
    if (!host_machine->device_known) {
        return CPC_P_BAD_STATE;
    }
    memcpy(digest, host_machine->device_digest, 32);
    return CPC_P_OK;
}

static uint32_t disks(uint32_t pcall)
{
    if (broken(pcall) != CPC_P_OK) {
        return broken(pcall);
    }
    return host_machine->disks_active == (pcall == CPC_PCALL_DISKS_ACTIVE)
               ? CPC_P_OK
               : CPC_P_BAD_STATE;
}

static uint32_t gvcpu_present(uint32_t gvcpu)
{
    return check_gvcpu(gvcpu) == CPC_P_NOT_PRESENT ? CPC_P_NOT_PRESENT : CPC_P_OK;
}

static void fault(uint64_t vector, uint64_t ip, uint64_t address)
{
    (void)vector;
    (void)ip;
    (void)address;
    host_machine->faults++;
}

static bool join(void)
{
    return true;
}

static uint32_t nothing(void)
{
    return CPC_S_OK;
}

static bool incoming(void)
{
    return host_machine->boot.incoming != 0;
}

static uint32_t regions(struct cpc_region_table *table)
{
    *table = host_machine->table;
    return CPC_S_OK;
}

static uint32_t generation(void)
{
    return host_machine->table.generation;
}

static bool binding(uint8_t digest[32])
{
    (void)digest;
    return false;
}

const struct platform_ops platform_plain = {
    .join = join,
    .init = nothing,
    .begin = nothing,
    .park = host_park,
    .incoming = incoming,
    .regions = regions,
    .generation = generation,
    .binding = binding,
    .kinds = kinds_of,
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
    .disks = disks,
    .fault = fault,
};
