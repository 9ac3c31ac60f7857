/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The image header, the boot page tables, and the first instructions of an
 * hvCPU. They may run again at any time on an hvCPU that was removed and added
 * again, so nothing here depends on what an earlier life left behind.
 */
#include "layout.h"
#include "version.h"

#define CPC_IMAGE_MAGIC   0x57464350
#define CPC_ABI_VERSION   5
#define CPC_HVCPU_LIMIT   16
#define MMIO_PARK         0x0000003000000000
#define CPC_ENTRY_GVCPU   0x100
#define BOOT_PLATFORM     8          /* in struct cpc_boot_info */
#define PLATFORM_SEV_SNP  2

#define MSR_GHCB          0xc0010130
#define AP_RESET_HOLD     0x006

#define MSR_EFER          0xc0000080
#define EFER_NXE          (1 << 11)
#define CR0_MP            (1 << 1)
#define CR0_EM            (1 << 2)
#define CR0_TS            (1 << 3)
#define CR0_NE            (1 << 5)
#define CR0_WP            (1 << 16)
#define CR4_OSFXSR        (1 << 9)
#define CR4_OSXMMEXCPT    (1 << 10)
#define CR4_OSXSAVE       (1 << 18)
#define CPUID1_ECX_XSAVE  (1 << 26)
#define CPUID1_ECX_AVX    (1 << 28)
#define XCR0_X87_SSE_AVX  7

    .section .header, "a"
    .long CPC_IMAGE_MAGIC
    .long CPC_ABI_VERSION
    .long image_size
    .long memory_size
    .long entry_offset
    .long cr3_offset
header_version:
    .asciz CPC_FIRMWARE_VERSION
    .org header_version + 40

/* Identity map of the first 512 GiB, only until paging.c has the real one. */
    .section .data.boot, "aw"
    .balign PAGE
    .global boot_pml4
boot_pml4:
    .quad boot_pdpt + 3
    .fill 511, 8, 0
boot_pdpt:
    .set gib, 0
    .rept 512
    .quad (gib << 30) + 0x83
    .set gib, gib + 1
    .endr

    .section .text.entry, "ax"
    .global entry
entry:
    cli
    cld
    cmp $CPC_ENTRY_GVCPU, %rdi
    jae hold
    cmp $CPC_HVCPU_LIMIT, %rdi
    jae nowhere
    /* Own stack, before anything that could need one. */
    lea 1(%rdi), %rax
    imul $STACK_BLOCK, %rax, %rax
    lea stacks(%rax), %rsp
    xor %ebp, %ebp
    mov %rdi, %r12
    mov %rsi, %r13
    cmpl $PLATFORM_SEV_SNP, BOOT_PLATFORM(%rsi)
    je 1f                    /* all set, and CPUID would be an exception */

    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_NXE, %eax
    wrmsr
    mov %cr0, %rax
    and $~(CR0_EM | CR0_TS), %rax
    or $(CR0_MP | CR0_NE | CR0_WP), %rax
    mov %rax, %cr0
    mov %cr4, %rax
    or $(CR4_OSFXSR | CR4_OSXMMEXCPT), %rax
    mov %rax, %cr4

    mov $1, %eax
    cpuid
    and $(CPUID1_ECX_XSAVE | CPUID1_ECX_AVX), %ecx
    cmp $(CPUID1_ECX_XSAVE | CPUID1_ECX_AVX), %ecx
    jne 1f
    mov %cr4, %rax
    or $CR4_OSXSAVE, %rax
    mov %rax, %cr4
    xor %ecx, %ecx
    xor %edx, %edx
    mov $XCR0_X87_SSE_AVX, %eax
    xsetbv
1:
    fninit
    push $0x1f80
    ldmxcsr (%rsp)
    pop %rax

    mov %r12, %rdi
    mov %r13, %rsi
    call arch_start          /* does not return */

/* No hvCPU of ours: sleep for ever, whoever wakes it. */
nowhere:
    movabs $MMIO_PARK, %rax
2:
    movq $0, (%rax)
    pause
    jmp 2b

/* SEV-SNP: a gvCPU in its launch save area, which nobody can read or change.
   AP reset hold, until an hvCPU has created it anew from another one, and again
   if the host ever lets it run from this one. It touches no memory: there is no
   stack here. */
hold:
    mov $MSR_GHCB, %ecx
    mov $AP_RESET_HOLD, %eax
    xor %edx, %edx
    wrmsr
    rep
    vmmcall                  /* VMGEXIT */
    jmp hold

/* void arch_load_tables(uint64_t cr3, const void *gdtr, const void *idtr) */
    .text
    .global arch_load_tables
arch_load_tables:
    mov %rdi, %cr3
    lgdt (%rsi)
    lidt (%rdx)
    mov $SELECTOR_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs            /* also clears its base, which is set after this */
    mov $SELECTOR_TSS, %eax
    ltr %ax
    pop %rax
    push $SELECTOR_CODE
    push %rax
    lretq

    .section .note.GNU-stack, "", @progbits
