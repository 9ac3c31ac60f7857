/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sizes that the entry code, the linker script and the C files share, and the
 * virtual addresses that cpc_abi.h does not have: of the data rings, and on
 * SEV-SNP of guest memory seen as shared.
 */
#ifndef CPC_X86_LAYOUT_H
#define CPC_X86_LAYOUT_H

#define PAGE                4096

/* One block of stacks an hvCPU: guard, trap stack, guard, stack. The stack
   grows down into its guard, the trap stack into the first one. */
#define GUARD_SIZE          PAGE
#define TRAP_STACK_SIZE     (2 * PAGE)
#define STACK_SIZE          (20 * PAGE)
#define STACK_BLOCK         (GUARD_SIZE + TRAP_STACK_SIZE + GUARD_SIZE + STACK_SIZE)
#define TRAP_STACK_TOP      (GUARD_SIZE + TRAP_STACK_SIZE)

#define SELECTOR_CODE       0x08
#define SELECTOR_DATA       0x10
#define SELECTOR_TSS        0x18

/* struct percpu, as the assembly sees it */
#define PERCPU_GUARD_SP     8

/*
 * Data ring n is mapped twice in a row at RING_VIRTUAL + n * RING_STRIDE; what
 * is left of the stride stays unmapped. RING_SKEW keeps a ring from being
 * congruent to the page it is filled from modulo a large power of two: an
 * emulated TLB would throw one out for the other on each access. (Below 2 MiB
 * the record headers between the pages shift them against each other.)
 */
#define RING_VIRTUAL        0x0000700000000000
#define RING_STRIDE         0x10000000
#define RING_SKEW           0x00a00000

/* SEV-SNP: flat page p without the C-bit; at CPC_WINDOW_BASE it is with. */
#define SHARED_WINDOW       0x0000400000000000

#endif
