/* SPDX-License-Identifier: Apache-2.0 */
/* The four memory functions the freestanding build provides itself. */
#ifndef CPC_CORE_BYTES_H
#define CPC_CORE_BYTES_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);

/*
 * Copy bytes that the host can change. The barrier makes the compiler use the
 * copy afterwards; without it, it may read the shared original again.
 */
static inline void copy_shared(void *to, const void *from, size_t size)
{
    memcpy(to, from, size);
    __asm__ volatile("" ::: "memory");
}

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
