/* SPDX-License-Identifier: Apache-2.0 */
/* The signed tokens of the handover. */
#include "migrate.h"

#define SIGNED_BYTES __builtin_offsetof(struct cpc_token, signature)

_Static_assert(SIGNED_BYTES == 64, "magic, wire, type, pad, session, manifest");

void migrate_token_reply(struct call *call)
{
    const struct migrate_session *session = migrate_session(call);
    memcpy(call->reply, &session->token, sizeof(session->token));
    call->reply_size = sizeof(session->token);
}

uint32_t migrate_token_make(const struct migrate_session *session, uint32_t type,
                            struct cpc_token *token)
{
    memset(token, 0, sizeof(*token));
    token->magic = CPC_TOKEN_MAGIC;
    token->wire = CPC_WIRE_VERSION;
    token->type = type;
    memcpy(token->session, session->id, sizeof(token->session));
    if (type != CPC_TOKEN_ABORT) {
        memcpy(token->manifest, session->manifest_digest, sizeof(token->manifest));
    }
    return crypto_sign(token->signature, session->signer_private, token, SIGNED_BYTES) == 0
               ? CPC_S_OK
               : CPC_S_CRYPTO;
}

void migrate_token_give(struct call *call, const struct cpc_token *token)
{
    struct migrate_session *session = migrate_session(call);

    session->token = *token;
    session->token_valid = 1;
    migrate_token_reply(call);
}

uint32_t migrate_token_sign(struct call *call, uint32_t type)
{
    struct cpc_token token;
    uint32_t status = migrate_token_make(migrate_session(call), type, &token);

    if (status == CPC_S_OK) {
        migrate_token_give(call, &token);
    }
    return status;
}

uint32_t migrate_token_verify(const struct call *call, uint32_t type)
{
    const struct migrate_session *session = migrate_session(call);
    static const uint8_t no_manifest[32];
    struct cpc_token token;

    if (call->payload_size != sizeof(token)) {
        return CPC_S_BAD_PAYLOAD;
    }
    memcpy(&token, call->payload, sizeof(token));
    if (token.magic != CPC_TOKEN_MAGIC || token.wire != CPC_WIRE_VERSION ||
        token.type != type || token.pad != 0) {
        return CPC_S_TOKEN;
    }
    if (memcmp(token.session, session->id, sizeof(token.session)) != 0) {
        return CPC_S_TOKEN_SESSION;
    }
    if (memcmp(token.manifest,
               type == CPC_TOKEN_ABORT ? no_manifest : session->manifest_digest,
               sizeof(token.manifest)) != 0) {
        return CPC_S_TOKEN_SESSION;
    }
    return crypto_verify(session->signer_peer, token.signature, &token,
                         SIGNED_BYTES) == 0
               ? CPC_S_OK
               : CPC_S_TOKEN_SIGNATURE;
}
