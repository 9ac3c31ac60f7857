/* SPDX-License-Identifier: Apache-2.0
 *
 * A kernel that is nothing but a probe: it maps 1 TiB of guest-physical
 * addresses one to one, waits for a byte on the serial port, does the reads
 * and writes of its table as a gvCPU, and prints what each read found.
 *
 * Built by test_isolation.py, which defines the addresses; see there.
 */
        .set TABLES, 0x500000
        .set STACK,  0x3f0000
        .set PORT,   0x3f8

        .text
        .code32
header: /* multiboot 1, with addresses of a flat image */
        .long 0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)
        .long header, header, 0, end, start

start:  cli
        mov     $TABLES, %edi
        xor     %eax, %eax
        mov     $(3 * 1024), %ecx
        rep stosl
        movl    $(TABLES + 0x1003), TABLES
        movl    $(TABLES + 0x2003), TABLES + 8
        mov     $(TABLES + 0x1000), %edi
        xor     %ecx, %ecx
1:      mov     %ecx, %eax
        shl     $30, %eax
        or      $0x83, %eax                     /* present, writable, 1 GiB */
        mov     %eax, (%edi)
        mov     %ecx, %eax
        shr     $2, %eax
        mov     %eax, 4(%edi)
        add     $8, %edi
        inc     %ecx
        cmp     $1024, %ecx
        jne     1b
        mov     %cr4, %eax
        or      $0x20, %eax
        mov     %eax, %cr4
        mov     $TABLES, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0
        lgdt    gdtr
        ljmp    $8, $long

        .code64
long:   mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $STACK, %rsp
        mov     $'R', %al                       /* ready */
        call    put
        call    line
1:      mov     $(PORT + 5), %dx                /* wait for any byte */
        in      %dx, %al
        test    $1, %al
        jz      1b
        mov     $PORT, %dx
        in      %dx, %al

        lea     table(%rip), %rbx
next:   mov     (%rbx), %rax
        mov     8(%rbx), %rdi
        mov     16(%rbx), %rsi
        add     $24, %rbx
        cmp     $'r', %rax
        je      read
        cmp     $'w', %rax
        je      write
        cmp     $'s', %rax
        je      scan
        mov     $'E', %al                       /* end */
        call    put
        call    line
1:      hlt
        jmp     1b

write:  mov     %rsi, (%rdi)
        jmp     next

read:   mov     (%rdi), %rsi
show:   call    hex                             /* address and value */
        mov     $' ', %al
        call    put
        mov     %rsi, %rdi
        call    hex
        call    line
        jmp     next

        /* How many pages below address rdi begin with the 32 bits rsi. */
scan:   xor     %r8, %r8
        xor     %r9, %r9
1:      cmp     %esi, (%r8)
        jne     2f
        inc     %r9
2:      add     $4096, %r8
        cmp     %rdi, %r8
        jb      1b
        mov     %r9, %rsi
        jmp     show

hex:    mov     $16, %ecx                       /* rdi, as 16 digits */
1:      rol     $4, %rdi
        mov     %edi, %eax
        and     $15, %eax
        add     $'0', %al
        cmp     $'9', %al
        jbe     2f
        add     $('a' - '0' - 10), %al
2:      call    put
        dec     %ecx
        jnz     1b
        ret

line:   mov     $'\n', %al
put:    mov     %al, %r10b
1:      mov     $(PORT + 5), %dx
        in      %dx, %al
        test    $0x20, %al
        jz      1b
        mov     $PORT, %dx
        mov     %r10b, %al
        out     %al, %dx
        ret

        .balign 8
gdt:    .quad   0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdtr:   .word   23
        .long   gdt
        .balign 8
table:
#define DO(op, address, value) .quad op, address, value;
        PROBES
        .quad   0, 0, 0
end:
