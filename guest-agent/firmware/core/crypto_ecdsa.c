/* SPDX-License-Identifier: Apache-2.0 */
/* ECDSA over P-384 with SHA-384, from mbedTLS, keys and signatures raw. */
#include "crypto_internal.h"

#include "mbedtls/ecdsa.h"

#define SCALAR  48u
#define POINT   97u

struct work {
    mbedtls_ecp_group group;
    mbedtls_ecp_point point;
    mbedtls_mpi scalar, r, s;
};

static int begin(struct work *w)
{
    mbedtls_ecp_group_init(&w->group);
    mbedtls_ecp_point_init(&w->point);
    mbedtls_mpi_init(&w->scalar);
    mbedtls_mpi_init(&w->r);
    mbedtls_mpi_init(&w->s);
    return mbedtls_ecp_group_load(&w->group, MBEDTLS_ECP_DP_SECP384R1);
}

static void end(struct work *w)
{
    mbedtls_mpi_free(&w->s);
    mbedtls_mpi_free(&w->r);
    mbedtls_mpi_free(&w->scalar);
    mbedtls_ecp_point_free(&w->point);
    mbedtls_ecp_group_free(&w->group);
}

int crypto_sign_keypair(uint8_t private_key[48], uint8_t public_key[97])
{
    struct work w;
    size_t size;
    int result;

    if (!crypto_pool_enter()) {
        return -1;
    }
    result = begin(&w);
    if (result == 0) {
        result = mbedtls_ecp_gen_keypair(&w.group, &w.scalar, &w.point, crypto_rng, NULL);
    }
    if (result == 0) {
        result = mbedtls_mpi_write_binary(&w.scalar, private_key, SCALAR);
    }
    if (result == 0) {
        result = mbedtls_ecp_point_write_binary(&w.group, &w.point,
                                                MBEDTLS_ECP_PF_UNCOMPRESSED, &size,
                                                public_key, POINT);
    }
    end(&w);
    crypto_pool_leave();
    if (result != 0) {
        crypto_wipe(private_key, SCALAR);
    }
    return result;
}

int crypto_sign(uint8_t signature[96], const uint8_t private_key[48],
                const void *message, size_t size)
{
    struct work w;
    uint8_t hash[48];
    int result;

    crypto_sha384(hash, message, size);
    if (!crypto_pool_enter()) {
        return -1;
    }
    result = begin(&w);
    if (result == 0) {
        result = mbedtls_mpi_read_binary(&w.scalar, private_key, SCALAR);
    }
    if (result == 0) {
        result = mbedtls_ecdsa_sign(&w.group, &w.r, &w.s, &w.scalar, hash, sizeof hash,
                                    crypto_rng, NULL);
    }
    if (result == 0) {
        result = mbedtls_mpi_write_binary(&w.r, signature, SCALAR);
    }
    if (result == 0) {
        result = mbedtls_mpi_write_binary(&w.s, signature + SCALAR, SCALAR);
    }
    end(&w);
    crypto_pool_leave();
    if (result != 0) {
        crypto_wipe(signature, 2 * SCALAR);
    }
    return result;
}

int crypto_verify(const uint8_t public_key[97], const uint8_t signature[96],
                  const void *message, size_t size)
{
    struct work w;
    uint8_t hash[48];
    int result;

    crypto_sha384(hash, message, size);
    if (!crypto_pool_enter()) {
        return -1;
    }
    result = begin(&w);
    if (result == 0) {
        /* Uncompressed points only: the first byte is part of the format. */
        result = public_key[0] == 0x04 ? 0 : -1;
    }
    if (result == 0) {
        result = mbedtls_ecp_point_read_binary(&w.group, &w.point, public_key, POINT);
    }
    if (result == 0) {
        result = mbedtls_ecp_check_pubkey(&w.group, &w.point);
    }
    if (result == 0) {
        result = mbedtls_mpi_read_binary(&w.r, signature, SCALAR);
    }
    if (result == 0) {
        result = mbedtls_mpi_read_binary(&w.s, signature + SCALAR, SCALAR);
    }
    if (result == 0) {
        result = mbedtls_ecdsa_verify(&w.group, hash, sizeof hash, &w.point, &w.r, &w.s);
    }
    end(&w);
    crypto_pool_leave();
    return result;
}
