/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Known-answer tests. They run once at start-up and decide which suites exist:
 * a CPU or an emulator that computes an instruction wrongly would otherwise
 * produce ciphertext that only the same wrong CPU can open.
 */
#include "crypto_internal.h"

#include <string.h>

static uint8_t plain[CRYPTO_KAT_LONG];
static uint8_t cipher[CRYPTO_KAT_LONG];

static bool ciphertext_matches(const struct crypto_kat_suite *kat)
{
    uint8_t digest[32];

    if (!kat->pattern) {
        return memcmp(cipher, kat->ciphertext, kat->size) == 0;
    }
    crypto_sha256(digest, cipher, kat->size);
    return memcmp(digest, kat->ciphertext, sizeof digest) == 0;
}

static bool plaintext_matches(const struct crypto_kat_suite *kat)
{
    for (uint32_t i = 0; i < kat->size; i++) {
        if (plain[i] != (kat->pattern ? crypto_kat_pattern(i) : kat->plaintext[i])) {
            return false;
        }
    }
    return true;
}

static bool plaintext_is_wiped(const struct crypto_kat_suite *kat)
{
    for (uint32_t i = 0; i < kat->size; i++) {
        if (plain[i] != 0) {
            return false;
        }
    }
    return true;
}

bool crypto_kat_check_suite(const struct cpc_suite *suite,
                            const struct crypto_kat_suite *kat)
{
    uint8_t tag[CPC_TAG_MAX];

    if (kat->size == 0 || kat->size > sizeof plain ||
        (!kat->pattern && kat->size > sizeof kat->plaintext)) {
        return false;
    }
    for (uint32_t i = 0; i < kat->size; i++) {
        plain[i] = kat->pattern ? crypto_kat_pattern(i) : kat->plaintext[i];
    }
    if (suite->seal(cipher, tag, plain, kat->size, kat->aad, kat->aad_size,
                    kat->nonce, kat->key) != 0 ||
        memcmp(tag, kat->tag, suite->tag_size) != 0 || !ciphertext_matches(kat)) {
        return false;
    }
    memset(plain, 0xff, kat->size);
    if (suite->open(plain, cipher, kat->size, tag, kat->aad, kat->aad_size,
                    kat->nonce, kat->key) != 0 || !plaintext_matches(kat)) {
        return false;
    }
    cipher[kat->size - 1] ^= 1;
    return suite->open(plain, cipher, kat->size, tag, kat->aad, kat->aad_size,
                       kat->nonce, kat->key) != 0 && plaintext_is_wiped(kat);
}

bool crypto_kat_check_hash(const struct crypto_kat_primitives *kat)
{
    uint8_t digest[48];

    for (size_t i = 0; i < sizeof plain; i++) {
        plain[i] = crypto_kat_pattern(i);
    }
    crypto_sha256(digest, "abc", 3);
    if (memcmp(digest, kat->sha256_abc, 32) != 0) {
        return false;
    }
    crypto_sha256(digest, plain, sizeof plain);
    if (memcmp(digest, kat->sha256_long, 32) != 0) {
        return false;
    }
    crypto_sha384(digest, "abc", 3);
    if (memcmp(digest, kat->sha384_abc, 48) != 0) {
        return false;
    }
    crypto_sha384(digest, plain, sizeof plain);
    return memcmp(digest, kat->sha384_long, 48) == 0;
}

bool crypto_kat_check_hkdf(const struct crypto_kat_primitives *kat)
{
    uint8_t secret[22], salt[13], out[sizeof kat->hkdf];

    memset(secret, 0x0b, sizeof secret);
    for (uint8_t i = 0; i < sizeof salt; i++) {
        salt[i] = i;
    }
    return crypto_hkdf(out, sizeof out, secret, sizeof secret, salt, sizeof salt,
                       "cpc known answer") == 0 &&
           memcmp(out, kat->hkdf, sizeof out) == 0;
}

bool crypto_kat_check_x25519(const struct crypto_kat_primitives *kat)
{
    static const uint8_t low_order[32] = { 1 };
    uint8_t shared[32];

    return crypto_x25519(shared, kat->x25519_private, kat->x25519_peer) == 0 &&
           memcmp(shared, kat->x25519_shared, sizeof shared) == 0 &&
           crypto_x25519(shared, kat->x25519_private, low_order) != 0;
}

bool crypto_kat_check_ecdsa(const struct crypto_kat_primitives *kat)
{
    return crypto_verify(kat->ecdsa_public, kat->ecdsa_signature, "sample", 6) == 0 &&
           crypto_verify(kat->ecdsa_public, kat->ecdsa_signature, "simple", 6) != 0;
}
