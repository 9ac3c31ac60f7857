/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the core asks of the machine it runs on: arch/x86_64 on an hvCPU,
 * arch/host in a plain Linux process for tests and fuzzers.
 */
#ifndef CPC_CORE_ARCH_H
#define CPC_CORE_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpc_abi.h"

/* Number of the hvCPU that executes this, 0 .. CPC_HVCPU_LIMIT - 1. */
uint32_t arch_hvcpu(void);

/* Pause hint inside a short spin. */
void arch_relax(void);

/* One word from RDSEED or RDRAND; false when the hardware has none. */
bool arch_random64(uint64_t *out);

/* True when the CPU has AES-NI / VAES and AVX2 and they are enabled. */
bool arch_has_aes(void);
bool arch_has_vaes(void);

/* Fast copy of whole pages; regions do not overlap; both page aligned. */
void arch_copy_pages(void *to, const void *from, uint32_t pages);

/* Reads the page once in 64-bit words. */
bool arch_page_is_zero(const void *page);

/* The ring file as this hvCPU sees it. */
void *arch_shm(void);
/* Data ring of an hvCPU, mapped twice in a row so that a record never wraps. */
uint8_t *arch_ring_data(uint32_t hvcpu);

/* Address of the first byte of trusted memory: CPC_TRUSTED_BASE on an hvCPU. */
uint64_t arch_trusted_base(void);

/* What the platform wrote before start. */
const struct cpc_boot_info *arch_boot_info(void);

struct arch_fault {
    uint64_t vector;
    uint64_t ip;
    uint64_t address;
    uint64_t code;           /* the exception's error code, or 0 */
};

/*
 * Run a call so that an exception in it ends the call and nothing else.
 * Returns function(argument), or CPC_S_FAULT with *fault filled. Guards nest.
 */
uint32_t arch_guard(uint32_t (*function)(void *), void *argument,
                    struct arch_fault *fault);
/* This exception was not the one that was waited for: the next guard's. */
void arch_raise(const struct arch_fault *fault) __attribute__((noreturn));

/*
 * SEV-SNP. Guest memory by flat page number, seen as private and as shared.
 * arch_map maps `pages` pages from physical address gpa at flat page `first`
 * in both; it is never undone. False when there are no tables left for it.
 */
uint8_t *arch_window(bool private);
bool arch_map(uint64_t gpa, uint64_t first, uint64_t pages);

#endif
