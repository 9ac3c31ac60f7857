/* SPDX-License-Identifier: Apache-2.0 */
/* The memory functions of arch/x86_64/memory.c, for the libraries. Where they
   name more than these (strcmp, in functions that the linker drops), it is
   declared and not defined, so that a use does not link. */
#ifndef CPC_LIBC_STRING_H
#define CPC_LIBC_STRING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *text);
int strcmp(const char *a, const char *b);

#endif
