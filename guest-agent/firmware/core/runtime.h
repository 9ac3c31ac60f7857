/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything one running firmware knows. It lies at the start of free trusted
 * memory, so there are no globals: a test process can hold two machines.
 */
#ifndef CPC_CORE_RUNTIME_H
#define CPC_CORE_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "arch.h"
#include "bytes.h"
#include "cpc_abi.h"
#include "module.h"
#include "ring.h"

struct runtime;
struct hvcpu;

struct progress {
    uint64_t pages;
    uint64_t zero_pages;
    uint64_t records;
    uint64_t bytes;
};

/* One call: the host's half of the mailbox as it was copied, and our answer. */
struct call {
    struct runtime *runtime;
    struct hvcpu *hvcpu;
    struct cpc_mailbox *mailbox;     /* shared: written, and polled for cancel */
    uint32_t request;
    uint32_t op;
    uint64_t arg[6];
    uint32_t payload_size;
    uint32_t reply_size;
    uint64_t result[4];
    struct progress progress;
    uint64_t held;                   /* a module's locks this call holds */
    uint8_t payload[CPC_PAYLOAD_MAX];
    uint8_t reply[CPC_PAYLOAD_MAX];
};

struct hvcpu {
    uint32_t number;
    uint32_t in_call;                /* survives the death of the hvCPU */
    uint64_t calls;
    struct ring ring;
    struct call call;
    uint8_t *scratch;                /* as large as the hungriest module's */
    /* One record's plaintext or ciphertext, never shared. */
    _Alignas(CPC_PAGE_SIZE) uint8_t buffer[CPC_RUN_BYTES];
};

struct runtime {
    uint32_t init_status;
    uint32_t suites;                 /* CPC_SUITE_BIT of those that passed */
    uint32_t *versions;              /* kind << 30 | version, by flat page */
    uint64_t version_count;
    void *module_state[MODULE_LIMIT];
    struct hvcpu hvcpu[CPC_HVCPU_LIMIT];
};

/* This machine's runtime; NULL until firmware_init found room for it. */
struct runtime *runtime_get(void);

bool call_cancelled(const struct call *call);
void call_set_state(const struct call *call, uint32_t state);
/* Show call->progress to the host. */
void call_publish_progress(const struct call *call);
/* A platform call failed: remember which and how, return CPC_S_PLATFORM, or
   CPC_S_HARDWARE where the platform says that. */
uint32_t call_platform(struct call *call, uint32_t pcall, uint32_t status);

#endif
