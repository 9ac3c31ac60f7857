/* SPDX-License-Identifier: Apache-2.0 */
#include "ring.h"

#include "platform.h"
#include "runtime.h"

/* Looks at the ring before the hvCPU is given back to the host. */
#define RING_SPINS 512u

void ring_reset(struct ring *ring)
{
    ring->own = 0;
    ring->peer = 0;
    __atomic_store_n(&ring->shared->head, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&ring->shared->tail, 0, __ATOMIC_RELEASE);
}

uint32_t ring_space(struct ring *ring, uint64_t tail, uint64_t *bytes)
{
    if (tail < ring->peer || tail > ring->own || ring->own - tail > ring->size) {
        return CPC_S_RING;
    }
    ring->peer = tail;
    *bytes = ring->size - (ring->own - tail);
    return CPC_S_OK;
}

uint32_t ring_filled(struct ring *ring, uint64_t head, uint64_t *bytes)
{
    if (head < ring->peer || head < ring->own || head - ring->own > ring->size) {
        return CPC_S_RING;
    }
    ring->peer = head;
    *bytes = head - ring->own;
    return CPC_S_OK;
}

static uint32_t look(struct ring *ring, bool producer, uint64_t *bytes)
{
    if (producer) {
        return ring_space(
            ring, __atomic_load_n(&ring->shared->tail, __ATOMIC_SEQ_CST), bytes);
    }
    return ring_filled(
        ring, __atomic_load_n(&ring->shared->head, __ATOMIC_SEQ_CST), bytes);
}

/*
 * Unbounded on purpose: only the host can empty or fill the ring, it may take
 * as long as it likes, and it ends the wait with cancel. The hvCPU sleeps
 * meanwhile. YIELDED is set before the last look, so a host that moves its
 * index and then reads the state cannot miss that a wake is wanted.
 */
static uint32_t wait(struct call *call, bool producer, uint64_t want)
{
    struct ring *ring = &call->hvcpu->ring;
    uint32_t looks = 0;
    bool yielded = false;
    uint64_t bytes = 0;
    uint32_t status;

    for (;;) {
        status = look(ring, producer, &bytes);
        if (status != CPC_S_OK || bytes >= want) {
            break;
        }
        if (call_cancelled(call)) {
            status = CPC_S_CANCELLED;
            break;
        }
        if (looks < RING_SPINS) {
            looks++;
            arch_relax();
        } else if (!yielded) {
            yielded = true;
            call_set_state(call, CPC_STATE_YIELDED);
        } else {
            platform()->park();
        }
    }
    if (yielded) {
        call_set_state(call, CPC_STATE_RUNNING);
    }
    return status;
}

uint32_t ring_wait_space(struct call *call, uint64_t bytes)
{
    return wait(call, true, bytes);
}

uint32_t ring_wait_filled(struct call *call, uint64_t bytes)
{
    return wait(call, false, bytes);
}

void ring_produce(struct ring *ring, uint64_t bytes)
{
    ring->own += bytes;
    __atomic_store_n(&ring->shared->head, ring->own, __ATOMIC_RELEASE);
}

void ring_consume(struct ring *ring, uint64_t bytes)
{
    ring->own += bytes;
    __atomic_store_n(&ring->shared->tail, ring->own, __ATOMIC_RELEASE);
}
