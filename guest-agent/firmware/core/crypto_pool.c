/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one place where memory is allocated: mbedTLS's buffer allocator over a
 * fixed pool in trusted memory. It is set up for each call and wiped after it,
 * so nothing secret outlives a call and no leak can add up. One hvCPU at a
 * time; these calls are rare and short (a few milliseconds).
 */
#include "crypto_internal.h"

#include "arch.h"
#include "mbedtls/memory_buffer_alloc.h"

#define POOL_BYTES  65536u
#define SPINS_MAX   (1u << 26)

static uint8_t pool[POOL_BYTES] __attribute__((aligned(64)));
static uint64_t pool_owner;      /* 0: nobody's */

/* This hvCPU's mark; a test process has those of more than one machine. */
static uint64_t self(void)
{
    return (uint64_t)(uintptr_t)arch_boot_info() + arch_hvcpu() + 1;
}

bool crypto_pool_enter(void)
{
    uint64_t mark = self();
    uint64_t nobody = 0;
    uint32_t spins = 0;

    while (!__atomic_compare_exchange_n(&pool_owner, &nobody, mark, false,
                                        __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        nobody = 0;
        arch_relax();
        if (++spins == SPINS_MAX) {
            return false;
        }
    }
    mbedtls_memory_buffer_alloc_init(pool, sizeof pool);
    return true;
}

void crypto_pool_leave(void)
{
    mbedtls_memory_buffer_alloc_free();
    crypto_wipe(pool, sizeof pool);
    __atomic_store_n(&pool_owner, 0, __ATOMIC_RELEASE);
}

void crypto_after_fault(void)
{
    if (__atomic_load_n(&pool_owner, __ATOMIC_RELAXED) == self()) {
        crypto_wipe(pool, sizeof pool);
        __atomic_store_n(&pool_owner, 0, __ATOMIC_RELEASE);
    }
}

bool crypto_pool_clean(void)
{
    uint8_t sum = 0;

    for (uint32_t i = 0; i < POOL_BYTES; i++) {
        sum |= pool[i];
    }
    return sum == 0 && __atomic_load_n(&pool_owner, __ATOMIC_ACQUIRE) == 0;
}
