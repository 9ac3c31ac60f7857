/* SPDX-License-Identifier: Apache-2.0 */
/* The instructions of an SEV-SNP guest, and where its platform keeps its state. */
#include "snp/snp.h"

#define MSR_GHCB  0xc0010130u

static struct snp state;

struct snp *snp_state(void)
{
    return &state;
}

static void write_msr(uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(MSR_GHCB), "a"((uint32_t)value),
                     "d"((uint32_t)(value >> 32)) : "memory");
}

static void vmgexit(void)
{
    __asm__ volatile("rep; vmmcall" : : : "memory");
}

uint64_t insn_msr_exit(uint64_t request)
{
    uint32_t low, high;

    write_msr(request);
    vmgexit();
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(MSR_GHCB) : "memory");
    return (uint64_t)high << 32 | low;
}

void insn_ghcb_exit(uint64_t ghcb_gpa)
{
    write_msr(ghcb_gpa);
    vmgexit();
}

uint32_t insn_pvalidate(void *page, bool validate, bool *changed)
{
    uint64_t rax = (uint64_t)(uintptr_t)page;
    bool unchanged;

    /* pvalidate, which older assemblers do not know */
    __asm__ volatile(".byte 0xf2, 0x0f, 0x01, 0xff"
                     : "+a"(rax), "=@ccc"(unchanged)
                     : "c"(0), "d"((uint32_t)validate)
                     : "memory");
    *changed = !unchanged;
    return (uint32_t)rax;
}

uint32_t insn_rmpquery(void *page, uint64_t *attributes)
{
    uint64_t rax = (uint64_t)(uintptr_t)page;
    uint64_t rcx = 0;        /* the page's size comes back */

    /* rmpquery */
    __asm__ volatile(".byte 0xf3, 0x0f, 0x01, 0xfd"
                     : "+a"(rax), "+c"(rcx), "+d"(*attributes)
                     :
                     : "memory", "cc");
    return (uint32_t)rax;
}

uint32_t insn_rmpadjust(void *page, uint64_t attributes)
{
    uint64_t rax = (uint64_t)(uintptr_t)page;

    /* rmpadjust */
    __asm__ volatile(".byte 0xf3, 0x0f, 0x01, 0xfe"
                     : "+a"(rax)
                     : "c"(0), "d"(attributes)
                     : "memory", "cc");
    return (uint32_t)rax;
}
