/* SPDX-License-Identifier: Apache-2.0 */
/* Who may be in which call, and what a failure does to the session. */
#include "migrate.h"

#include "migrate_phase.h"
#include "platform.h"

/*
 * The gate: bit s for a call on stream s, bit 16 + n for a reader on hvCPU n,
 * one bit for an exclusive call. A call holds one bit.
 */
#define GATE_STREAM(stream) (1ull << (stream))
#define GATE_READER(hvcpu) (1ull << (16u + (hvcpu)))
#define GATE_READERS 0xffff0000ull
#define GATE_EXCLUSIVE (1ull << 63)
/* A reader copies 32 bytes; one that takes longer than this has died. */
#define GATE_LOOKS 100000u

_Static_assert(MIGRATE_STREAMS <= 16 && CPC_HVCPU_LIMIT <= 16, "gate bits");
_Static_assert(sizeof(struct migrate) < 0x40000, "fits the promised tables");
_Static_assert(sizeof(struct migrate_scratch) + sizeof(struct hvcpu) < 0x80000,
               "an hvCPU's share of the promised tables");

static uint32_t gate_exclusive(struct migrate *migrate, struct call *call)
{
    for (uint32_t look = 0; look < GATE_LOOKS; look++) {
        uint64_t seen = __atomic_load_n(&migrate->gate, __ATOMIC_RELAXED);
        if ((seen & ~GATE_READERS) != 0) {
            return CPC_S_BUSY;
        }
        if (seen == 0 &&
            __atomic_compare_exchange_n(&migrate->gate, &seen, GATE_EXCLUSIVE, false,
                                        __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
            call->held = GATE_EXCLUSIVE;
            return CPC_S_OK;
        }
        arch_relax();
    }
    return CPC_S_BUSY;
}

static uint32_t gate_shared(struct migrate *migrate, struct call *call, uint64_t bit)
{
    uint64_t seen = __atomic_load_n(&migrate->gate, __ATOMIC_RELAXED);
    /* Another hvCPU changes the word at most once a call: few tries are enough. */
    for (uint32_t look = 0; look < GATE_LOOKS; look++) {
        if ((seen & (GATE_EXCLUSIVE | bit)) != 0) {
            return CPC_S_BUSY;
        }
        if (__atomic_compare_exchange_n(&migrate->gate, &seen, seen | bit, false,
                                        __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
            call->held = bit;
            return CPC_S_OK;
        }
    }
    return CPC_S_BUSY;
}

static uint32_t gate_enter(struct migrate *migrate, struct call *call,
                           uint32_t function)
{
    switch (phase_lock(function)) {
    case PHASE_STREAM:
        if (call->arg[0] >= MIGRATE_STREAMS) {
            return CPC_S_BAD_ARGUMENT;
        }
        return gate_shared(migrate, call, GATE_STREAM(call->arg[0]));
    case PHASE_READER:
        return gate_shared(migrate, call, GATE_READER(call->hvcpu->number));
    default:
        return gate_exclusive(migrate, call);
    }
}

static void migrate_start(void *state)
{
    struct migrate *migrate = state;
    migrate->released = !platform()->incoming();
}

uint32_t migrate_phase(const struct migrate_session *session)
{
    return __atomic_load_n(&session->phase, __ATOMIC_ACQUIRE);
}

static uint32_t allows(const struct migrate *migrate, const struct call *call,
                       uint32_t function)
{
    struct phase_view view = {
        .phase = migrate_phase(&migrate->session),
        .role = migrate->session.role,
        .released = migrate->released != 0,
        .incoming = platform()->incoming(),
        .opened_once = migrate->opened_once != 0,
    };
    uint32_t role = call->arg[0] > CPC_ROLE_DESTINATION ? 0 : (uint32_t)call->arg[0];
    return phase_allows(&view, function, role);
}

static uint32_t migrate_enter(struct call *call, uint32_t function)
{
    struct migrate *migrate = migrate_of(call);

    uint32_t status = gate_enter(migrate, call, function);
    return status == CPC_S_OK ? allows(migrate, call, function) : status;
}

void migrate_phase_step(struct migrate_session *session, uint32_t from,
                        uint32_t to)
{
    __atomic_compare_exchange_n(&session->phase, &from, to, false,
                                __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static void session_fail(struct migrate_session *session, uint32_t status)
{
    uint32_t from = migrate_phase(session);
    /* The phase moves forward a handful of times at most. */
    for (uint32_t look = 0; look <= CPC_PHASE_FAILED; look++) {
        uint32_t to = phase_failed(from, session->committed != 0);
        if (to == from) {
            return;
        }
        if (__atomic_compare_exchange_n(&session->phase, &from, to, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            __atomic_store_n(&session->failure, status, __ATOMIC_RELEASE);
            return;
        }
    }
}

/* The last one to leave a failed session wipes the keys that streams used, and
   registers that nobody runs from. */
static void wipe_after_failure(struct migrate *migrate)
{
    uint64_t free = 0;

    if (migrate_phase(&migrate->session) == CPC_PHASE_FAILED &&
        __atomic_compare_exchange_n(&migrate->gate, &free, GATE_EXCLUSIVE, false,
                                    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        migrate_wipe_secrets(&migrate->session);
        platform()->vmsa_wipe(migrate->session.role == CPC_ROLE_DESTINATION);
        __atomic_store_n(&migrate->gate, 0, __ATOMIC_RELEASE);
    }
}

static void migrate_leave(struct call *call, uint32_t function, uint32_t status)
{
    struct migrate *migrate = migrate_of(call);
    struct migrate_session *session = &migrate->session;
    uint64_t held = call->held;

    if (held == 0) {
        return;              /* never got in: nothing happened */
    }
    uint32_t phase = migrate_phase(session);
    if (status == CPC_S_OK) {
        migrate_phase_step(session, phase, phase_after(phase, function));
    } else if ((held & GATE_READERS) == 0 && phase_status_ends(status)) {
        session_fail(session, status);
    }
    if (held == GATE_EXCLUSIVE && migrate_phase(session) == CPC_PHASE_NONE) {
        migrate_wipe(session);   /* an OPEN that did not end, with keys made */
    }
    crypto_wipe(call->hvcpu->buffer, sizeof(call->hvcpu->buffer));
    if (function == (CPC_OP_SEND & 0xffffu)) {
        crypto_wipe(migrate_scratch(call)->bounce, CPC_RUN_BYTES);
    }
    call->held = 0;
    __atomic_and_fetch(&migrate->gate, ~held, __ATOMIC_RELEASE);
    wipe_after_failure(migrate);
}

bool migrate_fix_streams(struct migrate_session *session, uint32_t streams)
{
    uint32_t none = 0;
    return __atomic_compare_exchange_n(&session->streams, &none, streams, false,
                                       __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) ||
           none == streams;
}

bool migrate_stopped(const struct call *call, uint32_t *status)
{
    const struct migrate_session *session = migrate_session(call);

    if (migrate_phase(session) == CPC_PHASE_FAILED) {
        *status = CPC_S_SESSION_FAILED;
        return true;
    }
    if (platform()->generation() != session->memory.generation) {
        *status = CPC_S_PEER_REGIONS;
        return true;
    }
    return false;
}

uint32_t migrate_query(struct call *call)
{
    const struct migrate_session *session = migrate_session(call);
    struct cpc_session_info info;

    memset(&info, 0, sizeof(info));
    info.phase = migrate_phase(session);
    info.role = session->role;
    info.suite = session->suite != NULL ? session->suite->id : 0;
    info.failure = __atomic_load_n(&session->failure, __ATOMIC_ACQUIRE);
    memcpy(info.session, session->id, sizeof(info.session));
    memcpy(call->reply, &info, sizeof(info));
    call->reply_size = sizeof(info);
    return CPC_S_OK;
}

static uint32_t (*const functions[])(struct call *) = {
    [CPC_OP_OPEN & 0xffffu] = migrate_open,
    [CPC_OP_ACCEPT & 0xffffu] = migrate_accept,
    [CPC_OP_CONFIRM & 0xffffu] = migrate_confirm,
    [CPC_OP_SEND & 0xffffu] = migrate_send,
    [CPC_OP_RECV & 0xffffu] = migrate_recv,
    [CPC_OP_FREEZE & 0xffffu] = migrate_freeze,
    [CPC_OP_STATE & 0xffffu] = migrate_state,
    [CPC_OP_PREPARE & 0xffffu] = migrate_prepare,
    [CPC_OP_COMMIT & 0xffffu] = migrate_commit,
    [CPC_OP_RUN & 0xffffu] = migrate_run,
    [CPC_OP_FINISH & 0xffffu] = migrate_finish,
    [CPC_OP_ABORT & 0xffffu] = migrate_abort,
    [CPC_OP_RESUME & 0xffffu] = migrate_resume,
    [CPC_OP_QUERY & 0xffffu] = migrate_query,
};

extern const struct module migrate_module;
const struct module migrate_module = {
    .name = "migrate",
    .version = 1,
    .state_size = sizeof(struct migrate),
    .scratch_size = sizeof(struct migrate_scratch),
    .functions = functions,
    .count = ARRAY_SIZE(functions),
    .start = migrate_start,
    .enter = migrate_enter,
    .leave = migrate_leave,
};
