/* SPDX-License-Identifier: Apache-2.0 */
#include "guest.h"

/* In start.S; the name has the vector. */
extern const char caught_6[], caught_13[], caught_14[], caught_29[];

void put(u64 ghcb, int field, u64 value)
{
    *at(SHARED + ghcb + field) = value;
}

u64 get(u64 ghcb, int field)
{
    return *at(SHARED + ghcb + field);
}

void prepare(u64 ghcb, u32 code, u64 info1, u64 info2, u64 rax)
{
    *(volatile u16 *)(SHARED + ghcb + VERSION) = 2;
    *(volatile u32 *)(SHARED + ghcb + USAGE) = 0;
    put(ghcb, VALID, ~0ULL);
    put(ghcb, VALID + 8, ~0ULL);
    put(ghcb, CODE, code);
    put(ghcb, INFO1, info1);
    put(ghcb, INFO2, info2);
    put(ghcb, RAX, rax);
}

void request(u64 ghcb, u32 code, u64 info1, u64 info2, u64 rax)
{
    prepare(ghcb, code, info1, info2, rax);
    msr_exit(ghcb);
}

void say(u64 ghcb, const volatile u8 *text, u32 length)
{
    u32 i;

    for (i = 0; i < length; i++) {
        *(volatile u8 *)(SHARED + ghcb + BUFFER + i) = text[i];
    }
    put(ghcb, SCRATCH, ghcb + BUFFER);
    request(ghcb, EXIT_IO, PORT << 16 | 1 << 4 | 1 << 2, length, 0);
}

u32 hex(volatile u8 *to, u64 value)
{
    u32 digit;

    for (digit = 0; digit < 16; digit++) {
        u8 nibble = value >> (60 - 4 * digit) & 15;

        to[digit] = nibble < 10 ? '0' + nibble : 'a' + nibble - 10;
    }
    return 16;
}

void segment(u64 where, u64 selector, u64 attributes)
{
    *at(where) = selector | attributes << 16 | 0xffffffffULL << 32;
    *at(where + 8) = 0;
}

void fill_vmsa(u64 page, u64 rip, u64 rsp, u64 rdi)
{
    u32 i;

    for (i = 0; i < 0x1000; i += 8) {
        *at(page + i) = 0;
    }
    for (i = 0; i < 6; i++) {
        segment(page + i * 16, i == 1 ? 0x18 : 0x10, i == 1 ? 0xa9b : 0xc93);
    }
    *at(page + 0x60) = (u64)31 << 32;                   /* GDTR */
    *at(page + 0x68) = (u64)gdt;
    segment(page + 0x70, 0, 0x82);
    *at(page + 0x80) = (u64)0xfff << 32;                /* IDTR */
    *at(page + 0x88) = IDT;
    segment(page + 0x90, 0, 0x8b);
    *at(page + 0xd0) = 0x1500;                          /* EFER: SVME LMA LME */
    *at(page + 0x148) = 0x20;                           /* CR4 */
    *at(page + 0x150) = TABLES;
    *at(page + 0x158) = 0x80000011;                     /* CR0 */
    *at(page + 0x160) = 0x400;
    *at(page + 0x168) = 0xffff0ff0;
    *at(page + 0x170) = 2;
    *at(page + 0x178) = rip;
    *at(page + 0x1d8) = rsp;
    *at(page + 0x268) = 0x0007040600070406;
    *at(page + 0x338) = rdi;
    *at(page + 0x3b0) = 1;                              /* SEV_FEATURES */
    *at(page + 0x3e8) = 1;
    *at(page + 0x408) = 0x1f80;
    *at(page + 0x410) = 0x37f;
}

void gate(u32 vector, const char *handler)
{
    u64 address = (u64)handler;

    *at(IDT + vector * 16) = (address & 0xffff) | 0x18 << 16 | 0x8e00ULL << 32 |
                             (address >> 16 & 0xffff) << 48;
    *at(IDT + vector * 16 + 8) = address >> 32;
}

void catch_exceptions(void)
{
    const struct { u16 limit; u64 base; } __attribute__((packed)) idtr = { 0xfff, IDT };

    gate(6, caught_6);
    gate(13, caught_13);
    gate(14, caught_14);
    gate(29, caught_29);
    __asm__ volatile("lidt %0" : : "m"(idtr));
}
