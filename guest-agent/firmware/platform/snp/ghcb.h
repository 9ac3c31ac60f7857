/* SPDX-License-Identifier: Apache-2.0 */
/* The guest-hypervisor communication block, protocol version 2. */
#ifndef CPC_SNP_GHCB_H
#define CPC_SNP_GHCB_H

#include <stddef.h>
#include <stdint.h>

struct ghcb {
    uint8_t  reserved_0[0x1f8];
    uint64_t rax;
    uint8_t  reserved_200[0x390 - 0x200];
    uint64_t exit_code;
    uint64_t exit_info_1;
    uint64_t exit_info_2;
    uint64_t scratch;
    uint8_t  reserved_3b0[0x3f0 - 0x3b0];
    uint8_t  valid[16];      /* a bit for each eight bytes before it */
    uint8_t  reserved_400[0x800 - 0x400];
    uint8_t  buffer[0xff0 - 0x800];
    uint8_t  reserved_ff0[10];
    uint16_t version;
    uint32_t usage;
};

_Static_assert(offsetof(struct ghcb, rax) == 0x1f8, "GHCB");
_Static_assert(offsetof(struct ghcb, exit_code) == 0x390, "GHCB");
_Static_assert(offsetof(struct ghcb, scratch) == 0x3a8, "GHCB");
_Static_assert(offsetof(struct ghcb, valid) == 0x3f0, "GHCB");
_Static_assert(offsetof(struct ghcb, buffer) == 0x800, "GHCB");
_Static_assert(offsetof(struct ghcb, version) == 0xffa, "GHCB");
_Static_assert(sizeof(struct ghcb) == 4096, "GHCB");

#define GHCB_VERSION           2u
#define GHCB_EXIT_MMIO_WRITE   0x80000002ull
#define GHCB_EXIT_PSC          0x80000010ull
#define GHCB_EXIT_AP_CREATION  0x80000013ull
#define GHCB_AP_CREATE_ON_INIT 0ull
#define GHCB_AP_CREATE         1ull

#define GHCB_MSR_REGISTER      0x012ull
#define GHCB_MSR_REGISTERED    0x013ull

/* In the buffer for GHCB_EXIT_PSC. */
struct ghcb_psc {
    uint16_t current;
    uint16_t end;            /* the last entry, not one behind it */
    uint32_t reserved;
    uint64_t entry[253];     /* gpa | state << 52, pages of 4 KiB */
};
_Static_assert(sizeof(struct ghcb_psc) == sizeof(((struct ghcb *)0)->buffer), "PSC");
#define GHCB_PSC_STATE_SHIFT   52

#endif
