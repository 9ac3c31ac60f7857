/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The save area a vCPU keeps its registers in: AMD64 Architecture Programmer's
 * Manual, volume 2, appendix B, table B-4. Only what the firmware sets or looks
 * at has a name; the rest travels as it is.
 */
#ifndef CPC_SNP_VMSA_H
#define CPC_SNP_VMSA_H

#include <stddef.h>
#include <stdint.h>

struct vmsa_segment {
    uint16_t selector;
    uint16_t attributes;
    uint32_t limit;
    uint64_t base;
};

struct vmsa {
    struct vmsa_segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
    uint8_t  reserved_a0[0xca - 0xa0];
    uint8_t  vmpl;
    uint8_t  cpl;
    uint32_t reserved_cc;
    uint64_t efer;
    uint8_t  reserved_d8[0x148 - 0xd8];
    uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
    uint8_t  reserved_180[0x268 - 0x180];
    uint64_t g_pat;
    uint8_t  reserved_270[0x310 - 0x270];
    uint64_t rdx;
    uint8_t  reserved_318[0x3b0 - 0x318];
    uint64_t sev_features;
    uint8_t  reserved_3b8[0x3e8 - 0x3b8];
    uint64_t xcr0;
    uint8_t  reserved_3f0[0x408 - 0x3f0];
    uint32_t mxcsr;
    uint16_t x87_ftw, x87_fsw, x87_fcw;
    uint8_t  rest[4096 - 0x412];
} __attribute__((packed, aligned(4096)));

_Static_assert(offsetof(struct vmsa, tr) == 0x90, "VMSA");
_Static_assert(offsetof(struct vmsa, vmpl) == 0xca, "VMSA");
_Static_assert(offsetof(struct vmsa, efer) == 0xd0, "VMSA");
_Static_assert(offsetof(struct vmsa, cr4) == 0x148, "VMSA");
_Static_assert(offsetof(struct vmsa, rip) == 0x178, "VMSA");
_Static_assert(offsetof(struct vmsa, g_pat) == 0x268, "VMSA");
_Static_assert(offsetof(struct vmsa, rdx) == 0x310, "VMSA");
_Static_assert(offsetof(struct vmsa, sev_features) == 0x3b0, "VMSA");
_Static_assert(offsetof(struct vmsa, xcr0) == 0x3e8, "VMSA");
_Static_assert(offsetof(struct vmsa, mxcsr) == 0x408, "VMSA");
_Static_assert(offsetof(struct vmsa, x87_fcw) == 0x410, "VMSA");
_Static_assert(sizeof(struct vmsa) == 4096, "VMSA");

#define VMSA_EFER_SVME         (1ull << 12)
#define VMSA_FEATURE_SNP       1ull

#endif
