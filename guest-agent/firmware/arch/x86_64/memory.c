/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying, filling, comparing. Loops over vectors, never string instructions:
 * an emulator runs those a byte at a time (23 MB/s where this does 1,800).
 */
#include <immintrin.h>
#include <string.h>

#include "percpu.h"

#define VECTOR_WORTHWHILE  256u

typedef uint64_t word __attribute__((aligned(1), may_alias));

/* A whole number of 128-byte blocks. */
__attribute__((target("avx2")))
static void copy_avx2(uint8_t *to, const uint8_t *from, size_t size)
{
    for (size_t i = 0; i < size; i += 128) {
        __m256i a = _mm256_loadu_si256((const __m256i_u *)(from + i));
        __m256i b = _mm256_loadu_si256((const __m256i_u *)(from + i + 32));
        __m256i c = _mm256_loadu_si256((const __m256i_u *)(from + i + 64));
        __m256i d = _mm256_loadu_si256((const __m256i_u *)(from + i + 96));
        _mm256_storeu_si256((__m256i_u *)(to + i), a);
        _mm256_storeu_si256((__m256i_u *)(to + i + 32), b);
        _mm256_storeu_si256((__m256i_u *)(to + i + 64), c);
        _mm256_storeu_si256((__m256i_u *)(to + i + 96), d);
    }
}

__attribute__((target("avx2")))
static void fill_avx2(uint8_t *to, int byte, size_t size)
{
    __m256i value = _mm256_set1_epi8((char)byte);

    for (size_t i = 0; i < size; i += 128) {
        _mm256_storeu_si256((__m256i_u *)(to + i), value);
        _mm256_storeu_si256((__m256i_u *)(to + i + 32), value);
        _mm256_storeu_si256((__m256i_u *)(to + i + 64), value);
        _mm256_storeu_si256((__m256i_u *)(to + i + 96), value);
    }
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    size_t i = 0;

    if (size >= VECTOR_WORTHWHILE && cpu_has_avx2) {
        i = size & ~(size_t)127;
        copy_avx2(t, f, i);
    }
    for (; i + 8 <= size; i += 8) {
        *(word *)(t + i) = *(const word *)(f + i);
    }
    for (; i < size; i++) {
        t[i] = f[i];
    }
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    uint8_t *t = to;
    const uint8_t *f = from;

    if ((uintptr_t)t - (uintptr_t)f >= size) {
        return memcpy(to, from, size);
    }
    for (size_t i = size; i > 0; i--) {
        t[i - 1] = f[i - 1];
    }
    return to;
}

void *memset(void *to, int byte, size_t size)
{
    uint8_t *t = to;
    uint64_t value = 0x0101010101010101ull * (uint8_t)byte;
    size_t i = 0;

    if (size >= VECTOR_WORTHWHILE && cpu_has_avx2) {
        i = size & ~(size_t)127;
        fill_avx2(t, byte, i);
    }
    for (; i + 8 <= size; i += 8) {
        *(word *)(t + i) = value;
    }
    for (; i < size; i++) {
        t[i] = (uint8_t)byte;
    }
    return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const uint8_t *x = a, *y = b;

    for (size_t i = 0; i < size; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? -1 : 1;
        }
    }
    return 0;
}

size_t strlen(const char *text)
{
    size_t size = 0;

    while (text[size] != 0) {
        size++;
    }
    return size;
}

void arch_copy_pages(void *to, const void *from, uint32_t pages)
{
    memcpy(to, from, (size_t)pages * CPC_PAGE_SIZE);
}

bool arch_page_is_zero(const void *page)
{
    const volatile uint64_t *p = page;

    for (uint32_t i = 0; i < CPC_PAGE_SIZE / 8; i += 8) {
        if ((p[i] | p[i + 1] | p[i + 2] | p[i + 3] |
             p[i + 4] | p[i + 5] | p[i + 6] | p[i + 7]) != 0) {
            return false;
        }
    }
    return true;
}
