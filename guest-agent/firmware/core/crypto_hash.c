/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-2, comparison, wiping and hardware entropy. */
#include "crypto_internal.h"

#include <string.h>

#include "arch.h"
#include "mbedtls/constant_time.h"
#include "mbedtls/platform_util.h"
#include "mbedtls/sha256.h"
#include "mbedtls/sha512.h"

void crypto_wipe(void *p, size_t size)
{
    mbedtls_platform_zeroize(p, size);
}

bool crypto_equal(const void *a, const void *b, size_t size)
{
    return mbedtls_ct_memcmp(a, b, size) == 0;
}

bool crypto_random(void *out, size_t size)
{
    uint8_t *to = out;

    while (size > 0) {
        uint64_t word;
        size_t n = size < sizeof word ? size : sizeof word;

        if (!arch_random64(&word)) {
            crypto_wipe(out, (size_t)(to - (uint8_t *)out));
            return false;
        }
        memcpy(to, &word, n);
        crypto_wipe(&word, sizeof word);
        to += n;
        size -= n;
    }
    return true;
}

int crypto_rng(void *unused, unsigned char *out, size_t size)
{
    (void)unused;
    return crypto_random(out, size) ? 0 : -1;
}

void crypto_sha256(uint8_t out[32], const void *data, size_t size)
{
    mbedtls_sha256(data, size, out, 0);
}

void crypto_sha384(uint8_t out[48], const void *data, size_t size)
{
    mbedtls_sha512(data, size, out, 1);
}
