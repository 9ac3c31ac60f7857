/* SPDX-License-Identifier: Apache-2.0 */
/* FREEZE and STATE on the source, PREPARE on the destination. */
#include "migrate.h"

#include "platform.h"

uint32_t migrate_freeze(struct call *call)
{
    struct migrate *migrate = migrate_of(call);
    struct migrate_session *session = &migrate->session;

    /* Noted first: whatever happens in the call, RESUME will release. */
    session->freeze_tried = 1;
    migrate->released = 0;
    uint32_t status = platform()->freeze();
    return status == CPC_P_OK ? CPC_S_OK
                              : call_platform(call, CPC_PCALL_FREEZE, status);
}

static bool streams_ended(const struct migrate_session *session)
{
    uint32_t ended = 0;
    for (uint32_t i = 0; i < session->streams; i++) {   /* <= MIGRATE_STREAMS */
        ended += session->stream[i].ended;
    }
    return session->streams != 0 && ended == session->streams;
}

static uint32_t device_digest(struct call *call, uint8_t digest[32])
{
    uint32_t status = platform()->device_digest(digest);
    if (status == CPC_P_BAD_STATE) {
        return CPC_S_DEVICE_STATE;
    }
    return status == CPC_P_OK ? CPC_S_OK
                              : call_platform(call, CPC_PCALL_DEVICE_DIGEST, status);
}

static uint32_t send_vmsa(struct call *call, struct migrate_session *session,
                          uint32_t gvcpu)
{
    struct record_body body = { .type = CPC_RECORD_VMSA, .address = gvcpu, .count = 1 };
    uint32_t status = platform()->vmsa_save(gvcpu, &body.length);

    if (status == CPC_P_NOT_PRESENT) {
        return CPC_S_OK;
    }
    if (status != CPC_P_OK || body.length == 0 || body.length > CPC_VMSA_STRIDE) {
        return call_platform(call, CPC_PCALL_VMSA_SAVE, status);
    }
    uint8_t *tag = session->vmsa_tags[session->vmsa_count];
    session->vmsa_count++;
    return operator_see(call, &session->stream[0].channel, &body,
                        platform_vmsa(gvcpu), tag);
}

static uint32_t make_manifest(struct call *call, struct migrate_session *session)
{
    struct cpc_manifest *manifest = &session->manifest;
    const struct memory *memory = &session->memory;
    uint32_t status = migrate_vmsa_tag(session, manifest->vmsa_tag);

    manifest->streams = session->streams;
    manifest->regions = memory->count;
    manifest->gvcpus = session->vmsa_count;
    for (uint32_t i = 0; i < session->streams; i++) {   /* <= MIGRATE_STREAMS */
        manifest->records[i] = session->stream[i].records;
    }
    for (uint32_t i = 0; i < memory->count && status == CPC_S_OK; i++) {
        if (memory_present(memory, i)) {                /* <= CPC_REGION_LIMIT */
            status = migrate_region_tag(call, i, &memory->region[i],
                                        manifest->pages_tag[i]);
        }
    }
    crypto_sha256(session->manifest_digest, manifest, sizeof(*manifest));
    return status;
}

uint32_t migrate_state(struct call *call)
{
    struct migrate_session *session = migrate_session(call);
    struct record_body body = {
        .type = CPC_RECORD_MANIFEST,
        .count = 1,
        .length = sizeof(session->manifest),
    };
    uint32_t status;

    if (!streams_ended(session)) {
        return CPC_S_INCOMPLETE;
    }
    if (call->arg[0] != session->streams) {
        return CPC_S_BAD_ARGUMENT;
    }
    status = device_digest(call, session->manifest.device_digest);
    if (status == CPC_S_OK && migrate_stopped(call, &status)) {
        return status;
    }
    for (uint32_t i = 0; i < arch_boot_info()->gvcpu_max && status == CPC_S_OK; i++) {
        status = send_vmsa(call, session, i);           /* <= CPC_GVCPU_LIMIT */
    }
    if (status == CPC_S_OK) {
        status = make_manifest(call, session);
    }
    return status == CPC_S_OK
               ? operator_see(call, &session->stream[0].channel, &body,
                              &session->manifest, NULL)
               : status;
}

static uint32_t check_streams(const struct migrate_session *session)
{
    const struct cpc_manifest *manifest = &session->manifest;

    if (manifest->streams != session->streams || manifest->pad != 0) {
        return CPC_S_MANIFEST_STREAMS;
    }
    for (uint32_t i = 0; i < MIGRATE_STREAMS; i++) {
        uint64_t taken = i < session->streams ? session->stream[i].records : 0;
        if (manifest->records[i] != taken) {
            return CPC_S_MANIFEST_STREAMS;
        }
    }
    return CPC_S_OK;
}

static uint32_t check_pages(const struct call *call,
                            const struct migrate_session *session)
{
    const struct cpc_manifest *manifest = &session->manifest;

    if (manifest->regions != session->regions) {
        return CPC_S_MANIFEST_PAGES;
    }
    for (uint32_t i = 0; i < session->regions; i++) {   /* <= CPC_REGION_LIMIT */
        uint32_t own = session->region_of[i];
        uint8_t tag[CPC_TAG_MAX] = { 0 };
        if (own < session->memory.count) {
            uint32_t status = migrate_region_tag(
                call, i, &session->memory.region[own], tag);
            if (status != CPC_S_OK) {
                return status;
            }
        }
        if (!crypto_equal(tag, manifest->pages_tag[i], sizeof(tag))) {
            return CPC_S_MANIFEST_PAGES;
        }
    }
    return CPC_S_OK;
}

static uint32_t check_vmsas(const struct migrate_session *session)
{
    uint8_t tag[CPC_TAG_MAX];

    /* One for each gvCPU there is here: none may start from its reset state. */
    if (session->manifest.gvcpus != session->vmsa_count ||
        session->vmsa_count != session->gvcpus || session->vmsa_count == 0) {
        return CPC_S_MANIFEST_VMSA;
    }
    uint32_t status = migrate_vmsa_tag(session, tag);
    if (status != CPC_S_OK) {
        return status;
    }
    return crypto_equal(tag, session->manifest.vmsa_tag, sizeof(tag))
               ? CPC_S_OK
               : CPC_S_MANIFEST_VMSA;
}

static uint32_t check_devices(struct call *call, const struct migrate_session *session)
{
    uint8_t digest[32];
    uint32_t status = device_digest(call, digest);

    if (status != CPC_S_OK) {
        return status;
    }
    return crypto_equal(digest, session->manifest.device_digest, sizeof(digest))
               ? CPC_S_OK
               : CPC_S_MANIFEST_DEVICES;
}

static uint32_t check_disks(struct call *call)
{
    uint32_t status = platform()->disks(CPC_PCALL_DISKS_ACTIVE);
    if (status == CPC_P_BAD_STATE) {
        return CPC_S_DISKS;
    }
    return status == CPC_P_OK ? CPC_S_OK
                              : call_platform(call, CPC_PCALL_DISKS_ACTIVE, status);
}

uint32_t migrate_check_host_side(struct call *call)
{
    uint32_t status = check_devices(call, migrate_session(call));
    return status == CPC_S_OK ? check_disks(call) : status;
}

uint32_t migrate_prepare(struct call *call)
{
    struct migrate_session *session = migrate_session(call);
    uint32_t status;

    if (migrate_phase(session) == CPC_PHASE_PREPARED) {
        migrate_token_reply(call);
        return CPC_S_OK;
    }
    if (!streams_ended(session)) {
        return CPC_S_INCOMPLETE;
    }
    status = check_streams(session);
    if (status == CPC_S_OK) {
        status = check_pages(call, session);
    }
    if (status == CPC_S_OK) {
        status = check_vmsas(session);
    }
    if (status == CPC_S_OK) {
        status = migrate_check_host_side(call);
    }
    return status == CPC_S_OK ? migrate_token_sign(call, CPC_TOKEN_PREPARED) : status;
}
