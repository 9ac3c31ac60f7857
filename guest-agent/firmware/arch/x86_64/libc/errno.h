/* SPDX-License-Identifier: Apache-2.0 */
/* libaegis includes it; the parts in use set no errno. */
#ifndef CPC_LIBC_ERRNO_H
#define CPC_LIBC_ERRNO_H
#endif
