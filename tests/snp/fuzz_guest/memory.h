/* SPDX-License-Identifier: Apache-2.0
 *
 * Where these guests have what. guest_image.py has the pages that the launch
 * validates: LOW, CANARY and VMSA.
 */
#ifndef MEMORY_H
#define MEMORY_H

#define TABLES  0x10000
#define IDT     0x1a000
#define CPUS    0x20000         /* struct cpu, a page each */
#define SPINS   0x22000
#define LOCK    0x23000         /* whose turn it is to say something */
#define AFTER   0x24000         /* what registers.S found in the registers */
#define STACK0  0x40000
#define STACK1  0x50000
#define CANARY  0x100000        /* private pages that nothing may change */
#define CANARY_END 0x200000
#define VMSA    0x300000        /* save area of the second vCPU */
#define GHCBS   0x400000        /* shared, a page each */
#define PLAY    0x600000        /* pages of every kind */
#define PLAY_END 0x4000000
#define WINDOW_PAGE 0xd0000000  /* memory of a PCI device */
#define SHARED  0x100000000     /* the mapping without the C-bit */
#define PARAMETERS 0xfffff000   /* in the image: struct parameters */
#define LIST0   0xffffc000      /* in the image: struct step */
#define LIST1   0xffffd000
#define PATTERNS 0xffffb000     /* in the image: see registers.S */

#endif
