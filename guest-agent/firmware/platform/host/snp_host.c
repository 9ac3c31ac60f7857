/* SPDX-License-Identifier: Apache-2.0 */
/* The model's host: VMGEXITs and the platform calls that come through them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "direct.h"
#include "snp_machine.h"
#include "snp/vmsa.h"

/* What an honest host would not accept is a mistake of the firmware. */
#define MUST(condition)                                                      \
    do {                                                                     \
        if (!(condition)) {                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);   \
            abort();                                                         \
        }                                                                    \
    } while (0)

static uint64_t shm_gpa(uint32_t area)
{
    return host_machine->boot.shm_gpa + area + (uint64_t)host_hvcpu * CPC_PAGE_SIZE;
}

static void *shm_at(uint32_t area)
{
    return host_machine->shm + area + (uint64_t)host_hvcpu * CPC_PAGE_SIZE;
}

uint64_t insn_msr_exit(uint64_t request)
{
    struct snp_machine *snp = host_machine->snp;

    MUST(request == (GHCB_MSR_REGISTER | shm_gpa(CPC_SHM_GHCB)));
    if (snp->refuses_join) {
        return GHCB_MSR_REGISTERED | 0xfffffffff000ull;
    }
    snp->joined[host_hvcpu] = true;
    return GHCB_MSR_REGISTERED | shm_gpa(CPC_SHM_GHCB);
}

/* ---- platform calls ------------------------------------------------------- */

/* Every gvCPU runs from its save area, or none does. */
static void run_gvcpus(struct host_machine *machine, bool run)
{
    struct snp_machine *snp = machine->snp;

    for (uint32_t i = 0; i < machine->boot.gvcpu_max; i++) {
        const uint8_t *own = machine->vmsa + (uint64_t)i * CPC_VMSA_STRIDE;
        if (snp->gvcpu_vmsa[i] == host_trusted_gpa(machine, own)) {
            snp->trusted[i].in_use = run && snp->trusted[i].vmsa;
        }
        for (uint32_t p = 0; p < machine->boot.max_pages; p++) {
            if (snp->gvcpu_vmsa[i] != 0 && snp->rmp[p].private &&
                host_page_gpa(machine, p) == snp->gvcpu_vmsa[i]) {
                snp->rmp[p].in_use = run && snp->rmp[p].vmsa;
            }
        }
    }
}

static uint32_t answer_gvcpu(uint32_t gvcpu)
{
    struct cpc_gvcpu answer = { 0 };

    if (gvcpu >= host_machine->boot.gvcpu_max || !host_machine->gvcpu_present[gvcpu]) {
        return CPC_P_NOT_PRESENT;
    }
    if (host_machine->fail[CPC_PCALL_GVCPU] != CPC_P_OK) {
        return host_machine->fail[CPC_PCALL_GVCPU];
    }
    answer.vmsa_gpa = host_machine->snp->gvcpu_vmsa[gvcpu];
    answer.apic_id = gvcpu;
    answer.flags = host_machine->snp->waits[gvcpu] ? CPC_GVCPU_WAITS : 0;
    memcpy(shm_at(CPC_SHM_BOUNCE), &answer, sizeof(answer));
    return CPC_P_OK;
}

static uint32_t answer_kinds(uint64_t region, uint64_t first, uint64_t pages)
{
    MUST(pages <= CPC_PAGE_SIZE && region < host_machine->table.count);
    const struct cpc_region *r = &host_machine->table.region[region];
    uint8_t *kinds = shm_at(CPC_SHM_BOUNCE);

    host_snp_follow(host_machine, (uint32_t)(r->first_page + first), (uint32_t)pages);
    uint32_t status = platform_plain.kinds(r, first, (uint32_t)pages, kinds);
    for (uint64_t i = 0; i < pages && status == CPC_P_OK; i++) {
        if (host_machine->snp->rmp[r->first_page + first + i].private) {
            kinds[i] = CPC_KIND_PRIVATE;
        }
    }
    return status;
}

static uint32_t freeze_or_release(bool freeze)
{
    struct snp_machine *snp = host_machine->snp;
    uint32_t status = freeze ? platform_plain.freeze() : platform_plain.release();

    if (status == CPC_P_OK) {
        run_gvcpus(host_machine, !freeze || snp->keeps_running);
    }
    return status;
}

static uint32_t answer_call(const struct cpc_pcall *pcall)
{
    void *bounce = shm_at(CPC_SHM_BOUNCE);
    const uint64_t *arg = pcall->arg;
    const struct cpc_region *region = &host_machine->table.region[arg[0] % CPC_REGION_LIMIT];
    uint32_t first = (uint32_t)(region->first_page + arg[1]);

    switch (pcall->op) {
    case CPC_PCALL_KINDS:
        return answer_kinds(arg[0], arg[1], arg[2]);
    case CPC_PCALL_ERASE:
        for (uint32_t i = 0; i < arg[2]; i++) {
            MUST(memory_indirect(region) ||
                 !host_machine->snp->rmp[first + i].validated ||
                 host_machine->snp->rmp[first + i].held);
        }
        return direct_erase((uint32_t)arg[0], arg[1], arg[2]);
    case CPC_PCALL_COPY_OUT:
        MUST(arg[2] == 1);
        return direct_copy_out((uint32_t)arg[0], arg[1], 1, bounce);
    case CPC_PCALL_COPY_IN:
        MUST(arg[2] == 1);
        return direct_copy_in((uint32_t)arg[0], arg[1], 1, bounce);
    case CPC_PCALL_FREEZE:
    case CPC_PCALL_RELEASE:
        return freeze_or_release(pcall->op == CPC_PCALL_FREEZE);
    case CPC_PCALL_GVCPU:
        return answer_gvcpu((uint32_t)arg[0]);
    case CPC_PCALL_DEVICE_DIGEST:
        return platform_plain.device_digest(bounce);
    case CPC_PCALL_DISKS_ACTIVE:
    case CPC_PCALL_DISKS_INACTIVE:
        return platform_plain.disks(pcall->op);
    default:
        MUST(pcall->op == CPC_PCALL_FAULT);
        platform_plain.fault(arg[0], arg[1], arg[2]);
        return CPC_P_OK;
    }
}

static void serve_call(void)
{
    struct cpc_pcall *pcall = shm_at(CPC_SHM_PCALL);
    uint32_t op = pcall->op;
    uint32_t status = answer_call(pcall);

    if (host_machine->snp->after_call != NULL) {
        host_machine->snp->after_call(host_machine, op);
    }
    __atomic_store_n(&pcall->status, status, __ATOMIC_RELEASE);
}

/* ---- VMGEXIT -------------------------------------------------------------- */

static void serve_mmio(const struct ghcb *ghcb)
{
    MUST(ghcb->exit_info_2 == 8 &&
         ghcb->scratch == shm_gpa(CPC_SHM_GHCB) + offsetof(struct ghcb, buffer));
    if (ghcb->exit_info_1 == host_machine->boot.mmio_gpa + CPC_MMIO_CALL) {
        serve_call();
    } else {
        MUST(ghcb->exit_info_1 == host_machine->boot.mmio_gpa + CPC_MMIO_PARK);
        host_park();
    }
}

static void change_state(uint64_t entry)
{
    struct host_machine *machine = host_machine;
    uint64_t gpa = entry & 0xffffffffff000ull;
    uint32_t state = (uint32_t)(entry >> 52 & 0xf);

    MUST((entry & 0xfff) == 0 && entry >> 56 == 0);
    for (uint32_t p = 0; p < machine->boot.max_pages; p++) {
        if (host_page_gpa(machine, p) != gpa) {
            continue;
        }
        MUST(state == GHCB_PSC_PRIVATE || state == GHCB_PSC_SHARED);
        MUST(!machine->snp->rmp[p].validated || machine->snp->rmp[p].held);
        if (!machine->snp->psc_idle && !machine->snp->rmp[p].held) {
            host_rmp_set(machine, p, state == GHCB_PSC_PRIVATE, false);
        }
        return;
    }
    MUST(!"a page state change of what is no memory");
}

static void serve_psc(struct ghcb *ghcb)
{
    struct ghcb_psc *psc = (struct ghcb_psc *)(void *)ghcb->buffer;
    uint32_t left = host_machine->snp->psc_at_once;

    MUST(psc->end < GHCB_PSC_MAX && psc->current <= psc->end && psc->reserved == 0);
    left = left == 0 ? GHCB_PSC_MAX : left;
    for (; psc->current <= psc->end && left > 0; psc->current++, left--) {
        change_state(psc->entry[psc->current]);
    }
    ghcb->exit_info_2 = 0;
}

static uint64_t serve_ap(const struct ghcb *ghcb)
{
    struct snp_machine *snp = host_machine->snp;
    uint32_t apic_id = (uint32_t)(ghcb->exit_info_1 >> 32);

    bool on_init = (uint32_t)ghcb->exit_info_1 == GHCB_AP_CREATE_ON_INIT;
    MUST(on_init || (uint32_t)ghcb->exit_info_1 == GHCB_AP_CREATE);
    MUST(ghcb->rax == VMSA_FEATURE_SNP);
    MUST(apic_id < host_machine->boot.gvcpu_max && host_machine->gvcpu_present[apic_id]);
    uint8_t *page = host_machine->vmsa + (uint64_t)apic_id * CPC_VMSA_STRIDE;
    MUST(ghcb->exit_info_2 == host_trusted_gpa(host_machine, page));
    MUST(snp->trusted[apic_id].vmsa && !snp->trusted[apic_id].in_use);
    MUST((((struct vmsa *)(void *)page)->efer & VMSA_EFER_SVME) != 0);
    if (snp->refuses_ap) {
        return 2;
    }
    snp->created += !on_init;
    snp->ap_on_init[apic_id] = on_init;
    snp->waits[apic_id] = on_init;
    snp->ap_vmsa[apic_id] = ghcb->exit_info_2;
    snp->gvcpu_vmsa[apic_id] = ghcb->exit_info_2;
    memcpy(host_machine->gvcpu[apic_id], page + CPC_PAGE_SIZE / 2, HOST_VMSA_BYTES);
    return 0;
}

static bool valid(const struct ghcb *ghcb, size_t offset)
{
    return (ghcb->valid[offset / 64] >> (offset / 8 % 8) & 1) != 0;
}

void insn_ghcb_exit(uint64_t ghcb_gpa)
{
    struct snp_machine *snp = host_machine->snp;
    struct ghcb *ghcb = shm_at(CPC_SHM_GHCB);
    uint64_t failed = 0;

    MUST(snp->joined[host_hvcpu] && ghcb_gpa == shm_gpa(CPC_SHM_GHCB));
    if (snp->spoil == NULL) {        /* else it may be anything already */
        MUST(ghcb->version == GHCB_VERSION && ghcb->usage == 0);
        MUST(valid(ghcb, offsetof(struct ghcb, exit_code)) &&
             valid(ghcb, offsetof(struct ghcb, exit_info_1)) &&
             valid(ghcb, offsetof(struct ghcb, exit_info_2)) &&
             valid(ghcb, offsetof(struct ghcb, scratch)) &&
             valid(ghcb, offsetof(struct ghcb, rax)));
    }
    switch (ghcb->exit_code) {
    case GHCB_EXIT_MMIO_WRITE:
        serve_mmio(ghcb);
        break;
    case GHCB_EXIT_PSC:
        serve_psc(ghcb);
        break;
    default:
        MUST(ghcb->exit_code == GHCB_EXIT_AP_CREATION);
        failed = serve_ap(ghcb);
        break;
    }
    ghcb->exit_info_1 = failed;
    if (snp->spoil != NULL) {
        snp->spoil(host_machine, ghcb);
    }
}
