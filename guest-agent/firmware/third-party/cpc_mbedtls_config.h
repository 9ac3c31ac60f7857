/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the firmware takes from mbedTLS, and nothing else: no operating system,
 * no files, no clock, no network. Allocation comes from one fixed pool
 * (core/crypto_pool.c); the ciphers do not allocate at all.
 */
#ifndef CPC_MBEDTLS_CONFIG_H
#define CPC_MBEDTLS_CONFIG_H

#define MBEDTLS_HAVE_ASM

#define MBEDTLS_PLATFORM_C
#define MBEDTLS_PLATFORM_MEMORY
#define MBEDTLS_PLATFORM_NO_STD_FUNCTIONS
#define MBEDTLS_MEMORY_BUFFER_ALLOC_C
/* A corrupted pool: end the call with an exception. */
#define MBEDTLS_PLATFORM_EXIT_MACRO(status) __builtin_trap()

/* AES only with AES-NI: table lookups would leak the key through the cache,
   so crypto_init() does not even try the suite on a CPU without it. */
#define MBEDTLS_AES_C
#define MBEDTLS_AESNI_C
#define MBEDTLS_AES_USE_HARDWARE_ONLY
#define MBEDTLS_BLOCK_CIPHER_NO_DECRYPT
#define MBEDTLS_GCM_C
#define MBEDTLS_CHACHA20_C
#define MBEDTLS_POLY1305_C
#define MBEDTLS_CHACHAPOLY_C

#define MBEDTLS_SHA256_C
#define MBEDTLS_SHA384_C
#define MBEDTLS_MD_C
#define MBEDTLS_HKDF_C

#define MBEDTLS_BIGNUM_C
#define MBEDTLS_NO_UDBL_DIVISION   /* there is no libgcc */
#define MBEDTLS_ECP_C
#define MBEDTLS_ECP_DP_SECP384R1_ENABLED
#define MBEDTLS_ECP_DP_CURVE25519_ENABLED
#define MBEDTLS_ECP_NIST_OPTIM
#define MBEDTLS_ECDH_C
#define MBEDTLS_ECDSA_C
#define MBEDTLS_ASN1_PARSE_C
#define MBEDTLS_ASN1_WRITE_C

#endif
