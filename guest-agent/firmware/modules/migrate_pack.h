/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of one stream into records: neighbours of one kind with content go
 * into one record, zero and absent ones into lists of extents.
 */
#ifndef CPC_MIGRATE_PACK_H
#define CPC_MIGRATE_PACK_H

#include "migrate.h"

/* One round of one stream. */
struct sender {
    struct call *call;
    struct migrate_session *session;
    struct migrate_scratch *scratch;
    struct channel *channel;
    const struct cpc_region *region;
    uint32_t *versions;          /* of the region */
    uint32_t round;
    bool full;
    bool final;
    /* pages with content that go into one record */
    uint64_t run_first;
    uint32_t run_count;
    uint8_t run_kind;
    uint32_t run_old[CPC_RUN_PAGES]; /* their entries before this round */
    /* extents not sealed yet */
    uint32_t zeros;
    uint32_t zero_pages;         /* in them */
    uint8_t zero_kind;
    uint32_t absents;
};

/* A present page, which counts as sent from now on. A CPC_S_* status. */
uint32_t pack_page(struct sender *send, uint64_t page, uint8_t kind, bool zero);

/* A page that was present and is not any more. */
uint32_t pack_absent(struct sender *send, uint64_t page);

/* What waits is sealed: the run, which lies in one region, and the extents. */
uint32_t pack_flush_run(struct sender *send);
uint32_t pack_flush_extents(struct sender *send);

/* An empty record that says where the stream is. */
uint32_t pack_mark(struct sender *send, uint8_t type);

/* The host's dirty bits of 64 pages from this one on, in shared memory. */
uint64_t *pack_dirty_hint(const struct cpc_region *region, uint64_t page);

#endif
