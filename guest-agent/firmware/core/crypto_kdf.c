/* SPDX-License-Identifier: Apache-2.0 */
/* HKDF-SHA-384. */
#include "crypto_internal.h"

#include <string.h>

#include "mbedtls/hkdf.h"

int crypto_hkdf(uint8_t *out, size_t out_size,
                const uint8_t *secret, size_t secret_size,
                const uint8_t *salt, size_t salt_size,
                const char *info)
{
    int result;

    if (!crypto_pool_enter()) {
        return -1;
    }
    result = mbedtls_hkdf(mbedtls_md_info_from_type(MBEDTLS_MD_SHA384), salt, salt_size,
                          secret, secret_size, (const uint8_t *)info, strlen(info),
                          out, out_size);
    crypto_pool_leave();
    if (result != 0) {
        crypto_wipe(out, out_size);
    }
    return result;
}
