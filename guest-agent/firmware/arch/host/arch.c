/* SPDX-License-Identifier: Apache-2.0 */
/* core/arch.h in a plain Linux process. */
#include "arch.h"

#include <immintrin.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "machine.h"
#include "snp_machine.h"

static _Thread_local sigjmp_buf *guard;
static _Thread_local struct arch_fault guard_fault;

uint32_t arch_hvcpu(void)
{
    if (host_machine != NULL && host_machine->crash_hvcpu) {
        host_machine->crash_hvcpu = false;
        *(volatile uint32_t *)(uintptr_t)0xdead0 = 1;
    }
    return host_hvcpu;
}

void arch_relax(void)
{
    _mm_pause();
}

__attribute__((target("rdrnd"))) static bool hardware_random(uint64_t *out)
{
    unsigned long long word = 0;
    for (int i = 0; i < 10; i++) {      /* the manual's advice */
        if (_rdrand64_step(&word)) {
            *out = word;
            return true;
        }
    }
    return false;
}

bool arch_random64(uint64_t *out)
{
    if (host_machine != NULL && host_machine->no_entropy) {
        return false;
    }
    if (host_machine != NULL && host_machine->on_entropy != NULL) {
        host_machine->on_entropy(host_machine);
    }
    return __builtin_cpu_supports("rdrnd") && hardware_random(out);
}

bool arch_has_aes(void)
{
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("avx2");
}

bool arch_has_vaes(void)
{
    return arch_has_aes() && __builtin_cpu_supports("vaes");
}

void arch_copy_pages(void *to, const void *from, uint32_t pages)
{
    memcpy(to, from, (size_t)pages * CPC_PAGE_SIZE);
}

bool arch_page_is_zero(const void *page)
{
    const uint64_t *words = page;
    for (uint32_t i = 0; i < CPC_PAGE_SIZE / 8; i += 8) {
        if ((words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] |
             words[i + 5] | words[i + 6] | words[i + 7]) != 0) {
            return false;
        }
    }
    return true;
}

void *arch_shm(void)
{
    return host_machine->shm;
}

uint8_t *arch_ring_data(uint32_t hvcpu)
{
    return host_machine->ring[hvcpu];
}

uint64_t arch_trusted_base(void)
{
    return (uint64_t)(uintptr_t)host_machine->trusted;
}

const struct cpc_boot_info *arch_boot_info(void)
{
    return &host_machine->boot;
}

static uint64_t vector_of(int signal)
{
    switch (signal) {
    case SIGFPE:
        return 0;
    case SIGILL:
        return 6;
    case SIGSEGV:
        return 14;
    default:
        return 17;
    }
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
    const ucontext_t *registers = context;

    if (guard == NULL) {
        struct sigaction plain = { .sa_handler = SIG_DFL };
        sigaction(signal, &plain, NULL);
        return;              /* comes again, without a handler */
    }
    guard_fault = (struct arch_fault){
        .vector = vector_of(signal),
        .ip = (uint64_t)registers->uc_mcontext.gregs[REG_RIP],
        .address = (uint64_t)(uintptr_t)info->si_addr,
    };
    if (host_machine != NULL) {
        host_snp_fault(host_machine, &guard_fault);
    }
    siglongjmp(*guard, 1);
}

static void install(void)
{
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
    sigaction(SIGILL, &action, NULL);
}

uint32_t arch_guard(uint32_t (*function)(void *), void *argument,
                    struct arch_fault *fault)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigjmp_buf *outer = guard;
    sigjmp_buf here;
    uint32_t status;

    pthread_once(&once, install);
    if (sigsetjmp(here, 1) != 0) {
        guard = outer;
        *fault = guard_fault;
        return CPC_S_FAULT;
    }
    guard = &here;
    status = function(argument);
    if (host_snp_injects(host_machine, &guard_fault)) {
        siglongjmp(here, 1);
    }
    guard = outer;
    return status;
}

void arch_raise(const struct arch_fault *fault)
{
    if (guard == NULL) {
        abort();
    }
    guard_fault = *fault;
    siglongjmp(*guard, 1);
}
