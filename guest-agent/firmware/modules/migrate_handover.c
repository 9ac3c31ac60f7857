/* SPDX-License-Identifier: Apache-2.0 */
/* COMMIT, RUN, FINISH, ABORT, RESUME: exactly one side may run the guest. */
#include "migrate.h"

#include "platform.h"

/* BAD_STATE after an earlier try means that the earlier try worked. */
static uint32_t release(struct call *call, bool tried_before)
{
    uint32_t status = platform()->release();

    if (status == CPC_P_OK || (tried_before && status == CPC_P_BAD_STATE)) {
        migrate_of(call)->released = 1;
        return CPC_S_OK;
    }
    return call_platform(call, CPC_PCALL_RELEASE, status);
}

static void wipe_all_keys(struct migrate_session *session)
{
    migrate_wipe_secrets(session);
    crypto_wipe(session->signer_private, sizeof(session->signer_private));
}

/*
 * Source. From the moment the token exists these gvCPUs never run here again
 * but for the destination's ABORT. committed is set before the token can leave.
 */
uint32_t migrate_commit(struct call *call)
{
    struct migrate_session *session = migrate_session(call);
    uint32_t status = migrate_token_verify(call, CPC_TOKEN_PREPARED);

    if (status != CPC_S_OK) {
        return status;
    }
    if (migrate_phase(session) == CPC_PHASE_COMMITTED) {
        migrate_token_reply(call);
        return CPC_S_OK;
    }
    status = platform()->disks(CPC_PCALL_DISKS_INACTIVE);
    if (status != CPC_P_OK) {
        return status == CPC_P_BAD_STATE
                   ? CPC_S_DISKS
                   : call_platform(call, CPC_PCALL_DISKS_INACTIVE, status);
    }
    session->committed = 1;
    status = migrate_token_sign(call, CPC_TOKEN_COMMIT);
    if (status == CPC_S_OK) {
        wipe_all_keys(session);
        platform()->vmsa_wipe(false);
    }
    return status;
}

static uint32_t load_vmsas(struct call *call, const struct migrate_session *session)
{
    for (uint32_t i = 0; i < CPC_GVCPU_LIMIT; i++) {
        if (session->vmsa_bytes[i] != 0) {
            uint32_t status = platform()->vmsa_load(i, session->vmsa_bytes[i]);
            if (status != CPC_P_OK) {
                return call_platform(call, CPC_PCALL_VMSA_LOAD, status);
            }
        }
    }
    return CPC_S_OK;
}

/*
 * Destination. Once the release has been tried, ABORT is refused for ever, and
 * a RUN that failed after it may only be repeated. The token is signed before,
 * and kept back: on a platform where the guest's kernel reaches what we hold, no
 * key may be left when the first gvCPU runs, also where the host never repeats
 * a RUN that failed.
 */
uint32_t migrate_run(struct call *call)
{
    struct migrate_session *session = migrate_session(call);
    bool tried_before = session->committed != 0;
    uint32_t status = migrate_token_verify(call, CPC_TOKEN_COMMIT);

    if (status != CPC_S_OK) {
        return status;
    }
    if (migrate_phase(session) == CPC_PHASE_RUNNING) {
        migrate_token_reply(call);
        return CPC_S_OK;
    }
    if (!tried_before) {
        /* Devices and disks are the host's: it had time since PREPARE. It can
           put right what is wrong and ask again. */
        status = migrate_check_host_side(call);
        if (status == CPC_S_MANIFEST_DEVICES) {
            status = CPC_S_DEVICE_STATE;
        }
        if (status != CPC_S_OK) {
            return status;
        }
        status = load_vmsas(call, session);
        if (status == CPC_S_OK) {
            status = migrate_token_make(session, CPC_TOKEN_RUNNING, &session->running);
        }
        if (status != CPC_S_OK) {
            return status;
        }
    }
    session->committed = 1;
    wipe_all_keys(session);
    status = release(call, tried_before);
    if (status == CPC_S_OK) {
        platform()->vmsa_wipe(false);
        migrate_token_give(call, &session->running);
    }
    return status;
}

/* Source: the destination says that it runs; nothing is left to do here. */
uint32_t migrate_finish(struct call *call)
{
    return migrate_token_verify(call, CPC_TOKEN_RUNNING);
}

/* Destination: give up for ever, and say so. */
uint32_t migrate_abort(struct call *call)
{
    struct migrate_session *session = migrate_session(call);

    if (session->committed != 0) {
        return CPC_S_WRONG_PHASE;
    }
    if (migrate_phase(session) == CPC_PHASE_ABORTED) {
        migrate_token_reply(call);
        return CPC_S_OK;
    }
    uint32_t status = migrate_token_sign(call, CPC_TOKEN_ABORT);
    if (status == CPC_S_OK) {
        wipe_all_keys(session);
        platform()->vmsa_wipe(true);
    }
    return status;
}

/* Source: back to before OPEN. */
uint32_t migrate_resume(struct call *call)
{
    struct migrate_session *session = migrate_session(call);
    uint32_t status;

    if (session->committed != 0) {
        if (call->payload_size == 0) {
            return CPC_S_COMMITTED;
        }
        status = migrate_token_verify(call, CPC_TOKEN_ABORT);
        if (status != CPC_S_OK) {
            return status;
        }
    }
    if (session->freeze_tried != 0) {
        status = release(call, true);
        if (status != CPC_S_OK) {
            return status;
        }
    }
    platform()->vmsa_wipe(false);
    migrate_wipe(session);
    return CPC_S_OK;
}
