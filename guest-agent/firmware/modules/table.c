/* SPDX-License-Identifier: Apache-2.0 */
/* The one place that names the modules of this image. */
#include "bytes.h"
#include "cpc_abi.h"
#include "module.h"

extern const struct module core_module;
extern const struct module migrate_module;

const struct module *const module_table[] = {
    [CPC_MODULE_CORE] = &core_module,
    [CPC_MODULE_MIGRATE] = &migrate_module,
};
const uint32_t module_count = ARRAY_SIZE(module_table);

_Static_assert(ARRAY_SIZE(module_table) <= MODULE_LIMIT, "runtime has room");
