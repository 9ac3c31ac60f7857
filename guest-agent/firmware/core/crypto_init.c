/* SPDX-License-Identifier: Apache-2.0 */
/* Which suites this CPU may use. */
#include "crypto_internal.h"

#include "arch.h"

static const struct cpc_suite *const all_suites[] = {
    &crypto_suite_aegis128l,
    &crypto_suite_aegis128x2,
    &crypto_suite_aes256gcm,
    &crypto_suite_chacha20poly1305,
};

#define SUITES  (sizeof all_suites / sizeof all_suites[0])

static uint32_t passed;

static bool has_hardware(const struct cpc_suite *suite)
{
    switch (suite->id) {
    case CPC_SUITE_AEGIS128L:
    case CPC_SUITE_AES256GCM:
        return arch_has_aes();
    case CPC_SUITE_AEGIS128X2:
        return arch_has_vaes();
    default:
        return true;
    }
}

static bool known_answers(const struct cpc_suite *suite)
{
    uint32_t checked = 0;

    for (size_t i = 0; i < crypto_kat_suites_count; i++) {
        if (crypto_kat_suites[i].suite == suite->id) {
            if (!crypto_kat_check_suite(suite, &crypto_kat_suites[i])) {
                return false;
            }
            checked++;
        }
    }
    return checked > 0;
}

uint32_t crypto_init(void)
{
    passed = 0;
    if (!crypto_kat_check_hash(&crypto_kat_primitives) ||
        !crypto_kat_check_hkdf(&crypto_kat_primitives) ||
        !crypto_kat_check_x25519(&crypto_kat_primitives) ||
        !crypto_kat_check_ecdsa(&crypto_kat_primitives)) {
        return 0;
    }
    for (size_t i = 0; i < SUITES; i++) {
        if (has_hardware(all_suites[i]) && known_answers(all_suites[i])) {
            passed |= CPC_SUITE_BIT(all_suites[i]->id);
        }
    }
    return passed;
}

const struct cpc_suite *crypto_suite(uint32_t id)
{
    for (size_t i = 0; i < SUITES; i++) {
        if (all_suites[i]->id == id && (passed & CPC_SUITE_BIT(id)) != 0) {
            return all_suites[i];
        }
    }
    return NULL;
}
