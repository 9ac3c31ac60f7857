/* SPDX-License-Identifier: Apache-2.0 */
/* mbedTLS includes it; the firmware prints nothing. */
#ifndef CPC_LIBC_STDIO_H
#define CPC_LIBC_STDIO_H

#include <stddef.h>

typedef struct cpc_no_file FILE;

#endif
