/* SPDX-License-Identifier: Apache-2.0 */
/* Declared because library and compiler headers name them; never defined, so
   a use does not link. */
#ifndef CPC_LIBC_STDLIB_H
#define CPC_LIBC_STDLIB_H

#include <stddef.h>

void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void free(void *p);
void exit(int status) __attribute__((noreturn));

#endif
