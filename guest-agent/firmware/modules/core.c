/* SPDX-License-Identifier: Apache-2.0 */
/* The core module: who are you, do you live. */
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

static uint32_t (*const functions[])(struct call *) = {
    [CPC_OP_PING & 0xffffu] = core_ping,
};

const struct module core_module = {
    .name = "core",
    .version = 1,
    .functions = functions,
    .count = ARRAY_SIZE(functions),
};
