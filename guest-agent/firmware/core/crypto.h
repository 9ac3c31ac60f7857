/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The crypto seam: everything the firmware asks of the two libraries it is
 * built with (libaegis and mbedTLS). No primitive is implemented here.
 */
#ifndef CPC_CORE_CRYPTO_H
#define CPC_CORE_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpc_abi.h"

/*
 * One authenticated cipher. The nonce is 16 bytes with a counter in the first
 * eight; a suite with a shorter nonce uses the first bytes of it.
 * single_load: seal and open read each input byte once, and seal never reads its
 * output, so seal may work from guest memory into shared memory and open from
 * shared memory; any other suite must be given trusted buffers on both sides.
 */
struct cpc_suite {
    uint32_t id;                 /* CPC_SUITE_* */
    uint32_t key_size;
    uint32_t tag_size;
    bool     single_load;
    const char *name;
    /* 0 on success. ciphertext may be plaintext when both are trusted. */
    int (*seal)(uint8_t *ciphertext, uint8_t *tag,
                const uint8_t *plaintext, size_t size,
                const uint8_t *aad, size_t aad_size,
                const uint8_t nonce[16], const uint8_t *key);
    /* 0 when the tag is right; otherwise the output is wiped. */
    int (*open)(uint8_t *plaintext, const uint8_t *ciphertext, size_t size,
                const uint8_t *tag, const uint8_t *aad, size_t aad_size,
                const uint8_t nonce[16], const uint8_t *key);
};

/*
 * Runs every known-answer test once and remembers which suites passed on this
 * CPU. Returns their CPC_SUITE_BIT mask, 0 when SHA-2, X25519 or ECDSA fail.
 */
uint32_t crypto_init(void);

/* NULL when unknown or when its known answers did not match. */
const struct cpc_suite *crypto_suite(uint32_t id);

/* Hardware entropy only (arch_random64); false when it fails. */
bool crypto_random(void *out, size_t size);

void crypto_sha256(uint8_t out[32], const void *data, size_t size);
void crypto_sha384(uint8_t out[48], const void *data, size_t size);

/* HKDF-SHA-384. Non-zero on failure. */
int crypto_hkdf(uint8_t *out, size_t out_size,
                const uint8_t *secret, size_t secret_size,
                const uint8_t *salt, size_t salt_size,
                const char *info);

/* X25519. Non-zero on failure, a low-order peer key included. */
int crypto_x25519_keypair(uint8_t private_key[32], uint8_t public_key[32]);
int crypto_x25519(uint8_t shared[32], const uint8_t private_key[32],
                  const uint8_t peer[32]);

/* ECDSA P-384 over SHA-384 of the message; keys and signatures in raw form:
   private 48, public 97 (0x04 x y), signature 96 (r s). Non-zero on failure. */
int crypto_sign_keypair(uint8_t private_key[48], uint8_t public_key[97]);
int crypto_sign(uint8_t signature[96], const uint8_t private_key[48],
                const void *message, size_t size);
int crypto_verify(const uint8_t public_key[97], const uint8_t signature[96],
                  const void *message, size_t size);

/* A fault ended what this hvCPU did: wipe what it had allocated. */
void crypto_after_fault(void);

/* Constant time; true when equal. */
bool crypto_equal(const void *a, const void *b, size_t size);

/* Cannot be optimised away. */
void crypto_wipe(void *p, size_t size);

#endif
