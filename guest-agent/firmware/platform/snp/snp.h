/* SPDX-License-Identifier: Apache-2.0 */
/* What the SEV-SNP platform knows, and its parts for each other. */
#ifndef CPC_SNP_H
#define CPC_SNP_H

#include "insn.h"
#include "platform.h"

enum snp_gvcpu_state {
    SNP_GVCPU_OTHER,         /* not ours to start: it runs, or there is none */
    SNP_GVCPU_FROZEN,        /* its page is no VMSA any more */
    SNP_GVCPU_LOADED,        /* destination: to be created at the release */
};

struct snp_gvcpu {
    uint8_t *page;           /* frozen: where its registers are */
    uint32_t apic_id;
    uint32_t state;
    bool waits;              /* loaded: to be created for the next INIT */
    bool left;               /* frozen: platform_vmsa() is another, and no VMSA */
};

/* One machine's; zero at first. */
struct snp {
    bool incoming;
    bool begun;
    uint32_t extents;        /* of the map as last checked, by flat page */
    struct cpc_snp_extent extent[CPC_SNP_EXTENTS];
    uint32_t mapped;         /* everything that is in the page tables, unless */
    bool torn;               /* a mapping that was begun could not be ended */
    struct cpc_snp_extent map[CPC_SNP_EXTENTS];
    uint8_t binding[32];
    struct snp_gvcpu gvcpu[CPC_GVCPU_LIMIT];
};

/* The architecture keeps it: a test process has two machines. */
struct snp *snp_state(void);

/* Physical address of something in trusted memory / in the ring file. */
uint64_t snp_gpa(const void *trusted);
uint64_t snp_shm_gpa(uint64_t offset);
/* This hvCPU's page of an area of the ring file, CPC_SHM_GHCB and so on. */
uint64_t snp_page_of(uint32_t area);
/* A page of the guest, where this hvCPU reaches it as one of that kind. */
uint8_t *snp_guest_page(const struct cpc_region *region, uint64_t page, uint8_t kind);

/* ghcb.c. CPC_P_OK or PLATFORM_HARDWARE. */
bool ghcb_register(void);
uint32_t ghcb_mmio_write(uint64_t gpa, uint64_t value);
#define GHCB_PSC_MAX           253u
#define GHCB_PSC_PRIVATE       1u
#define GHCB_PSC_SHARED        2u
/* Page state change of up to GHCB_PSC_MAX pages. */
uint32_t ghcb_psc(const uint64_t *gpas, uint32_t count, uint32_t state);
/* when: GHCB_AP_CREATE, it runs at once, or _ON_INIT */
uint32_t ghcb_ap_create(uint64_t when, uint32_t apic_id, uint64_t vmsa_gpa, uint64_t features);

/* pcall.c: a call to the host. Its answers are hints. */
uint32_t snp_pcall(uint32_t op, uint64_t a, uint64_t b, uint64_t c);
/* Copies of the bounce page; size <= CPC_PAGE_SIZE. */
void snp_bounce_get(void *to, uint32_t size);
/* What the host says now; it may say something else a moment later. */
bool snp_bounce_is_zero(void);
void snp_bounce_put(const void *from, uint32_t size);
void snp_park(void);
uint32_t snp_device_digest(uint8_t digest[32]);
uint32_t snp_disks(uint32_t pcall);
void snp_fault(uint64_t vector, uint64_t ip, uint64_t address);

/* hints.c */
uint32_t snp_init(void);
/* Extents of a copy of the hints, sorted by flat page, or CPC_S_BOOT_INFO. */
uint32_t snp_check_extents(struct cpc_snp_hints *hints,
                           const struct cpc_boot_info *boot);
uint32_t snp_regions(struct cpc_region_table *table);
uint32_t snp_generation(void);
bool snp_binding(uint8_t digest[32]);
/* The extent with this flat page / physical address, or NULL. */
const struct cpc_snp_extent *snp_find(uint64_t flat);
const struct cpc_snp_extent *snp_find_gpa(uint64_t gpa);
/* True when extents cover all of these pages. */
bool snp_covered(uint64_t flat, uint64_t pages);

/* source.c */
uint32_t snp_kinds(const struct cpc_region *region, uint64_t first, uint32_t pages,
                   uint8_t *kinds);
uint32_t snp_look(const struct cpc_region *region, uint64_t first, uint32_t wanted,
                  uint8_t *kinds, uint32_t *zero);
uint32_t snp_read(const struct cpc_region *region, uint64_t first, uint32_t *pages,
                  uint8_t kind, uint8_t *bounce, const uint8_t **bytes);
bool snp_not_validated(const struct arch_fault *fault);

/* destination.c */
uint32_t snp_erase(const struct cpc_region *region);
uint32_t snp_insert(const struct cpc_region *region, uint64_t first, uint32_t pages,
                    const uint32_t *entries, uint8_t kind, const uint8_t *from);
uint32_t snp_clear(const struct cpc_region *region, uint64_t first, uint64_t pages,
                   const uint32_t *entries, uint8_t kind);

/* gvcpu.c */
uint32_t snp_begin(void);
uint32_t snp_freeze(void);
uint32_t snp_release(void);
uint32_t snp_gvcpu_present(uint32_t gvcpu);
uint32_t snp_vmsa_save(uint32_t gvcpu, uint32_t *bytes);
uint32_t snp_vmsa_load(uint32_t gvcpu, uint32_t bytes);
void snp_vmsa_wipe(bool received);

#endif
