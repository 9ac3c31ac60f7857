/* SPDX-License-Identifier: Apache-2.0 */
/* The migrate module's state and what its files share. */
#ifndef CPC_MODULES_MIGRATE_H
#define CPC_MODULES_MIGRATE_H

#include "memory.h"
#include "operators.h"
#include "record.h"
#include "runtime.h"

#define MIGRATE_STREAMS CPC_HVCPU_LIMIT

struct migrate_stream {
    struct channel channel;
    uint32_t round;          /* last one begun (source), completed (destination) */
    uint32_t ended;          /* END sealed / taken */
    uint64_t records;        /* up to and with END */
};

struct migrate_session {
    uint32_t phase;          /* atomic: streams look at it while they run */
    uint32_t role;
    uint32_t failure;
    uint32_t streams;        /* atomic; 0 until the first record */
    uint32_t committed;      /* the step that cannot be undone has begun */
    uint32_t freeze_tried;   /* RESUME must release */
    const struct cpc_suite *suite;
    uint8_t id[16];

    /* wiped when the session ends or fails */
    struct {
        uint8_t x25519[32];
        uint8_t shared[32];  /* by both, during ACCEPT */
        uint8_t confirm_own[32];
        uint8_t confirm_peer[32];
        uint8_t manifest[CPC_KEY_MAX];
    } secret;
    /* a failed destination still has to sign its ABORT */
    uint8_t signer_private[48];
    uint8_t signer_peer[97];

    struct cpc_hello hello;  /* ours */
    struct memory memory;
    uint32_t region_of[CPC_REGION_LIMIT]; /* destination: source's id -> ours */
    uint32_t regions;        /* entries of the source's table */

    struct cpc_manifest manifest;
    uint8_t manifest_digest[32];
    uint32_t gvcpus;         /* present here when the session was opened */
    uint32_t vmsa_count;
    uint32_t vmsa_next;      /* destination: lowest number not yet used */
    uint32_t vmsa_bytes[CPC_GVCPU_LIMIT]; /* 0: none */
    uint8_t vmsa_tags[CPC_GVCPU_LIMIT][CPC_TAG_MAX];

    uint32_t token_valid;    /* the last token signed, for who asks again */
    struct cpc_token token;
    struct cpc_token running; /* destination: kept back until the guest runs */

    struct migrate_stream stream[MIGRATE_STREAMS];
};

struct migrate {
    uint64_t gate;           /* who is in a call, see migrate.c */
    uint32_t released;       /* the gvCPUs run here as far as we decide it */
    uint32_t opened_once;    /* as destination */
    struct migrate_session session;
};

/* Trusted working memory of one hvCPU. */
struct migrate_scratch {
    _Alignas(CPC_PAGE_SIZE) uint8_t bounce[CPC_RUN_BYTES];
    uint8_t kinds[CPC_KINDS_MAX];
    uint64_t dirty[CPC_KINDS_MAX / 64];
    struct cpc_extent zero[CPC_EXTENTS_MAX];
    struct cpc_extent absent[CPC_EXTENTS_MAX];
};

static inline struct migrate *migrate_of(const struct call *call)
{
    return call->runtime->module_state[CPC_MODULE_MIGRATE];
}

static inline struct migrate_session *migrate_session(const struct call *call)
{
    return &migrate_of(call)->session;
}

static inline struct migrate_scratch *migrate_scratch(const struct call *call)
{
    return (struct migrate_scratch *)(void *)call->hvcpu->scratch;
}

uint32_t migrate_phase(const struct migrate_session *session);

/* Session back to nothing: every key, index and count. */
void migrate_wipe(struct migrate_session *session);
/* Keys that no later call needs; the signing key stays. */
void migrate_wipe_secrets(struct migrate_session *session);

/* Move on from `from` only: a failure on another stream must stay. */
void migrate_phase_step(struct migrate_session *session, uint32_t from,
                        uint32_t to);

/* The number of streams is said once; false when it was said differently. */
bool migrate_fix_streams(struct migrate_session *session, uint32_t streams);
/* True while another stream has failed or the map changed: then *status. */
bool migrate_stopped(const struct call *call, uint32_t *status);

/* Everything that hangs on the shared secret. */
uint32_t migrate_derive(struct migrate_session *session, uint32_t role,
                        const uint8_t secret[32], const uint8_t transcript[48]);

/* The manifest's tags over our version table and the VMSA records. */
uint32_t migrate_region_tag(const struct call *call, uint32_t source_region,
                            const struct cpc_region *region,
                            uint8_t tag[CPC_TAG_MAX]);
uint32_t migrate_vmsa_tag(const struct migrate_session *session,
                          uint8_t tag[CPC_TAG_MAX]);

/* Sign a token. */
uint32_t migrate_token_make(const struct migrate_session *session, uint32_t type,
                            struct cpc_token *token);
/* Make a signed token the reply; it is kept for who asks again. */
void migrate_token_give(struct call *call, const struct cpc_token *token);
/* Both. */
uint32_t migrate_token_sign(struct call *call, uint32_t type);
/* Reply with the token kept. */
void migrate_token_reply(struct call *call);
/* The call's payload is this token, signed by the peer of this session. */
uint32_t migrate_token_verify(const struct call *call, uint32_t type);

/* Destination: the device state loaded is the one in the manifest, and the
   disks are ours. DEVICE_STATE, MANIFEST_DEVICES or DISKS otherwise. */
uint32_t migrate_check_host_side(struct call *call);

uint32_t migrate_open(struct call *call);
uint32_t migrate_accept(struct call *call);
uint32_t migrate_confirm(struct call *call);
uint32_t migrate_send(struct call *call);
uint32_t migrate_recv(struct call *call);
uint32_t migrate_freeze(struct call *call);
uint32_t migrate_state(struct call *call);
uint32_t migrate_prepare(struct call *call);
uint32_t migrate_commit(struct call *call);
uint32_t migrate_run(struct call *call);
uint32_t migrate_finish(struct call *call);
uint32_t migrate_abort(struct call *call);
uint32_t migrate_resume(struct call *call);
uint32_t migrate_query(struct call *call);

#endif
