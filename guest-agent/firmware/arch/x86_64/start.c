/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the entry code to firmware_main(). The first hvCPU to arrive prepares
 * the machine, the others wait for it. An hvCPU that was removed and added
 * again passes through here again; what is per hvCPU is made anew each time.
 */
#include "percpu.h"

#include "firmware.h"
#include "platform.h"
#include "runtime.h"

#define WAITING  0u     /* nobody has started yet */
#define READY    1u
#define BY(n)    (2u + (n))   /* hvCPU n is preparing */

uint8_t stacks[CPC_HVCPU_LIMIT][STACK_BLOCK] __attribute__((aligned(4096)));

static struct percpu percpu[CPC_HVCPU_LIMIT];
static const struct cpc_boot_info *boot_info;
static uint64_t final_tables;
static uint32_t progress;

void arch_start(uint64_t number, const struct cpc_boot_info *boot);

/* True for the one hvCPU that has to prepare the machine: the first, and again
   the same one if it died of it and was added again. */
static bool must_prepare(uint32_t number)
{
    for (;;) {
        uint32_t seen = WAITING;

        if (__atomic_compare_exchange_n(&progress, &seen, BY(number), false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) ||
            seen == BY(number)) {
            return true;
        }
        if (seen == READY) {
            return false;
        }
        arch_relax();
    }
}

/* A failure of any of these is remembered and answers every call. */
static void start_machine(void)
{
    uint32_t status = platform()->init();
    struct runtime *runtime;

    firmware_init();
    if (status == CPC_S_OK) {
        status = platform()->begin();
    }
    runtime = runtime_get();
    if (status != CPC_S_OK && runtime != NULL && runtime->init_status == CPC_S_OK) {
        runtime->init_status = status;
    }
}

void arch_start(uint64_t number, const struct cpc_boot_info *boot)
{
    struct percpu *self = &percpu[number];
    bool prepare;

    self->self = self;
    self->number = (uint32_t)number;
    self->guard_sp = 0;
    self->fatal = false;
    prepare = must_prepare(self->number);
    if (prepare) {
        boot_info = boot;
        cpu_detect(boot);
        traps_init();
        final_tables = paging_init(boot);
    }
    if (final_tables == 0) {
        /* Without tables there is no safe way to run anything. */
        __atomic_store_n(&progress, READY, __ATOMIC_RELEASE);
        arch_die();
    }
    traps_load(self, final_tables);
    if (!platform()->join()) {
        if (prepare) {
            final_tables = 0;    /* nobody prepares it: nobody may go on */
        }
        __atomic_store_n(&progress, READY, __ATOMIC_RELEASE);
        arch_die();
    }
    if (prepare) {
        start_machine();
        __atomic_store_n(&progress, READY, __ATOMIC_RELEASE);
    }
    firmware_main();
    arch_die();     /* it has no end */
}

uint32_t arch_hvcpu(void)
{
    return percpu_self()->number;
}

const struct cpc_boot_info *arch_boot_info(void)
{
    return boot_info;
}

uint64_t arch_trusted_base(void)
{
    return CPC_TRUSTED_BASE;
}

void *arch_shm(void)
{
    return (void *)CPC_SHM_BASE;
}

uint8_t *arch_ring_data(uint32_t hvcpu)
{
    return (uint8_t *)(RING_VIRTUAL + (uint64_t)hvcpu * RING_STRIDE + RING_SKEW);
}
