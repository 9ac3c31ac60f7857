/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A maintenance module: a table of entry points with a name and a version.
 * The runtime knows modules only as entries of the table in modules/table.c.
 */
#ifndef CPC_CORE_MODULE_H
#define CPC_CORE_MODULE_H

#include <stddef.h>
#include <stdint.h>

struct call;

struct module {
    const char *name;
    uint32_t version;
    size_t state_size;       /* one a machine, zero at start */
    size_t scratch_size;     /* one an hvCPU, contents undefined */
    /* Entry points by function number; NULL where there is none. */
    uint32_t (*const *functions)(struct call *call);
    uint32_t count;
    /* Once, before any call; may be NULL, as the next two. */
    void (*start)(void *state);
    /* Before an entry point; anything but CPC_S_OK refuses the call. */
    uint32_t (*enter)(struct call *call, uint32_t function);
    /* After it, also when it faulted (CPC_S_FAULT) or enter refused. */
    void (*leave)(struct call *call, uint32_t function, uint32_t status);
};

/* Indexed by module number, CPC_MODULE_*. */
extern const struct module *const module_table[];
extern const uint32_t module_count;

#define MODULE_LIMIT 8u

#endif
