/* SPDX-License-Identifier: Apache-2.0
 *
 * From the reset vector to guest() in 64-bit mode. Linked at 0xffff0000, 64 KiB
 * below 4 GiB; guest_image.py puts the jump to here at the reset vector.
 *
 * Memory is mapped twice: with the C-bit (private) one to one, and without it
 * (shared) 4 GiB above. Tables, stacks and IDT are in pages that the launch
 * has validated; see memory.h.
 */
#include "memory.h"

        .set CBIT, 0x80000              /* bit 51, in the upper half of an entry */

        .section .text.start, "ax"
        .code16
        .globl  start
start:  cli
        lgdtl   %cs:(gdtr - start)
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $0x08, $protected

        .balign 16
        .globl  gdt
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
gdtr:   .word   . - gdt - 1
        .long   gdt

        .code32
protected:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        movl    $(TABLES + 0x1003), TABLES
        movl    $CBIT, TABLES + 4
        xor     %ecx, %ecx
1:      mov     %ecx, %eax              /* eight directories of 1 GiB */
        shl     $12, %eax
        add     $(TABLES + 0x2003), %eax
        mov     %eax, TABLES + 0x1000(, %ecx, 8)
        movl    $CBIT, TABLES + 0x1004(, %ecx, 8)
        inc     %ecx
        cmp     $8, %ecx
        jb      1b
        xor     %ecx, %ecx
2:      mov     %ecx, %eax              /* 2,048 pages of 2 MiB, twice */
        shl     $21, %eax
        or      $0x83, %eax
        mov     %eax, TABLES + 0x2000(, %ecx, 8)
        movl    $CBIT, TABLES + 0x2004(, %ecx, 8)
        mov     %eax, TABLES + 0x6000(, %ecx, 8)
        inc     %ecx
        cmp     $2048, %ecx
        jb      2b
        mov     %cr4, %eax
        or      $0x20, %eax
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     $TABLES, %eax
        mov     %eax, %cr3
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0
        ljmpl   $0x18, $long

        .code64
long:   mov     $STACK0, %esp
        call    guest
        ud2

/*
 * An exception ends the instruction that was tried: on at %r14. %r13 says which
 * one it was; see TRY in guest.h.
 */
        .macro  catch vector, code
        .globl  caught_\vector
caught_\vector:
        .ifb \code
        push    $0
        .endif
        mov     $\vector, %r13d
        jmp     caught
        .endm

        catch   6
        catch   13, with
        catch   14, with
        catch   29, with
caught: shl     $32, %r13
        or      (%rsp), %r13
        add     $8, %rsp
        bts     $63, %r13
        mov     %r14, (%rsp)
        iretq

        .section .note.GNU-stack, "", @progbits
