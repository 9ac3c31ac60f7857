/* SPDX-License-Identifier: Apache-2.0
 *
 * What the guests without a kernel share: requests to the hypervisor, words on
 * the debug console, a save area to start from, exceptions that end one instruction.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdint.h>
#include "memory.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define PORT 0xe9
#define EXIT_IO 0x7b
#define EXIT_AP_CREATION 0x80000013u
#define EXIT_PSC 0x80000010u
#define EXIT_TERMINATE 0x8000fffeu
#define REGISTER 0x012          /* requests by MSR */
#define TERMINATE 0x100

/* Fields of a GHCB. */
enum {
    RAX = 0x1f8, RCX = 0x308, RDX = 0x310, RBX = 0x318, CODE = 0x390, INFO1 = 0x398,
    INFO2 = 0x3a0, SCRATCH = 0x3a8, VALID = 0x3f0, BUFFER = 0x800,
    VERSION = 0xffa, USAGE = 0xffc,
};

extern const char gdt[];

/* Each program's own: start.S goes there. */
void guest(void);

static inline volatile u64 *at(u64 address)
{
    return (volatile u64 *)address;
}

/*
 * Around an instruction that may raise an exception. %[raised] is 0, or bit 63,
 * the vector from bit 32 on, and the error code.
 */
#define TRY(instruction)                                                      \
    "xor %%r13d, %%r13d; lea 1f(%%rip), %%r14\n" instruction                  \
    "\n1: mov %%r13, %[raised]"
#define TRY_CLOBBERS "r13", "r14", "cc", "memory"

static inline void msr_exit(u64 value)
{
    __asm__ volatile("wrmsr; rep; vmmcall" : : "c"(0xc0010130), "a"((u32)value),
                     "d"((u32)(value >> 32)) : "memory");
}

/* From here on the exceptions that these guests raise end what raised them. */
void catch_exceptions(void);
void gate(u32 vector, const char *handler);

/* A GHCB is named by its guest-physical address. */
void put(u64 ghcb, int field, u64 value);
u64 get(u64 ghcb, int field);

/* A request as it should be, and only its fields. */
void prepare(u64 ghcb, u32 code, u64 info1, u64 info2, u64 rax);
void request(u64 ghcb, u32 code, u64 info1, u64 info2, u64 rax);
void say(u64 ghcb, const volatile u8 *text, u32 length);
u32 hex(volatile u8 *to, u64 value);    /* 16 digits */

void segment(u64 where, u64 selector, u64 attributes);

/* The page becomes one in which a vCPU starts at rip as this one runs. */
void fill_vmsa(u64 page, u64 rip, u64 rsp, u64 rdi);

#endif
