/* SPDX-License-Identifier: Apache-2.0 */
/* What this CPU can do, and its entropy. */
#include "percpu.h"

#include <cpuid.h>
#include <immintrin.h>

#define RANDOM_TRIES  1000u

#define ECX1_PCLMUL   (1u << 1)
#define ECX1_SSSE3    (1u << 9)
#define ECX1_SSE41    (1u << 19)
#define ECX1_AES      (1u << 25)
#define ECX1_OSXSAVE  (1u << 27)
#define ECX1_AVX      (1u << 28)
#define ECX1_RDRAND   (1u << 30)
#define EBX7_AVX2     (1u << 5)
#define EBX7_RDSEED   (1u << 18)
#define ECX7_VAES     (1u << 9)

/* What the AES suites are compiled for. */
#define AES_NEEDS     (ECX1_AES | ECX1_PCLMUL | ECX1_SSSE3 | ECX1_SSE41 | \
                       ECX1_AVX | ECX1_OSXSAVE)

static bool has_aes, has_vaes, has_rdseed, has_rdrand;

/* CPUID would be an exception, and its answer the host's. */
static void detect_measured(uint32_t features)
{
    has_aes = (features & CPC_CPU_AES) != 0;
    has_vaes = has_aes && (features & CPC_CPU_VAES) != 0;
    has_rdseed = (features & CPC_CPU_RDSEED) != 0;
    has_rdrand = (features & CPC_CPU_RDRAND) != 0;
}

void cpu_detect(const struct cpc_boot_info *boot)
{
    uint32_t eax, ebx = 0, ecx = 0, edx, ebx7 = 0, ecx7 = 0;

    if (boot->platform == CPC_PLATFORM_SEV_SNP) {
        detect_measured(boot->cpu_features);
        return;
    }
    __get_cpuid(1, &eax, &ebx, &ecx, &edx);
    __get_cpuid_count(7, 0, &eax, &ebx7, &ecx7, &edx);
    /* The entry code set OSXSAVE, and enabled AVX, only where both exist. */
    has_aes = (ecx & AES_NEEDS) == AES_NEEDS;
    has_vaes = has_aes && (ebx7 & EBX7_AVX2) != 0 && (ecx7 & ECX7_VAES) != 0;
    has_rdseed = (ebx7 & EBX7_RDSEED) != 0;
    has_rdrand = (ecx & ECX1_RDRAND) != 0;
}

bool arch_has_aes(void)
{
    return has_aes;
}

bool arch_has_vaes(void)
{
    return has_vaes;
}

__attribute__((target("rdseed"))) static bool seed(uint64_t *out)
{
    unsigned long long word;

    for (uint32_t i = 0; i < RANDOM_TRIES; i++) {
        if (_rdseed64_step(&word)) {
            *out = word;
            return true;
        }
        arch_relax();
    }
    return false;
}

__attribute__((target("rdrnd"))) static bool rand(uint64_t *out)
{
    unsigned long long word;

    for (uint32_t i = 0; i < RANDOM_TRIES; i++) {
        if (_rdrand64_step(&word)) {
            *out = word;
            return true;
        }
        arch_relax();
    }
    return false;
}

bool arch_random64(uint64_t *out)
{
    return (has_rdseed && seed(out)) || (has_rdrand && rand(out));
}

void arch_relax(void)
{
    _mm_pause();
}
