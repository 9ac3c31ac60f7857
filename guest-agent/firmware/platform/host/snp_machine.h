/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model of an SEV-SNP machine in a plain process: the reverse map, what the
 * instructions do with it, and a host that answers VMGEXITs, honestly unless a
 * test makes it lie. Guest memory is seen through two windows, private and
 * shared; a page can be read through the one that fits its state only, and a
 * private access to a page that is not validated is a #VC.
 */
#ifndef CPC_PLATFORM_SNP_MACHINE_H
#define CPC_PLATFORM_SNP_MACHINE_H

#include "arch.h"
#include "machine.h"
#include "snp/ghcb.h"
#include "snp/snp.h"

#define MODEL_PAGES       8192u   /* flat pages a model may have */
#define MODEL_UNMAPPED    UINT32_MAX
#define MODEL_AP_RESET    0x0080b004u   /* where gvCPUs but the first start */
/* What the launch validates: so many pages of the RAM from that one on, and one more. */
#define MODEL_LAUNCH       40u
#define MODEL_LAUNCH_PAGES 9u
#define MODEL_LAUNCH_ALONE 1500u

struct rmp_entry {
    bool private;
    bool validated;
    bool vmsa;
    bool in_use;                  /* a gvCPU runs from it */
    bool held;                    /* a test has set it: follows nothing */
    uint32_t validations;         /* 0 -> 1, by PVALIDATE */
    uint32_t rescinded;           /* 1 -> 0 */
};

struct snp_machine {
    struct snp state;             /* the firmware's own */
    pthread_mutex_t lock;
    struct rmp_entry rmp[MODEL_PAGES];             /* of guest memory */
    struct rmp_entry trusted[CPC_GVCPU_LIMIT];     /* of the VMSA pages */
    uint32_t page_at[MODEL_PAGES];   /* window page -> guest page */
    uint32_t window_of[MODEL_PAGES]; /* and back */
    uint8_t *window[2];           /* shared, private */
    bool joined[CPC_HVCPU_LIMIT];

    uint64_t gvcpu_vmsa[CPC_GVCPU_LIMIT];          /* what GVCPU answers */
    uint64_t ap_vmsa[CPC_GVCPU_LIMIT];             /* what AP_CREATE was given */
    bool ap_on_init[CPC_GVCPU_LIMIT];
    bool waits[CPC_GVCPU_LIMIT];                   /* what GVCPU answers */
    uint32_t created;             /* that run at once */

    /* how the host lies */
    uint32_t psc_at_once;         /* entries it does in one exit, 0: all */
    bool psc_idle;                /* says done, does nothing */
    uint32_t pvalidate_code;      /* EAX of the next ones */
    bool pvalidate_unchanged;
    bool no_rmpquery;             /* a processor that does not know it */
    uint32_t injects;             /* so many guarded functions are hit by a #VC
                                     when they have just done their work */
    bool keeps_running;           /* FREEZE stops nobody */
    bool refuses_ap;
    bool refuses_join;
    /* after each exit, what is in the GHCB may become anything */
    void (*spoil)(struct host_machine *machine, struct ghcb *ghcb);
    /* after each call was answered */
    void (*after_call)(struct host_machine *machine, uint32_t op);
};

void host_snp_new(struct host_machine *machine, bool incoming);
/* Once the firmware has started: the other gvCPUs run too. */
void host_snp_started(struct host_machine *machine);
void host_snp_free(struct host_machine *machine);
struct cpc_snp_hints *host_hints(struct host_machine *machine);
uint64_t host_trusted_gpa(const struct host_machine *machine, const void *trusted);

/* Where the model has a guest page, by flat number. */
uint64_t host_page_gpa(const struct host_machine *machine, uint32_t flat);
/* The state of a page, whatever its owner wants. */
void host_rmp_set(struct host_machine *machine, uint32_t flat, bool private,
                  bool validated);
/* Every page follows what the guest has done with it: a hole is nobody's, the
   others are shared or private and validated. */
void host_snp_follow(struct host_machine *machine, uint32_t flat, uint32_t pages);

/* Turns the fault that follows from the model into what it stands for. */
void host_snp_fault(struct host_machine *machine, struct arch_fault *fault);
/* The host injects what looks like a page that is not validated. */
bool host_snp_injects(struct host_machine *machine, struct arch_fault *fault);

#endif
