/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine in a plain Linux process: threads are hvCPUs, a memfd is the ring
 * file, further memfds are guest memory. Tests make as many as they like; the
 * thread-local `host_machine` says which one the running code belongs to.
 */
#ifndef CPC_ARCH_HOST_MACHINE_H
#define CPC_ARCH_HOST_MACHINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpc_abi.h"

#define HOST_VMSA_BYTES 2000u
#define HOST_PCALLS 16u

struct host_hvcpu {
    pthread_t thread;
    bool started;
    bool pending;            /* a wake not yet consumed */
    bool asleep;
    bool stop;
};

struct host_region {
    int fd;
    uint8_t *memory;
    uint8_t *shared;         /* one byte a page: kind is SHARED, not PRIVATE */
};

struct snp_machine;

struct host_machine {
    struct cpc_boot_info boot;
    struct cpc_region_table table;
    struct snp_machine *snp;             /* NULL: the plain platform */

    uint8_t *trusted;
    int shm_fd;
    uint8_t *shm;
    uint8_t *ring[CPC_HVCPU_LIMIT];      /* mapped twice in a row */
    uint64_t data_offset;

    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct host_hvcpu hvcpu[CPC_HVCPU_LIMIT];
    uint32_t init_status;

    /* what the hardware would know */
    struct host_region region[CPC_REGION_LIMIT];
    pthread_rwlock_t gvcpus_run;         /* a test's gvCPU writes under it */
    bool frozen;
    bool gvcpu_present[CPC_GVCPU_LIMIT];
    uint8_t gvcpu[CPC_GVCPU_LIMIT][HOST_VMSA_BYTES];
    uint8_t *vmsa;
    bool device_known;
    uint8_t device_digest[32];
    bool disks_active;
    uint32_t faults;
    uint32_t releases;

    /* what a test breaks */
    bool no_entropy;
    void (*on_entropy)(struct host_machine *machine);   /* before each word */
    bool crash_hvcpu;                    /* who asks for its hvCPU's number faults, once */
    /* Before gvCPUs stop (true) or start; what it answers but CPC_P_OK refuses. */
    uint32_t (*on_freeze)(struct host_machine *machine, bool frozen);
    uint32_t fail[HOST_PCALLS];          /* answer of that platform call */
    bool crash[HOST_PCALLS];             /* the call faults instead */
    /* runs in the hvCPU's place of sleeping, where a test has no threads */
    void (*on_park)(struct host_machine *machine);
};

extern _Thread_local struct host_machine *host_machine;
extern _Thread_local uint32_t host_hvcpu;

struct host_layout {
    uint32_t hvcpus;
    uint32_t gvcpus;
    uint32_t gvcpu_max;
    bool incoming;
    bool snp;
    uint64_t ring_size;
    int shm_fd;              /* the ring file, handed over; 0: one of its own */
    uint64_t max_pages;      /* that it has room for; 0: what the regions have */
    uint32_t regions;
    struct {
        const char *name;
        uint64_t pages;
        uint32_t flags;      /* besides CPC_REGION_PRESENT */
    } region[CPC_REGION_LIMIT];
};

/* Every machine is one of SEV-SNP, whatever its layout says. */
extern bool host_all_snp;
/* Aborts the process when the kernel refuses memory: only tests run here. */
struct host_machine *host_machine_new(const struct host_layout *layout);
/* Runs firmware_init, then one thread for every hvCPU. */
void host_machine_start(struct host_machine *machine);
void host_machine_free(struct host_machine *machine);

/* What parking is, on any platform: sleep until host_wake(). */
void host_park(void);
/* Wake a parked hvCPU; no wake is lost. */
void host_wake(struct host_machine *machine, uint32_t hvcpu);
/* Parked, and every wake so far was seen. */
bool host_asleep(struct host_machine *machine, uint32_t hvcpu);
/* What the platform does when an hvCPU is removed while parked in a call, and
   added again. */
void host_hvcpu_kill(struct host_machine *machine, uint32_t hvcpu);
void host_hvcpu_add(struct host_machine *machine, uint32_t hvcpu);

static inline struct cpc_mailbox *host_mailbox(struct host_machine *machine,
                                               uint32_t hvcpu)
{
    return (struct cpc_mailbox *)(void *)(machine->shm + CPC_SHM_MAILBOX +
                                          hvcpu * CPC_PAGE_SIZE);
}

static inline struct cpc_ring *host_ring(struct host_machine *machine, uint32_t hvcpu)
{
    return (struct cpc_ring *)(void *)(machine->shm + CPC_SHM_RING +
                                       hvcpu * CPC_PAGE_SIZE);
}

#endif
