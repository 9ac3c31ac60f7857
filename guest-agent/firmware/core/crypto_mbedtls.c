/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AES-256-GCM and ChaCha20-Poly1305 from mbedTLS. Neither allocates; each call
 * expands its key into a context on the stack and wipes it. Both read their
 * own output again for the tag, so both need trusted buffers. Their tag is 16
 * bytes and their nonce the first 12 of the 16 given.
 */
#include "crypto_internal.h"

#include "mbedtls/chachapoly.h"
#include "mbedtls/gcm.h"

#define NONCE  12u
#define TAG    16u

static int seal_gcm(uint8_t *ciphertext, uint8_t *tag,
                    const uint8_t *plaintext, size_t size,
                    const uint8_t *aad, size_t aad_size,
                    const uint8_t nonce[16], const uint8_t *key)
{
    mbedtls_gcm_context gcm;
    int result;

    mbedtls_gcm_init(&gcm);
    result = mbedtls_gcm_setkey(&gcm, MBEDTLS_CIPHER_ID_AES, key, 256);
    if (result == 0) {
        result = mbedtls_gcm_crypt_and_tag(&gcm, MBEDTLS_GCM_ENCRYPT, size,
                                           nonce, NONCE, aad, aad_size,
                                           plaintext, ciphertext, TAG, tag);
    }
    mbedtls_gcm_free(&gcm);
    return result;
}

static int open_gcm(uint8_t *plaintext, const uint8_t *ciphertext, size_t size,
                    const uint8_t *tag, const uint8_t *aad, size_t aad_size,
                    const uint8_t nonce[16], const uint8_t *key)
{
    mbedtls_gcm_context gcm;
    int result;

    mbedtls_gcm_init(&gcm);
    result = mbedtls_gcm_setkey(&gcm, MBEDTLS_CIPHER_ID_AES, key, 256);
    if (result == 0) {
        result = mbedtls_gcm_auth_decrypt(&gcm, size, nonce, NONCE, aad, aad_size,
                                          tag, TAG, ciphertext, plaintext);
    }
    mbedtls_gcm_free(&gcm);
    if (result != 0) {
        crypto_wipe(plaintext, size);
    }
    return result;
}

static int seal_chacha(uint8_t *ciphertext, uint8_t *tag,
                       const uint8_t *plaintext, size_t size,
                       const uint8_t *aad, size_t aad_size,
                       const uint8_t nonce[16], const uint8_t *key)
{
    mbedtls_chachapoly_context chacha;
    int result;

    mbedtls_chachapoly_init(&chacha);
    result = mbedtls_chachapoly_setkey(&chacha, key);
    if (result == 0) {
        result = mbedtls_chachapoly_encrypt_and_tag(&chacha, size, nonce, aad, aad_size,
                                                    plaintext, ciphertext, tag);
    }
    mbedtls_chachapoly_free(&chacha);
    return result;
}

static int open_chacha(uint8_t *plaintext, const uint8_t *ciphertext, size_t size,
                       const uint8_t *tag, const uint8_t *aad, size_t aad_size,
                       const uint8_t nonce[16], const uint8_t *key)
{
    mbedtls_chachapoly_context chacha;
    int result;

    mbedtls_chachapoly_init(&chacha);
    result = mbedtls_chachapoly_setkey(&chacha, key);
    if (result == 0) {
        result = mbedtls_chachapoly_auth_decrypt(&chacha, size, nonce, aad, aad_size,
                                                 tag, ciphertext, plaintext);
    }
    mbedtls_chachapoly_free(&chacha);
    if (result != 0) {
        crypto_wipe(plaintext, size);
    }
    return result;
}

const struct cpc_suite crypto_suite_aes256gcm = {
    .id = CPC_SUITE_AES256GCM,
    .key_size = 32,
    .tag_size = TAG,
    .single_load = false,
    .name = "AES-256-GCM",
    .seal = seal_gcm,
    .open = open_gcm,
};

const struct cpc_suite crypto_suite_chacha20poly1305 = {
    .id = CPC_SUITE_CHACHA20POLY1305,
    .key_size = 32,
    .tag_size = TAG,
    .single_load = false,
    .name = "ChaCha20-Poly1305",
    .seal = seal_chacha,
    .open = open_chacha,
};
