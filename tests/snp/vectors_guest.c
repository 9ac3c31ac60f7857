/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector loads and rounds of AES, on a processor or its emulation: what they give, line by
 * line. The first line says whether 256-bit rounds were done at once (else as two halves).
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define PAGE 4096
#define ROUNDS 64
#define TARGET __attribute__((target("aes,avx2,vaes"), noinline))

static uint64_t state = 1;

static void fill(void *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        ((uint8_t *)to)[i] = (uint8_t)(state >> 56);
    }
}

static void show(const char *what, const void *from, size_t bytes)
{
    printf("%s ", what);
    for (size_t i = 0; i < bytes; i++) {
        printf("%02x", ((const uint8_t *)from)[i]);
    }
    printf("\n");
}

/* Legacy, VEX with a register and with memory, and 256 bits, all of the same two blocks. */
#define ROUND(op) \
static TARGET void op##_all(const uint8_t *a, const uint8_t *k, int wide) \
{ \
    uint8_t out[32]; \
    __m256i x = _mm256_loadu_si256((const void *)a); \
    __m256i y = _mm256_loadu_si256((const void *)k); \
    __m256i r = x; \
    __m128i l = _mm256_castsi256_si128(x); \
    /* Legacy: the upper half stays. */ \
    __asm__ volatile(#op " %1, %x0" : "+x"(r) : "x"(_mm256_castsi256_si128(y))); \
    _mm256_storeu_si256((void *)out, r); \
    show(#op, out, 32); \
    /* VEX, 128 bits: the upper half is cleared. */ \
    r = y; \
    __asm__ volatile("v" #op " %2, %x1, %x0" : "+x"(r) : "x"(l), \
                     "m"(*(const __m128i_u *)k)); \
    _mm256_storeu_si256((void *)out, r); \
    show("v" #op, out, 32); \
    /* The result over the key. */ \
    r = y; \
    __asm__ volatile("v" #op " %x0, %x1, %x0" : "+x"(r) : "x"(l)); \
    _mm256_storeu_si256((void *)out, r); \
    show("v" #op " over", out, 32); \
    if (wide) { \
        __asm__ volatile("v" #op " %2, %1, %0" : "=x"(r) : "x"(x), "x"(y)); \
        _mm256_storeu_si256((void *)out, r); \
    } else { \
        __m128i h = _mm256_extracti128_si256(x, 1); \
        __asm__ volatile(#op " %1, %0" : "+x"(l) : "x"(_mm256_castsi256_si128(y))); \
        __asm__ volatile(#op " %1, %0" : "+x"(h) : "x"(_mm256_extracti128_si256(y, 1))); \
        _mm_storeu_si128((void *)out, l); \
        _mm_storeu_si128((void *)(out + 16), h); \
    } \
    show("v" #op " 256", out, 32); \
}
ROUND(aesenc)
ROUND(aesenclast)
ROUND(aesdec)
ROUND(aesdeclast)

static volatile int faults;

/* All loads below have eight bytes. */
static void skip(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 8;
    faults++;
}

/* The address is in RAX; `load` is padded to eight bytes. What the register held before is
   what it holds after a fault. */
#define LOAD(name, load) \
static TARGET void name(const uint8_t *from, const uint8_t *before, uint8_t *out) \
{ \
    __asm__ volatile("vmovdqu (%1), %%ymm0\n\t" \
                     "1: " load "\n\t" \
                     ".fill 8 - (. - 1b), 1, 0x90\n\t" \
                     "vmovdqu %%ymm0, (%2)" \
                     : : "a"(from), "r"(before), "r"(out) : "xmm0", "memory"); \
}
LOAD(movdqu, "movdqu (%%rax), %%xmm0")
LOAD(movdqa, "movdqa (%%rax), %%xmm0")
LOAD(vmovdqu, "vmovdqu (%%rax), %%xmm0")
LOAD(vmovdqu256, "vmovdqu (%%rax), %%ymm0")
LOAD(vmovdqa256, "vmovdqa (%%rax), %%ymm0")
LOAD(vpxor, "vpxor (%%rax), %%xmm0, %%xmm0")
LOAD(vpxor256, "vpxor (%%rax), %%ymm0, %%ymm0")

static const struct {
    const char *name;
    void (*load)(const uint8_t *, const uint8_t *, uint8_t *);
} loads[] = {
    { "movdqu", movdqu }, { "movdqa", movdqa }, { "vmovdqu", vmovdqu },
    { "vmovdqu256", vmovdqu256 }, { "vmovdqa256", vmovdqa256 },
    { "vpxor", vpxor }, { "vpxor256", vpxor256 },
};

static void load_at(const uint8_t *from)
{
    uint8_t before[32], out[32];
    char what[64];

    for (unsigned i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
        fill(before, sizeof(before));
        memset(out, 0, sizeof(out));
        faults = 0;
        loads[i].load(from, before, out);
        snprintf(what, sizeof(what), "%s %u %d", loads[i].name,
                 (unsigned)((uintptr_t)from % PAGE), faults);
        show(what, out, sizeof(out));
    }
}

int main(void)
{
    int wide = __builtin_cpu_supports("vaes") != 0;
    uint8_t *pages = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = { .sa_sigaction = skip, .sa_flags = SA_SIGINFO };

    printf("VAES %d\nBEGIN\n", wide);
    for (int i = 0; i < ROUNDS; i++) {
        uint8_t a[32], k[32];
        fill(a, sizeof(a));
        fill(k, sizeof(k));
        aesenc_all(a, k, wide);
        aesenclast_all(a, k, wide);
        aesdec_all(a, k, wide);
        aesdeclast_all(a, k, wide);
    }
    if (pages == MAP_FAILED || sigaction(SIGSEGV, &action, NULL) != 0) {
        return 1;
    }
    fill(pages, 2 * PAGE);
    munmap(pages + 2 * PAGE, PAGE);
    for (int i = 0; i <= 48; i++) {
        load_at(pages + PAGE - 48 + i);         /* from one page into the next */
        load_at(pages + 2 * PAGE - 48 + i);     /* and into none */
    }
    printf("END\n");
    return 0;
}
