/* SPDX-License-Identifier: Apache-2.0 */
/* The core module: who are you, do you live, how fast are your ciphers. */
#include "crypto.h"
#include "runtime.h"
#include "version.h"

static uint32_t core_ping(struct call *call)
{
    struct cpc_ping_reply reply;
    const char version[] = CPC_FIRMWARE_VERSION;

    _Static_assert(sizeof(version) <= sizeof(reply.version), "version fits");
    memset(&reply, 0, sizeof(reply));
    reply.abi = CPC_ABI_VERSION;
    reply.hvcpu = call->hvcpu->number;
    reply.suites = call->runtime->suites;
    reply.platform = arch_boot_info()->platform;
    reply.calls = call->hvcpu->calls;
    memcpy(reply.version, version, sizeof(version));
    memcpy(call->reply, &reply, sizeof(reply));
    call->reply_size = sizeof(reply);
    return CPC_S_OK;
}

/* One record's plaintext in scratch, its ciphertext in the buffer. The key is
   worth nothing and neither leaves trusted memory. */
static uint32_t core_speed(struct call *call)
{
    static const uint8_t key[CPC_KEY_MAX], nonce[16], aad[CPC_RECORD_AAD];
    const struct cpc_suite *suite =
        call->arg[0] <= UINT32_MAX ? crypto_suite((uint32_t)call->arg[0]) : NULL;
    uint8_t *plain = call->hvcpu->scratch, *cipher = call->hvcpu->buffer;
    bool open = call->arg[1] == CPC_SPEED_OPEN;
    uint8_t tag[CPC_TAG_MAX];

    if (suite == NULL || (!open && call->arg[1] != CPC_SPEED_SEAL) ||
        call->arg[2] == 0 || call->arg[2] > CPC_SPEED_RECORDS_MAX) {
        return CPC_S_BAD_ARGUMENT;
    }
    memset(plain, 0, CPC_RUN_BYTES);
    int result = suite->seal(cipher, tag, plain, CPC_RUN_BYTES, aad, sizeof(aad), nonce, key);
    for (uint64_t i = 0; i < call->arg[2] && result == 0; i++) {  /* <= RECORDS_MAX */
        if (call_cancelled(call)) {
            return CPC_S_CANCELLED;
        }
        result = open ? suite->open(plain, cipher, CPC_RUN_BYTES, tag, aad, sizeof(aad),
                                    nonce, key)
                      : suite->seal(cipher, tag, plain, CPC_RUN_BYTES, aad, sizeof(aad),
                                    nonce, key);
    }
    return result == 0 ? CPC_S_OK : CPC_S_CRYPTO;
}

static uint32_t (*const functions[])(struct call *) = {
    [CPC_OP_PING & 0xffffu] = core_ping,
    [CPC_OP_SPEED & 0xffffu] = core_speed,
};

const struct module core_module = {
    .name = "core",
    .version = 1,
    .scratch_size = CPC_RUN_BYTES,
    .functions = functions,
    .count = ARRAY_SIZE(functions),
};
