/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The crypto seam on a plain Linux process. Prints one line a check, "ok" or
 * "FAIL" and its name; exits 1 when one failed. With an argument, the known
 * answer of that number is handed in corrupted and the program must fail.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "crypto_internal.h"

#define SIZE     65536u
#define SECONDS  2.0

static int failures;

static void check(const char *name, bool good)
{
    printf("%s %s\n", good ? "ok" : "FAIL", name);
    failures += !good;
}

static const struct cpc_suite *suite_of(uint32_t id)
{
    static const struct cpc_suite *const all[] = {
        &crypto_suite_aegis128l, &crypto_suite_aegis128x2,
        &crypto_suite_aes256gcm, &crypto_suite_chacha20poly1305,
    };
    return all[id - 1];
}

/* A vector with one bit changed anywhere must be noticed. */
static void check_vector_bits(size_t n)
{
    struct crypto_kat_suite kat = crypto_kat_suites[n];
    const struct cpc_suite *suite = suite_of(kat.suite);
    uint32_t nonce = suite->key_size == 16 ? 16 : 12;
    struct { const char *name; uint8_t *bytes; size_t size; } part[] = {
        { "key", kat.key, suite->key_size },
        { "nonce", kat.nonce, nonce },
        { "aad", kat.aad, kat.aad_size },
        { "plaintext", kat.plaintext, kat.pattern ? 0 : kat.size },
        { "ciphertext", kat.ciphertext, kat.pattern ? 32 : kat.size },
        { "tag", kat.tag, suite->tag_size },
    };

    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        char name[80];
        bool noticed = true;

        if (part[i].size == 0) {
            continue;
        }
        for (size_t j = 0; j < part[i].size; j++) {
            part[i].bytes[j] ^= 0x10;
            noticed = noticed && !crypto_kat_check_suite(suite, &kat);
            part[i].bytes[j] ^= 0x10;
        }
        snprintf(name, sizeof name, "vector-%zu-%s-bits-noticed", n, part[i].name);
        check(name, noticed);
    }
}

static void check_primitive_bits(void)
{
    struct crypto_kat_primitives kat = crypto_kat_primitives;
    struct {
        const char *name;
        uint8_t *bytes;
        size_t size;
        bool (*test)(const struct crypto_kat_primitives *);
    } part[] = {
        { "sha256", kat.sha256_abc, 32, crypto_kat_check_hash },
        { "sha256-long", kat.sha256_long, 32, crypto_kat_check_hash },
        { "sha384", kat.sha384_abc, 48, crypto_kat_check_hash },
        { "sha384-long", kat.sha384_long, 48, crypto_kat_check_hash },
        { "hkdf", kat.hkdf, 42, crypto_kat_check_hkdf },
        { "x25519", kat.x25519_shared, 32, crypto_kat_check_x25519 },
        { "ecdsa-public", kat.ecdsa_public, 97, crypto_kat_check_ecdsa },
        { "ecdsa-signature", kat.ecdsa_signature, 96, crypto_kat_check_ecdsa },
    };

    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        char name[80];
        bool noticed = part[i].test(&kat);

        for (size_t j = 0; j < part[i].size; j += 7) {
            part[i].bytes[j] ^= 0x10;
            noticed = noticed && !part[i].test(&kat);
            part[i].bytes[j] ^= 0x10;
        }
        snprintf(name, sizeof name, "%s-bits-noticed", part[i].name);
        check(name, noticed);
    }
}

static void check_handshake(void)
{
    static const uint8_t order2[32];
    uint8_t a[32], pa[32], b[32], pb[32], ab[32], ba[32];
    uint8_t sk[48], pk[97], sig[96], pk2[97], sk2[48];

    check("x25519-both-sides-agree",
          crypto_x25519_keypair(a, pa) == 0 && crypto_x25519_keypair(b, pb) == 0 &&
          crypto_x25519(ab, a, pb) == 0 && crypto_x25519(ba, b, pa) == 0 &&
          memcmp(ab, ba, 32) == 0);
    check("x25519-refuses-zero", crypto_x25519(ab, a, order2) != 0);
    check("ecdsa-round-trip",
          crypto_sign_keypair(sk, pk) == 0 && crypto_sign(sig, sk, "message", 7) == 0 &&
          crypto_verify(pk, sig, "message", 7) == 0);
    check("ecdsa-refuses-other-message", crypto_verify(pk, sig, "massage", 7) != 0);
    check("ecdsa-refuses-other-key",
          crypto_sign_keypair(sk2, pk2) == 0 && crypto_verify(pk2, sig, "message", 7) != 0);
    pk[0] = 0x02;
    check("ecdsa-refuses-other-format", crypto_verify(pk, sig, "message", 7) != 0);
    memset(sig, 0, sizeof sig);
    pk[0] = 0x04;
    check("ecdsa-refuses-zero-signature", crypto_verify(pk, sig, "message", 7) != 0);
}

/* ---- bytes that change while they are sealed ------------------------------ */

static uint8_t shared_bytes[SIZE], sealed[SIZE], plain[SIZE];
static volatile int stop;

static void *flip(void *bytes)
{
    volatile uint8_t *p = bytes;

    for (uint32_t i = 1; !stop; i = i * 1664525u + 1013904223u) {
        p[i >> 16] ^= (uint8_t)i;
    }
    return NULL;
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* How many of the seals gave a wrong result although the source (or else the
   output) changed all the time. */
static unsigned wrong_seals(const struct cpc_suite *suite, bool source)
{
    static const uint8_t key[32] = { 1 }, nonce[16] = { 2 };
    uint8_t tag[CPC_TAG_MAX], expected[CPC_TAG_MAX];
    unsigned wrong = 0;
    pthread_t thread;
    double end = now() + SECONDS;

    memset(plain, 7, SIZE);
    suite->seal(sealed, expected, plain, SIZE, NULL, 0, nonce, key);
    stop = 0;
    pthread_create(&thread, NULL, flip, shared_bytes);
    for (int i = 0; i < 20000 && wrong == 0 && now() < end; i++) {
        if (source) {
            suite->seal(sealed, tag, shared_bytes, SIZE, NULL, 0, nonce, key);
            wrong += suite->open(plain, sealed, SIZE, tag, NULL, 0, nonce, key) != 0;
        } else {
            suite->seal(shared_bytes, tag, plain, SIZE, NULL, 0, nonce, key);
            wrong += memcmp(tag, expected, suite->tag_size) != 0;
        }
    }
    stop = 1;
    pthread_join(thread, NULL);
    return wrong;
}

static void check_single_load(uint32_t passed)
{
    for (uint32_t id = 1; id <= 4; id++) {
        const struct cpc_suite *suite = suite_of(id);
        char name[80];

        if ((passed & CPC_SUITE_BIT(id)) == 0 || !suite->single_load) {
            continue;
        }
        snprintf(name, sizeof name, "%s-source-changes-while-sealing", suite->name);
        check(name, wrong_seals(suite, true) == 0);
        snprintf(name, sizeof name, "%s-output-changes-while-sealing", suite->name);
        check(name, wrong_seals(suite, false) == 0);
    }
    /* The check can fail: a suite that says it reads its output again. */
    check("single-load-check-can-fail",
          wrong_seals(&crypto_suite_chacha20poly1305, false) != 0);
}

int main(int argc, char **argv)
{
    uint32_t passed = crypto_init();

    if (argc > 1) {
        struct crypto_kat_suite kat = crypto_kat_suites[atoi(argv[1])];

        kat.tag[0] ^= 1;
        check("corrupted-vector", crypto_kat_check_suite(suite_of(kat.suite), &kat));
        return failures != 0;
    }
    printf("suites 0x%x\n", passed);
    check("known-answers", (passed & CPC_SUITE_BIT(CPC_SUITE_CHACHA20POLY1305)) != 0);
    for (size_t i = 0; i < crypto_kat_suites_count; i++) {
        if ((passed & CPC_SUITE_BIT(crypto_kat_suites[i].suite)) != 0) {
            check_vector_bits(i);
        }
    }
    check_primitive_bits();
    check_handshake();
    check_single_load(passed);
    return failures != 0;
}
