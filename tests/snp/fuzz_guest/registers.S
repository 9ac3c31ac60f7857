/* SPDX-License-Identifier: Apache-2.0
 *
 * A vCPU that loads the patterns at PATTERNS into its registers and spins, or
 * halts until an NMI; after that it stores what it has at AFTER, likewise:
 *
 *   0x000  general registers by number, but for RSP; 0x080  as FXSAVE64 has it
 *   0x280  YMM0 to 15; 0x480  MSRs, each number and value, to a number 0
 *   0x560  DR0 to 3, DR6, CR2, PKRU (-1: not there), RFLAGS
 *   0x5a0  what FLD pushes then; stored, as FNSTENV has it
 *
 * The word at SPINS counts how often it has loaded, AFTER + 0xff8 how often stored.
 */
#include "memory.h"

#define STORED (AFTER + 0xff8)

        /* Each general register but RSP and R15, and where it is. */
        .macro  general do
        \do     rax, 0x00
        \do     rcx, 0x08
        \do     rdx, 0x10
        \do     rbx, 0x18
        \do     rbp, 0x28
        \do     rsi, 0x30
        \do     rdi, 0x38
        \do     r8, 0x40
        \do     r9, 0x48
        \do     r10, 0x50
        \do     r11, 0x58
        \do     r12, 0x60
        \do     r13, 0x68
        \do     r14, 0x70
        .endm
        .macro  load register, where
        mov     \where(%rsp), %\register
        .endm
        .macro  store register, where
        mov     %\register, AFTER + \where
        .endm

        .macro  load_all
        mov     $PATTERNS, %esp
        fxrstor64 0x80(%rsp)
        fldt    0x5a0(%rsp)
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vmovdqu 0x280 + \n * 32(%rsp), %ymm\n
        .endr
        lea     0x480(%rsp), %rbx
1:      mov     (%rbx), %ecx
        jrcxz   2f
        mov     8(%rbx), %eax
        mov     12(%rbx), %edx
        wrmsr
        add     $16, %rbx
        jmp     1b
2:      .irp    n, 0, 1, 2, 3
        mov     0x560 + \n * 8(%rsp), %rax
        mov     %rax, %dr\n
        .endr
        mov     0x580(%rsp), %rax
        mov     %rax, %dr6
        mov     0x588(%rsp), %rax
        mov     %rax, %cr2
        mov     0x590(%rsp), %rax
        cmp     $-1, %rax
        je      3f
        xor     %ecx, %ecx
        xor     %edx, %edx
        wrpkru
3:      mov     0x598(%rsp), %rax
        mov     $(STACK1 - 8), %esp
        push    %rax
        mov     $PATTERNS, %esp
        general load
        mov     0x78(%rsp), %r15
        mov     $(STACK1 - 16), %esp
        popfq
        .endm

        .text
        .globl  spin_with_patterns, halt_with_patterns, woken
spin_with_patterns:
        load_all
        movq    $1, SPINS               /* of all ways the one that keeps the flags */
4:      jmp     4b

halt_with_patterns:
        load_all
        movq    $1, SPINS
        hlt
        mov     %r15, AFTER + 0x78
        general store
        pushfq
        pop     AFTER + 0x598
        cld
        fxsave64 AFTER + 0x80
        fnstenv AFTER + 0x5a0
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vmovdqu %ymm\n, AFTER + 0x280 + \n * 32
        .endr
        mov     $(PATTERNS + 0x480), %ebx
        mov     $(AFTER + 0x480), %esi
5:      mov     (%rbx), %ecx
        mov     %rcx, (%rsi)
        jrcxz   6f
        rdmsr
        mov     %eax, 8(%rsi)
        mov     %edx, 12(%rsi)
        add     $16, %rbx
        add     $16, %rsi
        jmp     5b
6:      .irp    n, 0, 1, 2, 3
        mov     %dr\n, %rax
        mov     %rax, AFTER + 0x560 + \n * 8
        .endr
        mov     %dr6, %rax
        mov     %rax, AFTER + 0x580
        mov     %cr2, %rax
        mov     %rax, AFTER + 0x588
        mov     $PATTERNS, %esp
        mov     0x590(%rsp), %rax
        mov     $(STACK1 - 8), %esp
        cmp     $-1, %rax
        je      7f
        xor     %ecx, %ecx
        rdpkru
7:      mov     %rax, AFTER + 0x590
        incq    STORED
        jmp     halt_with_patterns

woken:  iretq

        .section .note.GNU-stack, "", @progbits
