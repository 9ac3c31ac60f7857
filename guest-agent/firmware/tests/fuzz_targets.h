/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CPC_TESTS_FUZZ_TARGETS_H
#define CPC_TESTS_FUZZ_TARGETS_H

#include <stddef.h>
#include <stdint.h>

enum fuzz_target {
    FUZZ_RING,
    FUZZ_HEADER,
    FUZZ_HELLO,
    FUZZ_TOKEN,
    FUZZ_CALL,
    FUZZ_HINTS,
    FUZZ_REPLY,
    FUZZ_TARGETS,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void fuzz_begin(void);
void fuzz_end(void);
/* Records the last FUZZ_RING input had verified. */
uint64_t fuzz_ring_records(void);
size_t fuzz_seed(uint32_t target, uint8_t *data, size_t room);

#endif
