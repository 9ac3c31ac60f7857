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
static bool pool_taken;

bool crypto_pool_enter(void)
{
    uint32_t spins = 0;

    while (__atomic_test_and_set(&pool_taken, __ATOMIC_ACQUIRE)) {
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
    __atomic_clear(&pool_taken, __ATOMIC_RELEASE);
}
