/* SPDX-License-Identifier: Apache-2.0 */
/* What one hvCPU has for itself, and the parts of this folder for each other. */
#ifndef CPC_X86_PERCPU_H
#define CPC_X86_PERCPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arch.h"
#include "layout.h"

struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3;
    uint16_t io_map;
} __attribute__((packed));

struct percpu {
    struct percpu *self;     /* %gs:0 */
    uint64_t guard_sp;       /* stack pointer of the innermost guard, or 0 */
    struct arch_fault fault; /* the last exception */
    uint32_t number;
    bool fatal;              /* a fault outside a guard was reported */
    uint64_t gdt[5];
    struct tss tss;
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct percpu, guard_sp) == PERCPU_GUARD_SP, "trap.S");

static inline struct percpu *percpu_self(void)
{
    struct percpu *self;

    __asm__ volatile("mov %%gs:0, %0" : "=r"(self));
    return self;
}

/* entry.S, trap.S */
extern uint8_t stacks[CPC_HVCPU_LIMIT][STACK_BLOCK];
void arch_load_tables(uint64_t cr3, const void *gdtr, const void *idtr);
uint32_t guard_enter(uint32_t (*function)(void *), void *argument);
void guard_unwind(void) __attribute__((noreturn));
void arch_die(void) __attribute__((noreturn));

/* traps.c */
void traps_init(void);
void traps_load(struct percpu *self, uint64_t cr3);

/* paging.c: builds the final tables, once. What CR3 becomes, or 0 when the
   machine is larger than they can describe or boot_info makes no sense. */
uint64_t paging_init(const struct cpc_boot_info *boot);

/* cpu.c */
void cpu_detect(const struct cpc_boot_info *boot);

#endif
