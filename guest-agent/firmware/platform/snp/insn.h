/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instructions of an SEV-SNP guest. arch/x86_64/snp.c has them, the
 * emulated machine of the unit tests another set with the same rules.
 */
#ifndef CPC_SNP_INSN_H
#define CPC_SNP_INSN_H

#include <stdbool.h>
#include <stdint.h>

/* Write the GHCB MSR, VMGEXIT, read it again. */
uint64_t insn_msr_exit(uint64_t request);
/* VMGEXIT with the GHCB at this physical address. */
void insn_ghcb_exit(uint64_t ghcb_gpa);

/* One 4 KiB page by its address. Returns EAX; *changed is CF inverted. */
uint32_t insn_pvalidate(void *page, bool validate, bool *changed);

/* One 4 KiB page by its address, RDX = attributes. Returns EAX. */
uint32_t insn_rmpadjust(void *page, uint64_t attributes);
#define RMPADJUST_VMPL1        1ull        /* the VMPL whose rights are set: none */
#define RMPADJUST_VMSA         (1ull << 16)

/* One 4 KiB page by its address; *attributes is RDX, as in RMPADJUST: the VMPL
   that is asked for goes in, its rights and the page's VMSA attribute come
   back. Returns EAX. A processor without it raises #UD. */
uint32_t insn_rmpquery(void *page, uint64_t *attributes);

/* #VC and its error code where a private access meets a page that this guest
   has not validated. */
#define VECTOR_VC              29u
#define VC_NOT_VALIDATED       0x404u

#endif
