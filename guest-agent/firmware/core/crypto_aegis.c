/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AEGIS-128L and AEGIS-128X2 from libaegis. Its implementation tables are
 * called directly: the library's own dispatch wants an operating system to ask
 * about the CPU, and falls back to software AES, which is not constant time.
 *
 * Both load every input byte once, into registers, and never read what they
 * wrote: they may seal from guest memory straight into the ring, and open from
 * the ring.
 */
#include "crypto_internal.h"

#include "aegis128l/aegis128l_aesni.h"
#include "aegis128x2/aegis128x2_avx2.h"

#define AEGIS_KEY  16u
#define AEGIS_TAG  32u

static int seal_128l(uint8_t *ciphertext, uint8_t *tag,
                     const uint8_t *plaintext, size_t size,
                     const uint8_t *aad, size_t aad_size,
                     const uint8_t nonce[16], const uint8_t *key)
{
    return aegis128l_aesni_implementation.encrypt_detached(
        ciphertext, tag, AEGIS_TAG, plaintext, size, aad, aad_size, nonce, key);
}

static int open_128l(uint8_t *plaintext, const uint8_t *ciphertext, size_t size,
                     const uint8_t *tag, const uint8_t *aad, size_t aad_size,
                     const uint8_t nonce[16], const uint8_t *key)
{
    return aegis128l_aesni_implementation.decrypt_detached(
        plaintext, ciphertext, size, tag, AEGIS_TAG, aad, aad_size, nonce, key);
}

static int seal_128x2(uint8_t *ciphertext, uint8_t *tag,
                      const uint8_t *plaintext, size_t size,
                      const uint8_t *aad, size_t aad_size,
                      const uint8_t nonce[16], const uint8_t *key)
{
    return aegis128x2_avx2_implementation.encrypt_detached(
        ciphertext, tag, AEGIS_TAG, plaintext, size, aad, aad_size, nonce, key);
}

static int open_128x2(uint8_t *plaintext, const uint8_t *ciphertext, size_t size,
                      const uint8_t *tag, const uint8_t *aad, size_t aad_size,
                      const uint8_t nonce[16], const uint8_t *key)
{
    return aegis128x2_avx2_implementation.decrypt_detached(
        plaintext, ciphertext, size, tag, AEGIS_TAG, aad, aad_size, nonce, key);
}

const struct cpc_suite crypto_suite_aegis128l = {
    .id = CPC_SUITE_AEGIS128L,
    .key_size = AEGIS_KEY,
    .tag_size = AEGIS_TAG,
    .single_load = true,
    .name = "AEGIS-128L",
    .seal = seal_128l,
    .open = open_128l,
};

const struct cpc_suite crypto_suite_aegis128x2 = {
    .id = CPC_SUITE_AEGIS128X2,
    .key_size = AEGIS_KEY,
    .tag_size = AEGIS_TAG,
    .single_load = true,
    .name = "AEGIS-128X2",
    .seal = seal_128x2,
    .open = open_128x2,
};
