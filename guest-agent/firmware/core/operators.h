/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The four operators every module is built from: memory and state, encrypted
 * and extracted or decrypted and inserted.
 *
 *   MEE  guest pages -> one sealed record in the ring
 *   SEE  trusted state -> one sealed record in the ring
 *   SDI  one record from the ring -> verified state in trusted memory
 *   MDI  verified plaintext in trusted memory -> guest pages
 *
 * All return CPC_S_OK or the status that ends the session.
 */
#ifndef CPC_CORE_OPERATORS_H
#define CPC_CORE_OPERATORS_H

#include <stdint.h>

#include "memory.h"
#include "record.h"
#include "runtime.h"

/* body->count pages (1 .. CPC_RUN_PAGES) of body->kind, from `page`. Sets the
   body's address and length, and its count to the pages that were sealed: fewer,
   or none and no record, where a running guest took a page away meanwhile.
   bounce: CPC_RUN_BYTES of trusted memory. */
uint32_t operator_mee(struct call *call, struct channel *channel,
                      struct record_body *body, const struct cpc_region *region,
                      uint64_t page, uint8_t *bounce);

/* body->length bytes at `state`, which must be trusted. tag: where to keep the
   record's tag (CPC_TAG_MAX bytes), or NULL. */
uint32_t operator_see(struct call *call, struct channel *channel,
                      const struct record_body *body, const void *state,
                      uint8_t *tag);

/* The ring's next record, verified; its plaintext is in call->hvcpu->buffer.
   The caller judges address and version before it uses either. */
uint32_t operator_sdi(struct call *call, struct channel *channel,
                      struct cpc_record *record);

/* call->hvcpu->buffer -> count pages of the region, which become of `kind`.
   entries: what the version table has of them now. */
uint32_t operator_mdi(struct call *call, const struct cpc_region *region,
                      uint64_t page, uint32_t count, const uint32_t *entries,
                      uint8_t kind);

#endif
