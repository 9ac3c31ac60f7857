/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the crypto files share with each other and with their test; nobody else
 * includes this.
 */
#ifndef CPC_CORE_CRYPTO_INTERNAL_H
#define CPC_CORE_CRYPTO_INTERNAL_H

#include "crypto.h"

/* The suites, known answers or not. */
extern const struct cpc_suite crypto_suite_aegis128l;
extern const struct cpc_suite crypto_suite_aegis128x2;
extern const struct cpc_suite crypto_suite_aes256gcm;
extern const struct cpc_suite crypto_suite_chacha20poly1305;

/*
 * Big-number arithmetic allocates, from one pool for all hvCPUs. Enter takes
 * it and returns false when that takes absurdly long (an hvCPU died that held
 * it); leave wipes it and gives it back.
 */
bool crypto_pool_enter(void);
void crypto_pool_leave(void);
/* Nobody has it and nothing is in it: for tests. */
bool crypto_pool_clean(void);

/* mbedTLS random callback: hardware entropy, or failure. */
int crypto_rng(void *unused, unsigned char *out, size_t size);

/*
 * A known answer for a suite. A short one gives the ciphertext; a long one
 * (pattern != 0) has a message of size bytes made by crypto_kat_pattern() and
 * gives the SHA-256 of the ciphertext. Nonces are padded to 16 bytes.
 */
struct crypto_kat_suite {
    uint32_t suite;
    uint32_t pattern;
    uint32_t size;
    uint32_t aad_size;
    uint8_t  key[32];
    uint8_t  nonce[16];
    uint8_t  aad[64];
    uint8_t  plaintext[128];
    uint8_t  ciphertext[128];
    uint8_t  tag[32];
};

#define CRYPTO_KAT_LONG  5003u   /* not a multiple of any block size */

extern const struct crypto_kat_suite crypto_kat_suites[];
extern const size_t crypto_kat_suites_count;

/* Byte i of a long message. */
static inline uint8_t crypto_kat_pattern(size_t i)
{
    return (uint8_t)(i * 167u + (i >> 8) * 13u + 5u);
}

/* Seals and opens one vector, and checks that one changed bit is refused. */
bool crypto_kat_check_suite(const struct cpc_suite *suite,
                            const struct crypto_kat_suite *kat);

/* A known answer for the handshake: its name, and true when it matches. The
   vectors are passed in so that a test can hand in a wrong one. */
struct crypto_kat_primitives {
    uint8_t sha256_abc[32];
    uint8_t sha384_abc[48];
    uint8_t sha256_long[32];    /* of the long pattern */
    uint8_t sha384_long[48];
    uint8_t hkdf[42];
    uint8_t x25519_private[32];
    uint8_t x25519_peer[32];
    uint8_t x25519_shared[32];
    uint8_t ecdsa_public[97];
    uint8_t ecdsa_signature[96];
};

extern const struct crypto_kat_primitives crypto_kat_primitives;

bool crypto_kat_check_hash(const struct crypto_kat_primitives *kat);
bool crypto_kat_check_hkdf(const struct crypto_kat_primitives *kat);
bool crypto_kat_check_x25519(const struct crypto_kat_primitives *kat);
bool crypto_kat_check_ecdsa(const struct crypto_kat_primitives *kat);

#endif
