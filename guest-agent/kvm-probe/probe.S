/* SPDX-License-Identifier: Apache-2.0
 *
 * A kernel that does once what every kernel does early, and says how far it
 * came: a letter for each step on the serial port, "ok" at the end. A fault
 * that it does not expect is "!" and the end. cpcctl runs it with KVM before
 * it trusts KVM with a guest; cpcctl/accel/answer.py knows the letters.
 *
 * Needs two CPUs and 64 MiB; is started as a multiboot kernel.
 */
        .set PML4,      0x300000
        .set PDPT,      0x301000
        .set LOW,       0x302000        /* page directory of the first GiB */
        .set HIGH,      0x303000        /* and of the fourth, for the APIC */
        .set IDT,       0x304000
        .set STACK,     0x3f0000
        .set USTACK,    0x3e0000
        .set TRAMPOLINE, 0x8000
        .set FILL,      0x2000000       /* 16 MiB of memory that is used */
        .set FILL_SIZE, 0x1000000
        .set ABSENT,    0x3000000       /* 2 MiB that a page fault maps */
        .set APIC,      0xfee00000
        .set PORT,      0x3f8
        .set ROUNDS,    1 << 24         /* of six instructions */
        .set WAKES,     10

        .set KCODE, 0x08
        .set KDATA, 0x10
        .set UBASE, 0x18                /* sysret wants 32-bit code, data, 64-bit code */
        .set UDATA, 0x20
        .set UCODE, 0x28
        .set TSS,   0x30
        .set VECTOR_PIT,   0x20
        .set VECTOR_APIC,  0x30
        .set VECTOR_LEAVE, 0x80

        .macro say letter
        mov     $\letter, %al
        call    put
        .endm
        .macro gate vector, handler, kind
        mov     $\vector, %edi
        lea     \handler(%rip), %rsi
        mov     $\kind, %ecx
        call    set_gate
        .endm
        .macro apic register, value
        movl    $\value, APIC_HERE + \register
        .endm
        .set APIC_HERE, APIC - 0x100000000      /* as a sign-extended address */

        .text
        .code32
header: /* multiboot 1, with addresses of a flat image */
        .long 0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)
        .long header, header, 0, end, start

        .globl start
start:  cli
        cld
        mov     $STACK, %esp
        say     'a'
        mov     $PML4, %edi
        xor     %eax, %eax
        mov     $(5 * 1024), %ecx
        rep stosl
        movl    $(PDPT + 7), PML4
        movl    $(PDPT + 7), PML4 + 511 * 8     /* the APIC, as sign-extended */
        movl    $(LOW + 7), PDPT
        movl    $(HIGH + 7), PDPT + 3 * 8
        movl    $(HIGH + 7), PDPT + 511 * 8
        movl    $(APIC + 0x9b), HIGH + 503 * 8  /* uncached */
        mov     $0x87, %eax                     /* 2 MiB, for ring 3 too */
        mov     $LOW, %edi
1:      mov     %eax, (%edi)
        add     $0x200000, %eax
        add     $8, %edi
        cmp     $(LOW + 32 * 8), %edi
        jne     1b
        movl    $0, LOW + (ABSENT >> 21) * 8
        mov     %cr4, %eax
        or      $0x620, %eax                    /* PAE, OSFXSR, OSXMMEXCPT */
        mov     %eax, %cr4
        mov     $PML4, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx               /* EFER: LME, SCE */
        rdmsr
        or      $0x101, %eax
        wrmsr
        mov     %cr0, %eax
        and     $~0x0c, %eax                    /* no EM, no TS */
        or      $0x80010022, %eax               /* PG, WP, NE, MP */
        mov     %eax, %cr0
        lgdt    gdtr
        ljmp    $KCODE, $long

        .code64
long:   mov     $KDATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $STACK, %rsp
        say     'b'

        /* Exceptions: all end here but a page fault, which is resolved. */
        xor     %edi, %edi
1:      lea     fault(%rip), %rsi
        mov     $0x8e, %ecx
        call    set_gate
        inc     %edi
        cmp     $256, %edi
        jne     1b
        gate    14, page_fault, 0x8e
        gate    VECTOR_PIT, pit_tick, 0x8e
        gate    VECTOR_APIC, apic_tick, 0x8e
        gate    VECTOR_LEAVE, left_user, 0xee
        lidt    idtr
        lea     tss(%rip), %rax
        mov     %ax, gdt + TSS + 2
        shr     $16, %rax
        mov     %al, gdt + TSS + 4
        mov     %ah, gdt + TSS + 7
        mov     $TSS, %eax
        ltr     %ax
        mov     $ABSENT, %ebx
        movq    $0x5a, 8(%rbx)
        cmpq    $0x5a, 8(%rbx)
        jne     fault
        cmpb    $1, faults(%rip)
        jne     fault
        invlpg  (%rbx)
        mov     %cr3, %rax
        mov     %rax, %cr3
        say     'c'

        /* CPUID and MSRs: each goes to the hypervisor. */
        mov     $100, %r12d
1:      mov     $0x80000001, %eax
        cpuid
        mov     $7, %eax
        xor     %ecx, %ecx
        cpuid
        mov     $1, %eax
        cpuid
        dec     %r12d
        jnz     1b
        mov     %ecx, %r13d                     /* features, for below */
        mov     $0x1b, %ecx                     /* APIC base: enabled, at its place */
        rdmsr
        and     $0xfffff800, %eax
        cmp     $(APIC + 0x800), %eax
        jne     fault
        mov     $0x277, %ecx                    /* PAT */
        rdmsr
        wrmsr
        mov     $0xc0000101, %ecx               /* GS base */
        mov     $0x12345678, %eax
        mov     $0x7abc, %edx
        wrmsr
        rdmsr
        cmp     $0x12345678, %eax
        jne     fault
        cmp     $0x7abc, %edx
        jne     fault
        swapgs
        swapgs
        say     'd'

        /* Vector registers. */
        bt      $26, %r13d                      /* XSAVE */
        jnc     1f
        mov     %cr4, %rax
        or      $0x40000, %rax
        mov     %rax, %cr4
        xor     %ecx, %ecx
        xgetbv
        or      $3, %eax
        xsetbv
1:      mov     $ABSENT, %ebx
        movq    %rbx, %xmm0
        paddq   %xmm0, %xmm0
        movq    %xmm0, %rax
        cmp     $(2 * ABSENT), %rax
        jne     fault
        say     'e'

        /* Ring 3 and back, by syscall and by an interrupt. */
        mov     $0xc0000081, %ecx               /* STAR */
        xor     %eax, %eax
        mov     $((UBASE + 3) << 16 | KCODE), %edx
        wrmsr
        mov     $0xc0000082, %ecx               /* LSTAR */
        lea     syscall_entry(%rip), %rax
        xor     %edx, %edx
        wrmsr
        mov     $0xc0000084, %ecx               /* SFMASK */
        mov     $0x200, %eax
        wrmsr
        push    $(UDATA + 3)
        push    $USTACK
        push    $2
        push    $(UCODE + 3)
        lea     user(%rip), %rax
        push    %rax
        iretq
user:   mov     $1000, %ebx
1:      syscall
        dec     %ebx
        jnz     1b
        int     $VECTOR_LEAVE
syscall_entry:
        incq    syscalls(%rip)
        sysretq
left_user:
        mov     $STACK, %rsp
        cmpq    $1000, syscalls(%rip)
        jne     fault
        say     'f'

        /* Memory, by a string instruction, and work: what takes a processor an
           instant takes a slow emulation longer than anybody waits. */
        mov     $FILL, %edi
        mov     $0x0101010101010101, %rax
        mov     $(FILL_SIZE / 8), %ecx
        rep stosq
        mov     $FILL, %esi
        lea     FILL_SIZE(%rsi), %rdi
        xor     %eax, %eax
1:      add     (%rsi), %rax
        add     $64, %rsi
        cmp     %rdi, %rsi
        jne     1b
        mov     $(0x0101010101010101 * (FILL_SIZE / 64) & 0xffffffffffffffff), %rdx
        cmp     %rdx, %rax
        jne     fault
        say     'g'
        mov     $ROUNDS, %ecx
        mov     $1, %eax
1:      mov     %eax, %edx
        shl     $5, %edx
        xor     %edx, %eax
        lea     1(%rax,%rdx), %eax
        dec     %ecx
        jnz     1b
        say     'h'

        /* The timer of the local APIC, as what wakes a halted processor. */
        mov     $0x11, %al                      /* first the PICs: all masked */
        out     %al, $0x20
        out     %al, $0xa0
        mov     $VECTOR_PIT, %al
        out     %al, $0x21
        mov     $(VECTOR_PIT + 8), %al
        out     %al, $0xa1
        mov     $4, %al
        out     %al, $0x21
        mov     $2, %al
        out     %al, $0xa1
        mov     $1, %al
        out     %al, $0x21
        out     %al, $0xa1
        mov     $0xff, %al
        out     %al, $0x21
        out     %al, $0xa1
        apic    0x0f0, 0x1ff                    /* on */
        apic    0x080, 0                        /* any priority */
        apic    0x3e0, 0xb                      /* count every tick of its clock */
        apic    0x320, VECTOR_APIC              /* once */
        rdtsc
        mov     %eax, %r14d
1:      apic    0x380, 100000
        sti
        hlt
        cli
        cmpb    $WAKES, apic_ticks(%rip)
        jb      1b
        rdtsc
        sub     %r14d, %eax
        jz      fault
        say     'i'

        /* The old timer, by way of the PIC. */
        apic    0x350, 0x700
        mov     $0x34, %al
        out     %al, $0x43
        mov     $0xa9, %al                      /* 1193182 / 1193: 1 ms */
        out     %al, $0x40
        mov     $4, %al
        out     %al, $0x40
        mov     $0xfe, %al
        out     %al, $0x21
        mov     $WAKES, %ecx
        call    wait
        say     'j'

        /* The second processor. */
        lea     ap(%rip), %rsi
        mov     $TRAMPOLINE, %edi
        mov     $(ap_end - ap), %ecx
        rep movsb
        apic    0x310, 0
        apic    0x300, 0xc4500                  /* INIT to all others */
        mov     $10, %ecx
        call    wait
        apic    0x300, 0xc4608                  /* start at page 8 */
1:      mov     $1, %ecx
        call    wait
        cmpw    $1, TRAMPOLINE + ap_runs - ap
        jne     1b
        mov     $0xff, %al
        out     %al, $0x21
        say     'k'
        say     'o'
        say     'k'
        say     '\n'
1:      cli
        hlt
        jmp     1b

        /* Sleep until ecx further ticks of the PIT have come. */
wait:   movb    $0, pit_ticks(%rip)
1:      sti
        hlt
        cli
        cmp     %cl, pit_ticks(%rip)
        jb      1b
        ret

pit_tick:
        push    %rax
        incb    pit_ticks(%rip)
        mov     $0x20, %al
        out     %al, $0x20
        pop     %rax
        iretq
apic_tick:
        incb    apic_ticks(%rip)
        apic    0x0b0, 0
        iretq

        /* As an early kernel does: map what was touched and try again. */
page_fault:
        push    %rax
        mov     %cr2, %rax
        cmp     $(ABSENT + 8), %rax
        jne     fault
        incb    faults(%rip)
        movl    $(ABSENT + 0x87), LOW + (ABSENT >> 21) * 8
        pop     %rax
        add     $8, %rsp                        /* the error code */
        iretq

fault:  mov     $'!', %al
        call    put
1:      cli
        hlt
        jmp     1b

        /* Gate edi of the IDT: handler rsi, type ecx. */
set_gate:
        mov     %edi, %eax
        shl     $4, %eax
        mov     %si, IDT(%rax)
        movw    $KCODE, IDT + 2(%rax)
        movb    $0, IDT + 4(%rax)
        mov     %cl, IDT + 5(%rax)
        shr     $16, %rsi
        mov     %si, IDT + 6(%rax)
        movq    $0, IDT + 8(%rax)
        ret

        /* A character on the serial port. The same bytes are right in 32 and
           in 64 bits. */
put:    mov     %al, %ah
        mov     $(PORT + 5), %dx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        mov     $PORT, %dx
        mov     %ah, %al
        out     %al, %dx
        ret

        .code16
ap:     cli
        mov     %cs, %ax
        mov     %ax, %ds
        lock incw ap_runs - ap
1:      hlt
        jmp     1b
ap_runs: .word  0
ap_end:
        .code64

        .balign 8
gdt:    .quad   0, 0x00af9a000000ffff, 0x00cf92000000ffff
        .quad   0x00cffa000000ffff, 0x00cff2000000ffff, 0x00affa000000ffff
        .word   tss_end - tss - 1, 0, 0x8900, 0
        .quad   0
gdtr:   .word   gdtr - gdt - 1
        .long   gdt
idtr:   .word   256 * 16 - 1
        .quad   IDT
        .balign 8
tss:    .long   0
        .quad   STACK
        .zero   88
        .word   0, tss_end - tss
tss_end:
syscalls: .quad 0
faults: .byte   0
pit_ticks: .byte 0
apic_ticks: .byte 0
end:
