/* SPDX-License-Identifier: Apache-2.0 */
/* X25519 (RFC 7748) from mbedTLS. */
#include "crypto_internal.h"

#include "mbedtls/ecp.h"

#define SIZE  32u

struct work {
    mbedtls_ecp_keypair key;   /* its Q is the peer's point, or the base */
    mbedtls_ecp_point result;
};

/* out = private_key * peer, peer NULL for the base point. */
static int multiply(uint8_t out[32], const uint8_t private_key[32], const uint8_t *peer)
{
    struct work w;
    size_t size;
    int result;

    if (!crypto_pool_enter()) {
        return -1;
    }
    mbedtls_ecp_keypair_init(&w.key);
    mbedtls_ecp_point_init(&w.result);
    result = mbedtls_ecp_read_key(MBEDTLS_ECP_DP_CURVE25519, &w.key, private_key, SIZE);
    if (result == 0) {
        result = peer == NULL
            ? mbedtls_ecp_copy(&w.key.private_Q, &w.key.private_grp.G)
            : mbedtls_ecp_point_read_binary(&w.key.private_grp, &w.key.private_Q, peer, SIZE);
    }
    if (result == 0) {
        /* Refuses the points of low order. */
        result = mbedtls_ecp_mul(&w.key.private_grp, &w.result, &w.key.private_d,
                                 &w.key.private_Q, crypto_rng, NULL);
    }
    if (result == 0) {
        result = mbedtls_ecp_point_write_binary(&w.key.private_grp, &w.result,
                                                MBEDTLS_ECP_PF_UNCOMPRESSED, &size,
                                                out, SIZE);
    }
    mbedtls_ecp_point_free(&w.result);
    mbedtls_ecp_keypair_free(&w.key);
    crypto_pool_leave();
    return result;
}

int crypto_x25519_keypair(uint8_t private_key[32], uint8_t public_key[32])
{
    int result = -1;

    if (crypto_random(private_key, SIZE)) {
        result = multiply(public_key, private_key, NULL);
    }
    if (result != 0) {
        crypto_wipe(private_key, SIZE);
    }
    return result;
}

int crypto_x25519(uint8_t shared[32], const uint8_t private_key[32],
                  const uint8_t peer[32])
{
    static const uint8_t zero[SIZE];
    int result = multiply(shared, private_key, peer);

    if (result == 0 && crypto_equal(shared, zero, SIZE)) {
        result = -1;
    }
    if (result != 0) {
        crypto_wipe(shared, SIZE);
    }
    return result;
}
