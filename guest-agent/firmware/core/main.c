/* SPDX-License-Identifier: Apache-2.0 */
/* The life of an hvCPU: parked, a call, its answer, parked again. */
#include "crypto.h"
#include "firmware.h"
#include "platform.h"
#include "runtime.h"

_Static_assert(sizeof(struct cpc_mailbox) == CPC_PAGE_SIZE, "one page each");
_Static_assert(__builtin_offsetof(struct cpc_mailbox, done) == 128,
               "the host's half is copied as one piece");

/* What a call may have used of the stack; arch/x86_64/layout.h has 16 KiB more. */
#define CALL_STACK  0x10000u

bool call_cancelled(const struct call *call)
{
    return __atomic_load_n(&call->mailbox->cancel, __ATOMIC_RELAXED) ==
           call->request;
}

void call_set_state(const struct call *call, uint32_t state)
{
    __atomic_store_n(&call->mailbox->state, state, __ATOMIC_SEQ_CST);
}

void call_publish_progress(const struct call *call)
{
    struct cpc_mailbox *mailbox = call->mailbox;
    const struct progress *progress = &call->progress;

    __atomic_store_n(&mailbox->pages, progress->pages, __ATOMIC_RELAXED);
    __atomic_store_n(&mailbox->zero_pages, progress->zero_pages, __ATOMIC_RELAXED);
    __atomic_store_n(&mailbox->records, progress->records, __ATOMIC_RELAXED);
    __atomic_store_n(&mailbox->bytes, progress->bytes, __ATOMIC_RELAXED);
}

uint32_t call_platform(struct call *call, uint32_t pcall, uint32_t status)
{
    if (status >> 24 != 0) {         /* PLATFORM_HARDWARE */
        call->result[0] = status >> 24;
        call->result[1] = status & 0xffffu;
        return CPC_S_HARDWARE;
    }
    call->result[0] = status >> 16 != 0 ? status >> 16 : pcall;
    call->result[1] = status & 0xffffu;
    return CPC_S_PLATFORM;
}

/* Copy the host's half and the payload, once. */
static uint32_t call_take(struct call *call, uint32_t request)
{
    struct cpc_mailbox *mailbox = call->mailbox;
    struct {
        uint32_t request;
        uint32_t op;
        uint64_t arg[6];
        uint32_t payload_size;
    } copy;

    _Static_assert(__builtin_offsetof(struct cpc_mailbox, payload_size) == 56,
                   "same layout as the copy");
    copy_shared(&copy, mailbox, sizeof(copy));
    call->request = request;
    call->op = copy.op;
    memcpy(call->arg, copy.arg, sizeof(call->arg));
    call->payload_size = 0;
    call->reply_size = 0;
    call->held = 0;
    memset(call->result, 0, sizeof(call->result));
    memset(&call->progress, 0, sizeof(call->progress));
    call_publish_progress(call);
    if (copy.payload_size > CPC_PAYLOAD_MAX) {
        return CPC_S_BAD_PAYLOAD;
    }
    call->payload_size = copy.payload_size;
    copy_shared(call->payload, mailbox->payload, copy.payload_size);
    return CPC_S_OK;
}

static const struct module *call_module(const struct call *call)
{
    uint32_t number = call->op >> 16;
    return number < module_count ? module_table[number] : NULL;
}

static uint32_t call_run(void *argument)
{
    struct call *call = argument;
    const struct module *module = call_module(call);
    uint32_t function = call->op & 0xffffu;

    if (module == NULL || function >= module->count ||
        module->functions[function] == NULL) {
        return CPC_S_UNKNOWN_OP;
    }
    if (call->runtime->init_status != CPC_S_OK) {
        return call->runtime->init_status;
    }
    if (module->enter != NULL) {
        uint32_t status = module->enter(call, function);
        if (status != CPC_S_OK) {
            return status;
        }
    }
    return module->functions[function](call);
}

static void call_leave(struct call *call, uint32_t status)
{
    const struct module *module = call_module(call);
    if (module != NULL && module->leave != NULL) {
        module->leave(call, call->op & 0xffffu, status);
    }
}

/* The payloads hold nothing secret, but nothing needs them either. */
static void call_forget(struct call *call)
{
    crypto_wipe(call->payload, sizeof(call->payload));
    crypto_wipe(call->reply, sizeof(call->reply));
}

static void call_answer(struct call *call, uint32_t status,
                        const struct arch_fault *fault)
{
    struct cpc_mailbox *mailbox = call->mailbox;
    uint32_t size = status == CPC_S_OK ? call->reply_size : 0;

    call_publish_progress(call);
    memcpy(mailbox->payload, call->reply, size);
    mailbox->reply_size = size;
    memcpy(mailbox->result, call->result, sizeof(mailbox->result));
    mailbox->fault[0] = fault->vector;
    mailbox->fault[1] = fault->ip;
    mailbox->fault[2] = fault->address;
    mailbox->status = status;
    call_set_state(call, CPC_STATE_PARKED);
    __atomic_store_n(&mailbox->done, call->request, __ATOMIC_RELEASE);
    call_forget(call);
}

/* What the functions had in hand that a fault ended: their stack, which lies below this one's,
   and what they had allocated. */
static __attribute__((noinline)) void call_wipe(void)
{
    uint8_t stack[CALL_STACK];

    crypto_wipe(stack, sizeof(stack));
    crypto_after_fault();
}

static void call_serve(struct call *call, uint32_t request)
{
    struct arch_fault fault = { 0 };

    call_set_state(call, CPC_STATE_RUNNING);
    uint32_t status = call_take(call, request);
    if (status == CPC_S_OK) {
        call->hvcpu->in_call = 1;
        status = arch_guard(call_run, call, &fault);
        if (status == CPC_S_FAULT) {
            call_wipe();
            platform()->fault(fault.vector, fault.ip, fault.address);
        }
        call_leave(call, status);
        call->hvcpu->in_call = 0;
    }
    call->hvcpu->calls++;
    call_answer(call, status, &fault);
}

/*
 * A removed or dead hvCPU that is added again starts here a second time. If
 * it was in a call then, that call ends now, as a fault: its module must not
 * wait for ever for a call that will never return.
 *
 * A host that has taken the request back, or put another one in its place,
 * waits for no answer. One all the same would be another number than its own,
 * and what lies in the mailbox would be run as if it were a call.
 */
static void call_bury(struct call *call)
{
    struct cpc_mailbox *mailbox = call->mailbox;
    struct arch_fault fault = { 0 };

    if (!call->hvcpu->in_call) {
        return;
    }
    call_wipe();
    call_leave(call, CPC_S_FAULT);
    call->hvcpu->in_call = 0;
    if (__atomic_load_n(&mailbox->request, __ATOMIC_ACQUIRE) == call->request) {
        call_answer(call, CPC_S_FAULT, &fault);
    } else {
        call_forget(call);
    }
}

void firmware_main(void)
{
    struct runtime *runtime = runtime_get();
    uint32_t number = arch_hvcpu();

    if (runtime == NULL || number >= arch_boot_info()->hvcpu_max) {
        for (;;) {          /* nothing to answer with: stay parked */
            platform()->park();
        }
    }
    struct hvcpu *hvcpu = &runtime->hvcpu[number];
    struct call *call = &hvcpu->call;
    uint8_t *shm = arch_shm();

    call->runtime = runtime;
    call->hvcpu = hvcpu;
    call->mailbox = (struct cpc_mailbox *)(void *)(
        shm + CPC_SHM_MAILBOX + number * CPC_PAGE_SIZE);
    call_bury(call);
    call_set_state(call, CPC_STATE_PARKED);
    for (;;) {              /* the life of an hvCPU has no end */
        struct cpc_mailbox *mailbox = call->mailbox;
        uint32_t request = __atomic_load_n(&mailbox->request, __ATOMIC_ACQUIRE);
        if (request == __atomic_load_n(&mailbox->done, __ATOMIC_RELAXED)) {
            platform()->park();
        } else {
            call_serve(call, request);
        }
    }
}
