/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate_phase.h"

#include "bytes.h"

#define FN(op) ((op) & 0xffffu)
#define P(phase) (1u << (phase))
#define SOURCE P(CPC_ROLE_SOURCE)
#define DESTINATION P(CPC_ROLE_DESTINATION)
#define BOTH (SOURCE | DESTINATION)
#define SAME 0xffu

#define BEFORE_COMMIT \
    (P(CPC_PHASE_OPEN) | P(CPC_PHASE_ACCEPTED) | P(CPC_PHASE_STREAMING) | \
     P(CPC_PHASE_FROZEN) | P(CPC_PHASE_MANIFEST) | P(CPC_PHASE_FAILED))

struct rule {
    uint8_t roles;           /* who may call; 0: nobody, no such function */
    uint16_t phases;         /* and when */
    uint8_t next;            /* phase afterwards, or SAME */
    uint8_t lock;
};

/*
 * A token may be asked for again in the phase it led to: the controller that
 * asked first may have died with the answer. RECV leads to MANIFEST only on
 * stream 0, SEND to nothing: both take that step themselves. RESUME without a
 * token in COMMITTED is refused by RESUME itself.
 */
static const struct rule rules[] = {
    [FN(CPC_OP_OPEN)] = { BOTH, P(CPC_PHASE_NONE) | P(CPC_PHASE_RUNNING),
                          CPC_PHASE_OPEN, PHASE_EXCLUSIVE },
    [FN(CPC_OP_ACCEPT)] = { BOTH, P(CPC_PHASE_OPEN), CPC_PHASE_ACCEPTED,
                            PHASE_EXCLUSIVE },
    [FN(CPC_OP_CONFIRM)] = { BOTH, P(CPC_PHASE_ACCEPTED), CPC_PHASE_STREAMING,
                             PHASE_EXCLUSIVE },
    [FN(CPC_OP_SEND)] = { SOURCE, P(CPC_PHASE_STREAMING) | P(CPC_PHASE_FROZEN),
                          SAME, PHASE_STREAM },
    [FN(CPC_OP_RECV)] = { DESTINATION,
                          P(CPC_PHASE_STREAMING) | P(CPC_PHASE_MANIFEST),
                          SAME, PHASE_STREAM },
    [FN(CPC_OP_FREEZE)] = { SOURCE, P(CPC_PHASE_STREAMING), CPC_PHASE_FROZEN,
                            PHASE_EXCLUSIVE },
    [FN(CPC_OP_STATE)] = { SOURCE, P(CPC_PHASE_FROZEN), CPC_PHASE_MANIFEST,
                           PHASE_EXCLUSIVE },
    [FN(CPC_OP_PREPARE)] = { DESTINATION,
                             P(CPC_PHASE_MANIFEST) | P(CPC_PHASE_PREPARED),
                             CPC_PHASE_PREPARED, PHASE_EXCLUSIVE },
    [FN(CPC_OP_COMMIT)] = { SOURCE, P(CPC_PHASE_MANIFEST) | P(CPC_PHASE_COMMITTED),
                            CPC_PHASE_COMMITTED, PHASE_EXCLUSIVE },
    [FN(CPC_OP_RUN)] = { DESTINATION, P(CPC_PHASE_PREPARED) | P(CPC_PHASE_RUNNING),
                         CPC_PHASE_RUNNING, PHASE_EXCLUSIVE },
    [FN(CPC_OP_FINISH)] = { SOURCE, P(CPC_PHASE_COMMITTED) | P(CPC_PHASE_RUNNING),
                            CPC_PHASE_RUNNING, PHASE_EXCLUSIVE },
    [FN(CPC_OP_ABORT)] = { DESTINATION,
                           BEFORE_COMMIT | P(CPC_PHASE_PREPARED) |
                               P(CPC_PHASE_ABORTED),
                           CPC_PHASE_ABORTED, PHASE_EXCLUSIVE },
    [FN(CPC_OP_RESUME)] = { SOURCE, BEFORE_COMMIT | P(CPC_PHASE_COMMITTED),
                            CPC_PHASE_NONE, PHASE_EXCLUSIVE },
    [FN(CPC_OP_QUERY)] = { BOTH, 0xffff, SAME, PHASE_READER },
};

static uint32_t open_allows(const struct phase_view *view, uint32_t open_role)
{
    if (open_role != CPC_ROLE_SOURCE && open_role != CPC_ROLE_DESTINATION) {
        return CPC_S_BAD_ARGUMENT;
    }
    if (view->phase != CPC_PHASE_NONE && view->phase != CPC_PHASE_RUNNING) {
        return CPC_S_SESSION_EXISTS;
    }
    if (open_role == CPC_ROLE_SOURCE) {
        return view->released ? CPC_S_OK : CPC_S_WRONG_PHASE;
    }
    return view->incoming && !view->opened_once && !view->released
               ? CPC_S_OK
               : CPC_S_WRONG_PHASE;
}

uint32_t phase_allows(const struct phase_view *view, uint32_t function,
                      uint32_t open_role)
{
    if (function >= ARRAY_SIZE(rules) || rules[function].roles == 0) {
        return CPC_S_UNKNOWN_OP;
    }
    const struct rule *rule = &rules[function];
    if (function == FN(CPC_OP_OPEN)) {
        return open_allows(view, open_role);
    }
    if (function == FN(CPC_OP_QUERY)) {
        return CPC_S_OK;
    }
    if (view->phase == CPC_PHASE_NONE) {
        return CPC_S_NO_SESSION;
    }
    if ((rule->roles & P(view->role)) == 0) {
        return CPC_S_WRONG_ROLE;
    }
    if ((rule->phases & P(view->phase)) != 0) {
        return CPC_S_OK;
    }
    return view->phase == CPC_PHASE_FAILED ? CPC_S_SESSION_FAILED
                                           : CPC_S_WRONG_PHASE;
}

uint32_t phase_after(uint32_t phase, uint32_t function)
{
    return rules[function].next == SAME ? phase : rules[function].next;
}

uint32_t phase_failed(uint32_t phase, bool committed)
{
    switch (phase) {
    case CPC_PHASE_OPEN:
    case CPC_PHASE_ACCEPTED:
    case CPC_PHASE_STREAMING:
    case CPC_PHASE_FROZEN:
    case CPC_PHASE_MANIFEST:
    case CPC_PHASE_PREPARED:
        return committed ? phase : CPC_PHASE_FAILED;
    default:
        return phase;
    }
}

bool phase_status_ends(uint32_t status)
{
    switch (status) {
    case CPC_S_OK:
    case CPC_S_UNKNOWN_OP:
    case CPC_S_BAD_ARGUMENT:
    case CPC_S_BAD_PAYLOAD:
    case CPC_S_BUSY:
    case CPC_S_NO_SESSION:
    case CPC_S_WRONG_PHASE:
    case CPC_S_WRONG_ROLE:
    case CPC_S_SESSION_FAILED:
    case CPC_S_SESSION_EXISTS:
    /* What the host can put right and try again: */
    case CPC_S_INCOMPLETE:
    case CPC_S_TOKEN:
    case CPC_S_TOKEN_SESSION:
    case CPC_S_TOKEN_SIGNATURE:
    case CPC_S_COMMITTED:
    case CPC_S_DISKS:
    case CPC_S_DEVICE_STATE:
        return false;
    default:
        return true;
    }
}

enum phase_lock phase_lock(uint32_t function)
{
    return (enum phase_lock)rules[function].lock;
}
