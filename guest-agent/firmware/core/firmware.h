/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the entry code of an architecture calls: firmware_init once, on the
 * first hvCPU, then firmware_main on every hvCPU.
 */
#ifndef CPC_CORE_FIRMWARE_H
#define CPC_CORE_FIRMWARE_H

#include <stdint.h>

/*
 * Check what the platform wrote, carve the tables out of free trusted memory
 * (which must be zero) and run the known-answer tests. Returns CPC_S_OK,
 * CPC_S_BOOT_INFO, CPC_S_TOO_LARGE or CPC_S_KNOWN_ANSWER. After a failure the
 * hvCPUs still answer: every call then ends with that status.
 */
uint32_t firmware_init(void);

/* Take calls from this hvCPU's mailbox for ever. */
void firmware_main(void);

#endif
