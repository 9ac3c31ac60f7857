/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exceptions, and the guard that turns one into the end of a call. There is no
 * return from an exception: it either unwinds to the guard or ends the hvCPU.
 */
#include "layout.h"

#define CPC_S_FAULT  600

/* uint32_t guard_enter(uint32_t (*function)(void *), void *argument) */
    .text
    .global guard_enter
guard_enter:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushq %gs:PERCPU_GUARD_SP
    mov %rsp, %gs:PERCPU_GUARD_SP
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
guard_leave:
    popq %gs:PERCPU_GUARD_SP
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

/* Back to the innermost guard, with CPC_S_FAULT as its result. */
    .global guard_unwind
guard_unwind:
    mov %gs:PERCPU_GUARD_SP, %rsp
    mov $CPC_S_FAULT, %eax
    jmp guard_leave

/* 16 bytes each; every vector pushes a zero where the CPU pushes no code. */
    .balign 16
    .global trap_vectors
trap_vectors:
    .set number, 0
    .rept 32
    .balign 16
    .if (number != 8) && (number < 10 || number > 14) && (number != 17) && (number != 21) && (number != 29) && (number != 30)
    push $0
    .endif
    push $number
    jmp trap_common
    .set number, number + 1
    .endr

trap_common:
    cld
    fninit
    push $0x1f80
    ldmxcsr (%rsp)
    pop %rax
    mov (%rsp), %rdi         /* vector */
    mov 16(%rsp), %rsi       /* instruction */
    mov %cr2, %rdx           /* address, of a page fault */
    mov 8(%rsp), %rcx        /* error code */
    and $~15, %rsp
    call arch_trap           /* does not return */

/* End this hvCPU for ever: an exception that cannot be delivered is a triple
   fault, which the platform reports as its death. Needs nothing to work. */
    .global arch_die
arch_die:
    lidt no_vectors(%rip)
    ud2
    jmp arch_die

    .section .rodata
no_vectors:
    .fill 10, 1, 0

    .section .note.GNU-stack, "", @progbits
