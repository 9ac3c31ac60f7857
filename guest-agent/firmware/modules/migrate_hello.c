/* SPDX-License-Identifier: Apache-2.0 */
/* OPEN, ACCEPT, CONFIRM: two firmwares agree on keys and on the guest's shape. */
#include "migrate.h"

#include "platform.h"
#include "version.h"

#define SUITES_KNOWN                                                        \
    (CPC_SUITE_BIT(CPC_SUITE_AEGIS128L) | CPC_SUITE_BIT(CPC_SUITE_AEGIS128X2) | \
     CPC_SUITE_BIT(CPC_SUITE_AES256GCM) |                                   \
     CPC_SUITE_BIT(CPC_SUITE_CHACHA20POLY1305))

_Static_assert(sizeof(struct cpc_hello) <= CPC_PAYLOAD_MAX, "hello fits a call");
_Static_assert(sizeof(struct cpc_token) <= CPC_PAYLOAD_MAX, "so does a token");

/* Fastest first; both sides pick the first that both allow. */
static const uint32_t preference[] = {
    CPC_SUITE_AEGIS128X2,
    CPC_SUITE_AEGIS128L,
    CPC_SUITE_AES256GCM,
    CPC_SUITE_CHACHA20POLY1305,
};

/* How many gvCPUs are present, and the highest number, plus one. */
static uint32_t count_gvcpus(struct call *call, struct migrate_session *session)
{
    for (uint32_t i = 0; i < arch_boot_info()->gvcpu_max; i++) {
        uint32_t status = platform()->gvcpu(i);     /* i < CPC_GVCPU_LIMIT */
        if (status == CPC_P_OK) {
            session->hello.gvcpus = i + 1;
            session->gvcpus++;
        } else if (status != CPC_P_NOT_PRESENT) {
            return call_platform(call, CPC_PCALL_GVCPU, status);
        }
    }
    return CPC_S_OK;
}

static void hello_regions(struct cpc_hello *hello, const struct memory *memory)
{
    hello->regions = memory->count;
    for (uint32_t i = 0; i < memory->count; i++) {   /* <= CPC_REGION_LIMIT */
        if (memory_present(memory, i)) {
            memcpy(hello->region[i].name, memory->region[i].name, CPC_REGION_NAME);
            hello->region[i].pages = memory->region[i].pages;
        }
    }
}

static uint32_t hello_make(struct call *call, struct migrate_session *session)
{
    struct cpc_hello *hello = &session->hello;
    const char version[] = CPC_FIRMWARE_VERSION;

    _Static_assert(sizeof(version) <= sizeof(hello->version), "version fits");
    hello->magic = CPC_HELLO_MAGIC;
    hello->wire = CPC_WIRE_VERSION;
    hello->role = session->role;
    hello->suites = (uint32_t)call->arg[1] & call->runtime->suites;
    hello->platform = arch_boot_info()->platform;
    memcpy(hello->version, version, sizeof(version));
    hello_regions(hello, &session->memory);
    uint32_t status = count_gvcpus(call, session);
    if (status != CPC_S_OK) {
        return status;
    }
    if (hello->suites == 0) {
        return CPC_S_NO_SUITE;
    }
    if (!crypto_random(hello->nonce, sizeof(hello->nonce))) {
        return CPC_S_NO_ENTROPY;
    }
    if (crypto_x25519_keypair(session->secret.x25519, hello->x25519) != 0 ||
        crypto_sign_keypair(session->signer_private, hello->signer) != 0) {
        return CPC_S_CRYPTO;
    }
    return CPC_S_OK;
}

static void forget_versions(const struct call *call, const struct memory *memory)
{
    for (uint32_t i = 0; i < memory->count; i++) {   /* <= CPC_REGION_LIMIT */
        if (memory_present(memory, i)) {
            memset(memory_versions(call->runtime, &memory->region[i]), 0,
                   4 * memory->region[i].pages);
        }
    }
}

uint32_t migrate_open(struct call *call)
{
    struct migrate *migrate = migrate_of(call);
    struct migrate_session *session = &migrate->session;

    if (call->arg[1] == 0 || (call->arg[1] & ~(uint64_t)SUITES_KNOWN) != 0) {
        return CPC_S_BAD_ARGUMENT;
    }
    migrate_wipe(session);
    session->role = (uint32_t)call->arg[0];
    struct cpc_region_table table;
    uint32_t status = platform()->regions(&table);
    if (status == CPC_S_OK) {
        status = memory_snapshot(&session->memory, &table,
                                 call->runtime->version_count);
    }
    if (status == CPC_S_OK) {
        status = hello_make(call, session);
    }
    if (status != CPC_S_OK) {
        migrate_wipe(session);
        return status;
    }
    forget_versions(call, &session->memory);
    for (uint32_t i = 0; i < arch_boot_info()->hvcpu_max; i++) {
        ring_reset(&call->runtime->hvcpu[i].ring);   /* i < CPC_HVCPU_LIMIT */
    }
    migrate->opened_once |= session->role == CPC_ROLE_DESTINATION;
    memcpy(call->reply, &session->hello, sizeof(session->hello));
    call->reply_size = sizeof(session->hello);
    return CPC_S_OK;
}

static bool zero(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) {   /* a hello's field */
        sum |= bytes[i];
    }
    return sum == 0;
}

/*
 * Both tables must name the same regions with the same sizes, each once. An
 * entry of the peer's without a name is a slot that holds nothing.
 */
static uint32_t match_regions(struct migrate_session *session,
                              const struct cpc_hello *peer)
{
    const struct memory *memory = &session->memory;
    uint32_t matched = 0;
    uint32_t present = 0;

    for (uint32_t i = 0; i < memory->count; i++) {   /* <= CPC_REGION_LIMIT */
        present += memory_present(memory, i);
    }
    for (uint32_t i = 0; i < CPC_REGION_LIMIT; i++) {
        session->region_of[i] = CPC_REGION_LIMIT;
    }
    for (uint32_t i = 0; i < peer->regions; i++) {   /* checked before */
        uint32_t own = 0;
        if (peer->region[i].name[0] == 0) {
            if (!zero(&peer->region[i], sizeof(peer->region[i]))) {
                return CPC_S_PEER_REGIONS;
            }
            continue;
        }
        while (own < memory->count &&
               (!memory_present(memory, own) ||
                memcmp(memory->region[own].name, peer->region[i].name,
                       CPC_REGION_NAME) != 0)) {
            own++;
        }
        if (own == memory->count || memory->region[own].pages != peer->region[i].pages) {
            return CPC_S_PEER_REGIONS;
        }
        for (uint32_t j = 0; j < i; j++) {
            if (session->region_of[j] == own) {
                return CPC_S_PEER_REGIONS;
            }
        }
        session->region_of[i] = own;
        matched++;
    }
    session->regions = peer->regions;
    return matched == present ? CPC_S_OK : CPC_S_PEER_REGIONS;
}

static const struct cpc_suite *choose_suite(uint32_t both)
{
    for (uint32_t i = 0; i < ARRAY_SIZE(preference); i++) {
        if ((both & CPC_SUITE_BIT(preference[i])) != 0) {
            return crypto_suite(preference[i]);
        }
    }
    return NULL;
}

static uint32_t check_peer(struct migrate_session *session,
                           const struct cpc_hello *peer)
{
    if (peer->magic != CPC_HELLO_MAGIC) {
        return CPC_S_BAD_PAYLOAD;
    }
    if (peer->wire != CPC_WIRE_VERSION) {
        return CPC_S_PEER_WIRE;
    }
    if (!zero(peer->pad, sizeof(peer->pad)) || peer->pad1 != 0 ||
        peer->regions > CPC_REGION_LIMIT ||
        !zero(&peer->region[peer->regions],
              (CPC_REGION_LIMIT - peer->regions) * sizeof(peer->region[0]))) {
        return CPC_S_BAD_PAYLOAD;
    }
    if (peer->role != (session->role ^ (CPC_ROLE_SOURCE | CPC_ROLE_DESTINATION))) {
        return CPC_S_WRONG_ROLE;
    }
    if (peer->platform != session->hello.platform) {
        return CPC_S_PEER_PLATFORM;
    }
    if (peer->gvcpus != session->hello.gvcpus) {
        return CPC_S_PEER_GVCPUS;
    }
    uint32_t status = match_regions(session, peer);
    if (status != CPC_S_OK) {
        return status;
    }
    session->suite = choose_suite(session->hello.suites & peer->suites);
    if (session->suite == NULL) {
        return CPC_S_NO_SUITE;
    }
    return peer->signer[0] == 0x04 ? CPC_S_OK : CPC_S_PEER_KEY;
}

/* SHA-384 over both hellos, the source's first, and over what the platforms of
   both must have in common. */
static void transcript_of(const struct migrate_session *session,
                          const struct cpc_hello *peer, uint8_t transcript[48])
{
    struct {
        struct cpc_hello source;
        struct cpc_hello destination;
        uint8_t binding[32];
    } both;
    size_t size = sizeof(both);

    bool source = session->role == CPC_ROLE_SOURCE;
    both.source = source ? session->hello : *peer;
    both.destination = source ? *peer : session->hello;
    if (!platform()->binding(both.binding)) {
        size -= sizeof(both.binding);
    }
    crypto_sha384(transcript, &both, size);
}

uint32_t migrate_accept(struct call *call)
{
    struct migrate_session *session = migrate_session(call);
    struct cpc_hello peer;
    uint8_t transcript[48];

    if (call->payload_size != sizeof(peer)) {
        return CPC_S_BAD_PAYLOAD;
    }
    memcpy(&peer, call->payload, sizeof(peer));
    uint32_t status = check_peer(session, &peer);
    if (status != CPC_S_OK) {
        return status;
    }
    transcript_of(session, &peer, transcript);
    if (crypto_x25519(session->secret.shared, session->secret.x25519, peer.x25519) != 0) {
        return CPC_S_PEER_KEY;
    }
    crypto_wipe(session->secret.x25519, sizeof(session->secret.x25519));
    memcpy(session->signer_peer, peer.signer, sizeof(session->signer_peer));
    status = migrate_derive(session, session->role, session->secret.shared, transcript);
    crypto_wipe(session->secret.shared, sizeof(session->secret.shared));
    if (status == CPC_S_OK) {
        memcpy(call->reply, session->secret.confirm_own, 32);
        call->reply_size = 32;
    }
    return status;
}

/* An import begins by erasing whatever this machine was launched with. */
static uint32_t erase_all(struct call *call, const struct memory *memory)
{
    for (uint32_t i = 0; i < memory->count; i++) {   /* <= CPC_REGION_LIMIT */
        if (memory_present(memory, i)) {
            uint32_t status = platform()->erase(&memory->region[i]);
            if (status != CPC_P_OK) {
                return call_platform(call, CPC_PCALL_ERASE, status);
            }
        }
    }
    return CPC_S_OK;
}

uint32_t migrate_confirm(struct call *call)
{
    struct migrate_session *session = migrate_session(call);

    if (call->payload_size != sizeof(session->secret.confirm_peer)) {
        return CPC_S_BAD_PAYLOAD;
    }
    if (!crypto_equal(call->payload, session->secret.confirm_peer,
                      sizeof(session->secret.confirm_peer))) {
        return CPC_S_CONFIRMATION;
    }
    return session->role == CPC_ROLE_DESTINATION ? erase_all(call, &session->memory)
                                                 : CPC_S_OK;
}
