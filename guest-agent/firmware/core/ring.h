/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One end of a shared byte ring. The firmware's own index lives here, in
 * trusted memory; the shared copy is only ever written. The host's index is
 * read once a look, and refused when it cannot be true.
 */
#ifndef CPC_CORE_RING_H
#define CPC_CORE_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "cpc_abi.h"

struct call;

struct ring {
    struct cpc_ring *shared;
    uint8_t *data;           /* mapped twice in a row */
    uint64_t size;           /* a power of two */
    uint64_t own;            /* bytes produced (export) or consumed (import) */
    uint64_t peer;           /* the host's index when last believed */
};

/* Both indices to 0, here and in shared memory. */
void ring_reset(struct ring *ring);

/*
 * Take a value of the host's tail (export) or head (import) and work out the
 * bytes that may be written or read. CPC_S_RING when the value goes back,
 * passes the other index or is more than a ring away.
 */
uint32_t ring_space(struct ring *ring, uint64_t tail, uint64_t *bytes);
uint32_t ring_filled(struct ring *ring, uint64_t head, uint64_t *bytes);

/*
 * Wait until `bytes` (at most the ring's size) may be written / read. Yields
 * to the host after a short spin. CPC_S_OK, CPC_S_CANCELLED or CPC_S_RING.
 */
uint32_t ring_wait_space(struct call *call, uint64_t bytes);
uint32_t ring_wait_filled(struct call *call, uint64_t bytes);

/* Where the next byte goes / comes from; a record never wraps. */
static inline uint8_t *ring_at(const struct ring *ring)
{
    return ring->data + (ring->own & (ring->size - 1));
}

/* Hand `bytes` over to the host. */
void ring_produce(struct ring *ring, uint64_t bytes);
void ring_consume(struct ring *ring, uint64_t bytes);

#endif
