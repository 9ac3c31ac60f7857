/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CPC_LIBC_ASSERT_H
#define CPC_LIBC_ASSERT_H

#define assert(condition) ((void)(condition))
#define static_assert _Static_assert

#endif
