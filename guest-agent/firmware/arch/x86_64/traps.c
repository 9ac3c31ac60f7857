/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptor tables, and what happens after an exception: inside a guard the
 * call ends with the fault, anywhere else this hvCPU dies. The guest never
 * notices either.
 */
#include "percpu.h"

#include <string.h>

#include "platform.h"

#define VECTORS        32u
#define VECTOR_SIZE    16u
#define PAGE_FAULT     14u
#define GATE           0x8e00u      /* present, interrupt gate */
#define TRAP_IST       1u

#define CODE64         0x00af9b000000ffffull
#define DATA           0x00cf93000000ffffull
#define TSS_AVAILABLE  0x0000890000000000ull

#define MSR_GS_BASE    0xc0000101u

struct gate {
    uint16_t offset_0;
    uint16_t selector;
    uint16_t ist;
    uint16_t offset_1;
    uint32_t offset_2;
    uint32_t reserved;
};

struct table_register {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

extern const uint8_t trap_vectors[];
void arch_trap(uint64_t vector, uint64_t ip, uint64_t address, uint64_t code)
    __attribute__((noreturn));

static struct gate idt[VECTORS] __attribute__((aligned(16)));

void traps_init(void)
{
    for (uint32_t i = 0; i < VECTORS; i++) {
        uint64_t address = (uint64_t)(uintptr_t)(trap_vectors + i * VECTOR_SIZE);

        idt[i].offset_0 = (uint16_t)address;
        idt[i].selector = SELECTOR_CODE;
        idt[i].ist = GATE | TRAP_IST;
        idt[i].offset_1 = (uint16_t)(address >> 16);
        idt[i].offset_2 = (uint32_t)(address >> 32);
        idt[i].reserved = 0;
    }
}

void traps_load(struct percpu *self, uint64_t cr3)
{
    uint64_t tss = (uint64_t)(uintptr_t)&self->tss;
    struct table_register gdtr = { sizeof self->gdt - 1, (uint64_t)(uintptr_t)self->gdt };
    struct table_register idtr = { sizeof idt - 1, (uint64_t)(uintptr_t)idt };
    uint64_t base = (uint64_t)(uintptr_t)self;

    memset(&self->tss, 0, sizeof self->tss);
    self->tss.ist[TRAP_IST - 1] =
        (uint64_t)(uintptr_t)(stacks[self->number] + TRAP_STACK_TOP);
    self->tss.io_map = sizeof self->tss;
    self->gdt[0] = 0;
    self->gdt[SELECTOR_CODE / 8] = CODE64;
    self->gdt[SELECTOR_DATA / 8] = DATA;
    self->gdt[SELECTOR_TSS / 8] = TSS_AVAILABLE | (sizeof self->tss - 1) |
                                  (tss & 0xffffffull) << 16 |
                                  (tss >> 24 & 0xffull) << 56;
    self->gdt[SELECTOR_TSS / 8 + 1] = tss >> 32;
    arch_load_tables(cr3, &gdtr, &idtr);
    __asm__ volatile("wrmsr" : : "c"(MSR_GS_BASE), "a"((uint32_t)base),
                     "d"((uint32_t)(base >> 32)) : "memory");
}

void arch_trap(uint64_t vector, uint64_t ip, uint64_t address, uint64_t code)
{
    struct percpu *self = percpu_self();

    if (self->guard_sp != 0) {
        self->fault.vector = vector;
        self->fault.ip = ip;
        self->fault.address = vector == PAGE_FAULT ? address : 0;
        self->fault.code = code;
        guard_unwind();
    }
    /* A fault while reporting a fault: say nothing more. */
    if (!self->fatal) {
        self->fatal = true;
        platform()->fault(vector, ip, vector == PAGE_FAULT ? address : 0);
    }
    arch_die();
}

uint32_t arch_guard(uint32_t (*function)(void *), void *argument,
                    struct arch_fault *fault)
{
    uint32_t result = guard_enter(function, argument);

    if (result == CPC_S_FAULT) {
        *fault = percpu_self()->fault;
    }
    return result;
}

void arch_raise(const struct arch_fault *fault)
{
    struct percpu *self = percpu_self();

    if (self->guard_sp == 0) {
        arch_trap(fault->vector, fault->ip, fault->address, fault->code);
    }
    self->fault = *fault;
    guard_unwind();
}
