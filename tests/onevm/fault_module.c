/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A module that misbehaves on request, for tests/onevm/faulty.py. It takes the
 * place of modules/table.c in a copy of the sources.
 */
#include "crypto.h"
#include "runtime.h"
#include "snp/ghcb.h"
#include "snp/snp.h"

extern const struct module core_module;

/* address, 0 read or 1 write -> result[0] = what was read */
static uint32_t touch(struct call *call)
{
    volatile uint64_t *p = (volatile uint64_t *)(uintptr_t)call->arg[0];

    if (call->arg[1] != 0) {
        *p = 1;
    } else {
        call->result[0] = *p;
    }
    return CPC_S_OK;
}

static uint32_t jump(struct call *call)
{
    ((void (*)(void))(uintptr_t)call->arg[0])();
    return CPC_S_OK;
}

__attribute__((noinline)) static uint64_t deep(uint64_t n)
{
    volatile uint8_t frame[512];

    frame[n % sizeof frame] = (uint8_t)n;
    return n == 0 ? 0 : deep(n - 1) + frame[0];
}

static uint32_t recurse(struct call *call)
{
    call->result[0] = deep(call->arg[0]);
    return CPC_S_OK;
}

static uint32_t divide(struct call *call)
{
    call->result[0] = call->arg[1] / call->arg[0];
    return CPC_S_OK;
}

/* Nothing here; leave() misbehaves, outside of the guard. */
static uint32_t outside(struct call *call)
{
    (void)call;
    return CPC_S_OK;
}

/* suite, records of 64 KiB: seals them into the ring from the buffer */
static uint32_t seal(struct call *call)
{
    const struct cpc_suite *suite = crypto_suite((uint32_t)call->arg[0]);
    static const uint8_t key[32], nonce[16];
    uint8_t tag[CPC_TAG_MAX];

    if (suite == NULL) {
        return CPC_S_CRYPTO;
    }
    for (uint64_t i = 0; i < call->arg[1]; i++) {
        if (suite->seal(arch_ring_data(call->hvcpu->number), tag, call->hvcpu->buffer,
                        CPC_RUN_BYTES, NULL, 0, nonce, key) != 0) {
            return CPC_S_CRYPTO;
        }
    }
    return CPC_S_OK;
}

/* suite, address, records of 64 KiB, rounds: seals that memory again and again */
static uint32_t sweep(struct call *call)
{
    const struct cpc_suite *suite = crypto_suite((uint32_t)call->arg[0]);
    static const uint8_t key[32], nonce[16];
    uint8_t tag[CPC_TAG_MAX];

    if (suite == NULL) {
        return CPC_S_CRYPTO;
    }
    for (uint64_t round = 0; round < call->arg[3]; round++) {
        for (uint64_t i = 0; i < call->arg[2]; i++) {
            const uint8_t *from = (const uint8_t *)(uintptr_t)call->arg[1] + i * CPC_RUN_BYTES;

            if (suite->seal(call->hvcpu->buffer, tag, from, CPC_RUN_BYTES, NULL, 0, nonce,
                            key) != 0) {
                return CPC_S_CRYPTO;
            }
        }
    }
    return CPC_S_OK;
}

/* address, count, distance: reads there by an instruction that KVM's emulator
   has not, so that only memory which the processor itself reaches can answer */
static uint32_t absorb(struct call *call)
{
    for (uint64_t i = 0; i < call->arg[1]; i++) {
        __asm__ volatile("aesenc (%0), %%xmm0"
                         : : "r"(call->arg[0] + i * call->arg[2]) : "xmm0", "memory");
    }
    return CPC_S_OK;
}

/* region, count: asks the platform so many times for the kind of its first page */
static uint32_t ask(struct call *call)
{
    struct cpc_region region = { .id = (uint32_t)call->arg[0], .pages = 1 };

    for (uint64_t i = 0; i < call->arg[1]; i++) {
        call->result[0] = platform()->kinds(&region, 0, 1, call->hvcpu->buffer);
    }
    return CPC_S_OK;
}

/* code, info 1, info 2, scratch: a request by the GHCB, with that address of the scratch
   area, or as offset in the GHCB; the buffer has a zero first -> the reply's two infos */
static uint32_t request(struct call *call)
{
    struct ghcb *ghcb = (void *)((uint8_t *)arch_shm() + snp_page_of(CPC_SHM_GHCB));
    uint64_t gpa = snp_shm_gpa(snp_page_of(CPC_SHM_GHCB));
    static const size_t valid[] = {
        offsetof(struct ghcb, exit_code), offsetof(struct ghcb, exit_info_1),
        offsetof(struct ghcb, exit_info_2), offsetof(struct ghcb, scratch),
    };

    memset(ghcb->valid, 0, sizeof(ghcb->valid));
    memset(ghcb->buffer, 0, 16);
    ghcb->version = GHCB_VERSION;
    ghcb->usage = 0;
    ghcb->exit_code = call->arg[0];
    ghcb->exit_info_1 = call->arg[1];
    ghcb->exit_info_2 = call->arg[2];
    ghcb->scratch = call->arg[3] < CPC_PAGE_SIZE ? gpa + call->arg[3] : call->arg[3];
    for (uint32_t i = 0; i < ARRAY_SIZE(valid); i++) {
        ghcb->valid[valid[i] / 64] |= (uint8_t)(1u << (valid[i] / 8 % 8));
    }
    insn_ghcb_exit(gpa);
    call->result[0] = ghcb->exit_info_1;
    call->result[1] = ghcb->exit_info_2;
    return CPC_S_OK;
}

#define OUTSIDE 5u

static void leave(struct call *call, uint32_t function, uint32_t status)
{
    static volatile bool done;

    (void)status;
    /* Not again when the dead call is buried. */
    if (function == OUTSIDE && call->arg[0] == 1 && !done) {
        done = true;
        __builtin_trap();
    }
}

static uint32_t (*const functions[])(struct call *) = {
    [1] = touch, [2] = jump, [3] = recurse, [4] = divide, [OUTSIDE] = outside, [6] = seal,
    [7] = sweep, [8] = absorb, [9] = ask, [10] = request,
};

static const struct module fault_module = {
    .name = "fault",
    .version = 1,
    .functions = functions,
    .count = ARRAY_SIZE(functions),
    .leave = leave,
};

const struct module *const module_table[] = { &core_module, &fault_module };
const uint32_t module_count = ARRAY_SIZE(module_table);
