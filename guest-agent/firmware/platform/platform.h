/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The platform seam: what only the hardware can do. Nothing above it knows
 * whether a plain machine's cpc device or SEV-SNP answers; which one does is
 * decided by boot_info.platform.
 *
 * Functions that return uint32_t return CPC_P_OK, another CPC_P_* code, or one
 * that PLATFORM_AT or PLATFORM_HARDWARE made. call_platform() in runtime.h
 * turns any of them into the status of a call.
 */
#ifndef CPC_PLATFORM_H
#define CPC_PLATFORM_H

#include <stdbool.h>
#include <stdint.h>

#include "memory.h"

/* A CPC_P_* answer to another platform call than the one the caller names. */
#define PLATFORM_AT(pcall, code)  ((uint32_t)(pcall) << 16 | (code))
/* What must not fail has failed: which (PLATFORM_PVALIDATE, ...), and its own
   code. The call ends with CPC_S_HARDWARE and these two in its result. */
#define PLATFORM_HARDWARE(what, code) \
    ((uint32_t)(what) << 24 | ((uint32_t)(code) & 0xffffu))
#define PLATFORM_PVALIDATE     1u  /* EAX; 0x100: nothing had to be changed */
#define PLATFORM_RMPADJUST     2u  /* EAX */
#define PLATFORM_VMGEXIT       3u  /* the reply's SW_EXITINFO1 */
#define PLATFORM_PSC           4u  /* page state change: SW_EXITINFO2 */
#define PLATFORM_AP_CREATE     5u  /* the reply's SW_EXITINFO1 */
#define PLATFORM_LOST          6u  /* a frozen guest's page became unreadable */
#define PLATFORM_NO_PLACE      7u  /* a page that the platform cannot hold */
#define PLATFORM_RMPQUERY      8u  /* EAX; 0x100: the page is no save area */

struct platform_ops {
    /* ---- start ---- */
    /* On every hvCPU before anything else here; false: it cannot work. */
    bool (*join)(void);
    /* On the first hvCPU, before firmware_init(). A CPC_S_* status. */
    uint32_t (*init)(void);
    /* On the first hvCPU, after it: let a guest that is not incoming begin. */
    uint32_t (*begin)(void);
    /* Sleep until the host wakes this hvCPU. May return at any time. */
    void (*park)(void);
    /* Launched to receive. */
    bool (*incoming)(void);

    /* ---- the map ---- */
    /* A copy of the table of regions, to be judged by memory_snapshot().
       A CPC_S_* status; may be called while no session is open only. */
    uint32_t (*regions)(struct cpc_region_table *table);
    /* The table's generation now. Cheap. */
    uint32_t (*generation)(void);
    /* What both ends of a migration must have in common besides their hellos;
       false when there is no such thing. After regions(). */
    bool (*binding)(uint8_t digest[32]);

    /* ---- source: pages ---- */
    /* One CPC_KIND_* byte a page; pages <= CPC_KINDS_MAX. */
    uint32_t (*kinds)(const struct cpc_region *region, uint64_t first,
                      uint32_t pages, uint8_t *kinds);
    /* A look at up to CPC_RUN_PAGES pages that are about to be sent, bit n of
       `wanted` for page first + n. Sets their bits in *zero; a page that turns
       out not to be readable becomes absent in `kinds`. Pages of indirect
       regions are not looked into. */
    uint32_t (*look)(const struct cpc_region *region, uint64_t first,
                     uint32_t wanted, uint8_t *kinds, uint32_t *zero);
    /* Where the bytes of *pages (<= CPC_RUN_PAGES) pages of one kind are: guest
       memory, to be read once, or `bounce`, which was filled. *pages becomes
       less where a running guest took a page away meanwhile. */
    uint32_t (*read)(const struct cpc_region *region, uint64_t first,
                     uint32_t *pages, uint8_t kind, uint8_t *bounce,
                     const uint8_t **bytes);

    /* ---- destination: pages. entries: what the version table says of each
       page, which is what this firmware has made of it itself ---- */
    /* Before the first page arrives: whatever was there is gone. */
    uint32_t (*erase)(const struct cpc_region *region);
    /* Pages (<= CPC_RUN_PAGES) of `kind`, verified, from trusted memory. */
    uint32_t (*insert)(const struct cpc_region *region, uint64_t first,
                       uint32_t pages, const uint32_t *entries, uint8_t kind,
                       const uint8_t *from);
    /* Zero pages of `kind`, or absent ones. */
    uint32_t (*clear)(const struct cpc_region *region, uint64_t first,
                      uint64_t pages, const uint32_t *entries, uint8_t kind);

    /* ---- gvCPUs ---- */
    uint32_t (*freeze)(void);
    /* Source: back to before freeze. Destination: what vmsa_load() was given
       begins to run; from the first try on there is no way back. */
    uint32_t (*release)(void);
    /* CPC_P_OK when there is such a gvCPU, CPC_P_NOT_PRESENT when not. */
    uint32_t (*gvcpu)(uint32_t gvcpu);
    /* Frozen: the gvCPU's registers to platform_vmsa(). */
    uint32_t (*vmsa_save)(uint32_t gvcpu, uint32_t *bytes);
    uint32_t (*vmsa_load)(uint32_t gvcpu, uint32_t bytes);
    /* What every platform_vmsa() has is wiped, but where a gvCPU runs or would
       run from there. received: none does, what is there came from a source. */
    void (*vmsa_wipe)(bool received);

    /* ---- the host's part ---- */
    uint32_t (*device_digest)(uint8_t digest[32]);
    /* CPC_PCALL_DISKS_ACTIVE or _INACTIVE */
    uint32_t (*disks)(uint32_t pcall);
    void (*fault)(uint64_t vector, uint64_t ip, uint64_t address);
};

extern const struct platform_ops platform_plain;
extern const struct platform_ops platform_snp;

/* The table of this machine. */
const struct platform_ops *platform(void);

/* A gvCPU's saved state, in trusted memory: CPC_VMSA_STRIDE bytes. */
uint8_t *platform_vmsa(uint32_t gvcpu);

#endif
