/* SPDX-License-Identifier: Apache-2.0 */
/* Everything derived from the shared secret, and how it is wiped again. */
#include "migrate.h"

#include "crypto.h"

#define DOMAIN_REGION 0u
#define DOMAIN_VMSA 1u

/* HKDF with both hellos as salt, so that every key depends on every byte the
   two firmwares told each other. */
static uint32_t derive(uint8_t *out, size_t size, const uint8_t secret[32],
                       const uint8_t transcript[48], const char *label)
{
    return crypto_hkdf(out, size, secret, 32, transcript, 48, label) == 0
               ? CPC_S_OK
               : CPC_S_CRYPTO;
}

/* "cpc1 stream XX from source" */
static void stream_label(char label[32], uint32_t stream)
{
    static const char text[] = "cpc1 stream 00 from source";
    static const char digit[] = "0123456789abcdef";

    _Static_assert(sizeof(text) <= 32, "label fits");
    memcpy(label, text, sizeof(text));
    label[12] = digit[stream >> 4 & 15];
    label[13] = digit[stream & 15];
}

static uint32_t derive_streams(struct migrate_session *session,
                               const uint8_t secret[32],
                               const uint8_t transcript[48])
{
    for (uint32_t i = 0; i < MIGRATE_STREAMS; i++) {
        struct channel *channel = &session->stream[i].channel;
        char label[32];

        memset(channel, 0, sizeof(*channel));
        channel->suite = session->suite;
        memcpy(channel->session, session->id, sizeof(channel->session));
        channel->epoch = RECORD_EPOCH;
        channel->stream = (uint16_t)i;
        channel->direction = CPC_ROLE_SOURCE;   /* records go one way only */
        stream_label(label, i);
        uint32_t status = derive(channel->key, sizeof(channel->key), secret,
                                 transcript, label);
        if (status != CPC_S_OK) {
            return status;
        }
    }
    return CPC_S_OK;
}

uint32_t migrate_derive(struct migrate_session *session, uint32_t role,
                        const uint8_t secret[32], const uint8_t transcript[48])
{
    bool source = role == CPC_ROLE_SOURCE;
    uint8_t *from_source =
        source ? session->secret.confirm_own : session->secret.confirm_peer;
    uint8_t *from_destination =
        source ? session->secret.confirm_peer : session->secret.confirm_own;
    uint32_t status;

    status = derive(session->id, sizeof(session->id), secret, transcript,
                    "cpc1 session id");
    if (status == CPC_S_OK) {
        status = derive(from_source, 32, secret, transcript,
                        "cpc1 confirmation of source");
    }
    if (status == CPC_S_OK) {
        status = derive(from_destination, 32, secret, transcript,
                        "cpc1 confirmation of destination");
    }
    if (status == CPC_S_OK) {
        status = derive(session->secret.manifest, sizeof(session->secret.manifest),
                        secret, transcript, "cpc1 manifest");
    }
    return status == CPC_S_OK ? derive_streams(session, secret, transcript)
                              : status;
}

/*
 * A tag of the session's suite with nothing encrypted. The manifest key is
 * used for nothing else, and a nonce for one message a session: STATE runs
 * once, and what the destination computes never leaves it.
 */
static uint32_t keyed_tag(const struct migrate_session *session, uint32_t domain,
                          uint32_t index, const void *data, size_t size,
                          uint8_t tag[CPC_TAG_MAX])
{
    uint8_t nonce[16] = { 0 };
    uint8_t nothing = 0;

    memcpy(nonce, &index, sizeof(index));
    memcpy(nonce + 8, &domain, sizeof(domain));
    memset(tag, 0, CPC_TAG_MAX);
    return session->suite->seal(&nothing, tag, &nothing, 0, data, size, nonce,
                                session->secret.manifest) == 0
               ? CPC_S_OK
               : CPC_S_CRYPTO;
}

uint32_t migrate_region_tag(const struct call *call, uint32_t source_region,
                            const struct cpc_region *region,
                            uint8_t tag[CPC_TAG_MAX])
{
    return keyed_tag(migrate_session(call), DOMAIN_REGION, source_region,
                     memory_versions(call->runtime, region), 4 * region->pages, tag);
}

uint32_t migrate_vmsa_tag(const struct migrate_session *session,
                          uint8_t tag[CPC_TAG_MAX])
{
    return keyed_tag(session, DOMAIN_VMSA, 0, session->vmsa_tags,
                     (size_t)session->vmsa_count * CPC_TAG_MAX, tag);
}

void migrate_wipe_secrets(struct migrate_session *session)
{
    crypto_wipe(&session->secret, sizeof(session->secret));
    for (uint32_t i = 0; i < MIGRATE_STREAMS; i++) {
        crypto_wipe(session->stream[i].channel.key, CPC_KEY_MAX);
    }
}

void migrate_wipe(struct migrate_session *session)
{
    crypto_wipe(session, sizeof(*session));
}
