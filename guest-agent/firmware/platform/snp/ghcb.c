/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to the hypervisor. Each hvCPU has a GHCB in the ring file; whatever
 * comes back in it was written by the host: a field is read once, and only to
 * see whether the request was done.
 */
#include "ghcb.h"

#include "snp.h"

static struct ghcb *own_ghcb(void)
{
    return (struct ghcb *)(void *)((uint8_t *)arch_shm() + snp_page_of(CPC_SHM_GHCB));
}

static uint64_t own_gpa(void)
{
    return snp_shm_gpa(snp_page_of(CPC_SHM_GHCB));
}

bool ghcb_register(void)
{
    return insn_msr_exit(GHCB_MSR_REGISTER | own_gpa()) ==
           (GHCB_MSR_REGISTERED | own_gpa());
}

static uint64_t once(const uint64_t *field)
{
    return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static void mark_valid(struct ghcb *ghcb, size_t offset)
{
    ghcb->valid[offset / 64] |= (uint8_t)(1u << (offset / 8 % 8));
}

/* The reply's SW_EXITINFO1: 0 when the request was taken. */
static uint32_t ghcb_exit(uint64_t code, uint64_t info_1, uint64_t info_2, uint64_t rax)
{
    struct ghcb *ghcb = own_ghcb();

    memset(ghcb->valid, 0, sizeof(ghcb->valid));
    ghcb->version = GHCB_VERSION;
    ghcb->usage = 0;
    ghcb->exit_code = code;
    ghcb->exit_info_1 = info_1;
    ghcb->exit_info_2 = info_2;
    ghcb->scratch = own_gpa() + offsetof(struct ghcb, buffer);
    ghcb->rax = rax;
    mark_valid(ghcb, offsetof(struct ghcb, exit_code));
    mark_valid(ghcb, offsetof(struct ghcb, exit_info_1));
    mark_valid(ghcb, offsetof(struct ghcb, exit_info_2));
    mark_valid(ghcb, offsetof(struct ghcb, scratch));
    mark_valid(ghcb, offsetof(struct ghcb, rax));
    insn_ghcb_exit(own_gpa());
    return (uint32_t)once(&ghcb->exit_info_1);
}

uint32_t ghcb_mmio_write(uint64_t gpa, uint64_t value)
{
    memcpy(own_ghcb()->buffer, &value, sizeof(value));
    uint32_t failed = ghcb_exit(GHCB_EXIT_MMIO_WRITE, gpa, sizeof(value), 0);

    return failed == 0 ? CPC_P_OK : PLATFORM_HARDWARE(PLATFORM_VMGEXIT, failed);
}

/*
 * The host may stop before the end and has to be asked to go on. It must have
 * come further each time, or it never would be done. A host that says it has
 * changed what it has not is found out by PVALIDATE, or harms only itself.
 */
uint32_t ghcb_psc(const uint64_t *gpas, uint32_t count, uint32_t state)
{
    struct ghcb_psc *psc = (struct ghcb_psc *)(void *)own_ghcb()->buffer;
    uint32_t done = 0;

    while (done < count) {       /* <= GHCB_PSC_MAX turns */
        psc->current = (uint16_t)done;
        psc->end = (uint16_t)(count - 1);
        psc->reserved = 0;
        for (uint32_t i = done; i < count; i++) {
            psc->entry[i] = gpas[i] | (uint64_t)state << GHCB_PSC_STATE_SHIFT;
        }
        uint32_t failed = ghcb_exit(GHCB_EXIT_PSC, 0, 0, 0);
        if (failed != 0) {
            return PLATFORM_HARDWARE(PLATFORM_VMGEXIT, failed);
        }
        uint64_t info = once(&own_ghcb()->exit_info_2);
        if (info != 0) {
            /* the reason is in the upper half, the entry's own in the lower */
            return PLATFORM_HARDWARE(PLATFORM_PSC, info >> 32 << 8 | (info & 0xff));
        }
        uint32_t now = __atomic_load_n(&psc->current, __ATOMIC_RELAXED);
        if (now <= done || now > count) {
            return PLATFORM_HARDWARE(PLATFORM_PSC, 0);
        }
        done = now;
    }
    return CPC_P_OK;
}

uint32_t ghcb_ap_create(uint64_t when, uint32_t apic_id, uint64_t vmsa_gpa, uint64_t features)
{
    uint32_t failed = ghcb_exit(GHCB_EXIT_AP_CREATION, when | (uint64_t)apic_id << 32,
                                vmsa_gpa, features);

    return failed == 0 ? CPC_P_OK : PLATFORM_HARDWARE(PLATFORM_AP_CREATE, failed);
}
