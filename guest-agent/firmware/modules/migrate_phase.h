/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session's phase machine: which call is allowed when, and what a failure
 * does. Pure: no session, no platform.
 */
#ifndef CPC_MODULES_MIGRATE_PHASE_H
#define CPC_MODULES_MIGRATE_PHASE_H

#include <stdbool.h>
#include <stdint.h>

#include "cpc_abi.h"

/* Who else may be in a call at the same time. */
enum phase_lock {
    PHASE_EXCLUSIVE,         /* nobody */
    PHASE_STREAM,            /* calls on other streams */
    PHASE_READER,            /* any stream call; exclusive calls wait for it */
};

struct phase_view {
    uint32_t phase;          /* CPC_PHASE_* */
    uint32_t role;           /* CPC_ROLE_*, 0 without a session */
    bool released;           /* gvCPUs may run on this machine */
    bool incoming;           /* launched to receive */
    bool opened_once;        /* has been a destination before */
};

/*
 * May `function` (the low half of its CPC_OP) be called now? open_role is the
 * role asked for and only looked at for OPEN. CPC_S_OK or the refusal.
 */
uint32_t phase_allows(const struct phase_view *view, uint32_t function,
                      uint32_t open_role);

/* The phase after `function` succeeded in `phase`; unchanged for most. */
uint32_t phase_after(uint32_t phase, uint32_t function);

/* The phase after a failure that ends the session. committed: the step that
   cannot be undone has begun (source: token signed; destination: release). */
uint32_t phase_failed(uint32_t phase, bool committed);

/* Does this status, returned by an allowed call, end the session? The others
   refuse the call and leave the session as it was. */
bool phase_status_ends(uint32_t status);

enum phase_lock phase_lock(uint32_t function);

#endif
