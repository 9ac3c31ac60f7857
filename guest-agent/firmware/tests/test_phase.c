/* SPDX-License-Identifier: Apache-2.0 */
/* Every phase, role and call, against a table written down a second time. */
#include "driver.h"
#include "migrate_phase.h"

#define FN(op) ((op) & 0xffffu)
#define SRC CPC_ROLE_SOURCE
#define DST CPC_ROLE_DESTINATION

/* One line a phase the source / destination can be in; which calls it takes. */
static const struct {
    uint32_t role;
    uint32_t phase;
    const char *allowed;     /* o a c s r f t p m u i b e: see letters */
} expected[] = {
    { SRC, CPC_PHASE_OPEN, "ae" },
    { SRC, CPC_PHASE_ACCEPTED, "ce" },
    { SRC, CPC_PHASE_STREAMING, "sfe" },
    { SRC, CPC_PHASE_FROZEN, "ste" },
    { SRC, CPC_PHASE_MANIFEST, "me" },
    { SRC, CPC_PHASE_COMMITTED, "mie" },
    { SRC, CPC_PHASE_RUNNING, "i" },
    { SRC, CPC_PHASE_FAILED, "e" },
    { DST, CPC_PHASE_OPEN, "ab" },
    { DST, CPC_PHASE_ACCEPTED, "cb" },
    { DST, CPC_PHASE_STREAMING, "rb" },
    { DST, CPC_PHASE_MANIFEST, "rpb" },
    { DST, CPC_PHASE_PREPARED, "pub" },
    { DST, CPC_PHASE_RUNNING, "u" },
    { DST, CPC_PHASE_ABORTED, "b" },
    { DST, CPC_PHASE_FAILED, "b" },
};

static const struct {
    char letter;
    uint32_t function;
    uint32_t roles;
} letters[] = {
    { 'a', FN(CPC_OP_ACCEPT), 3 },  { 'c', FN(CPC_OP_CONFIRM), 3 },
    { 's', FN(CPC_OP_SEND), 1 },    { 'r', FN(CPC_OP_RECV), 2 },
    { 'f', FN(CPC_OP_FREEZE), 1 },  { 't', FN(CPC_OP_STATE), 1 },
    { 'p', FN(CPC_OP_PREPARE), 2 }, { 'm', FN(CPC_OP_COMMIT), 1 },
    { 'u', FN(CPC_OP_RUN), 2 },     { 'i', FN(CPC_OP_FINISH), 1 },
    { 'b', FN(CPC_OP_ABORT), 2 },   { 'e', FN(CPC_OP_RESUME), 1 },
};

static void every_call_in_every_phase(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        struct phase_view view = { .phase = expected[i].phase,
                                   .role = expected[i].role };
        for (size_t j = 0; j < ARRAY_SIZE(letters); j++) {
            uint32_t status = phase_allows(&view, letters[j].function, 0);
            if (strchr(expected[i].allowed, letters[j].letter) != NULL) {
                CHECK_IS(status, CPC_S_OK);
            } else if ((letters[j].roles & view.role) == 0) {
                CHECK_IS(status, CPC_S_WRONG_ROLE);
            } else if (view.phase == CPC_PHASE_FAILED) {
                CHECK_IS(status, CPC_S_SESSION_FAILED);
            } else {
                CHECK_IS(status, CPC_S_WRONG_PHASE);
            }
        }
        CHECK_IS(phase_allows(&view, FN(CPC_OP_QUERY), 0), CPC_S_OK);
    }
}

static void nothing_without_a_session(void)
{
    struct phase_view view = { .phase = CPC_PHASE_NONE };

    for (size_t j = 0; j < ARRAY_SIZE(letters); j++) {
        CHECK_IS(phase_allows(&view, letters[j].function, 0), CPC_S_NO_SESSION);
    }
    CHECK_IS(phase_allows(&view, FN(CPC_OP_QUERY), 0), CPC_S_OK);
    CHECK_IS(phase_allows(&view, 0, 0), CPC_S_UNKNOWN_OP);
    CHECK_IS(phase_allows(&view, 15, 0), CPC_S_UNKNOWN_OP);
    CHECK_IS(phase_allows(&view, 0xffff, 0), CPC_S_UNKNOWN_OP);
}

static void who_may_open(void)
{
    for (uint32_t phase = CPC_PHASE_NONE; phase <= CPC_PHASE_FAILED; phase++) {
        bool closed = phase == CPC_PHASE_NONE || phase == CPC_PHASE_RUNNING;
        for (uint32_t bits = 0; bits < 8; bits++) {
            struct phase_view view = {
                .phase = phase,
                .role = phase == CPC_PHASE_NONE ? 0 : DST,
                .released = bits & 1,
                .incoming = bits & 2,
                .opened_once = bits & 4,
            };
            uint32_t source = phase_allows(&view, FN(CPC_OP_OPEN), SRC);
            uint32_t destination = phase_allows(&view, FN(CPC_OP_OPEN), DST);
            CHECK_IS(phase_allows(&view, FN(CPC_OP_OPEN), 0), CPC_S_BAD_ARGUMENT);
            CHECK_IS(phase_allows(&view, FN(CPC_OP_OPEN), 3), CPC_S_BAD_ARGUMENT);
            if (!closed) {
                CHECK_IS(source, CPC_S_SESSION_EXISTS);
                CHECK_IS(destination, CPC_S_SESSION_EXISTS);
                continue;
            }
            CHECK_IS(source, view.released ? CPC_S_OK : CPC_S_WRONG_PHASE);
            CHECK_IS(destination, bits == 2 ? CPC_S_OK : CPC_S_WRONG_PHASE);
        }
    }
}

static void where_success_leads(void)
{
    static const uint32_t steps[][3] = {
        { CPC_PHASE_NONE, FN(CPC_OP_OPEN), CPC_PHASE_OPEN },
        { CPC_PHASE_OPEN, FN(CPC_OP_ACCEPT), CPC_PHASE_ACCEPTED },
        { CPC_PHASE_ACCEPTED, FN(CPC_OP_CONFIRM), CPC_PHASE_STREAMING },
        { CPC_PHASE_STREAMING, FN(CPC_OP_SEND), CPC_PHASE_STREAMING },
        { CPC_PHASE_FROZEN, FN(CPC_OP_SEND), CPC_PHASE_FROZEN },
        { CPC_PHASE_STREAMING, FN(CPC_OP_RECV), CPC_PHASE_STREAMING },
        { CPC_PHASE_MANIFEST, FN(CPC_OP_RECV), CPC_PHASE_MANIFEST },
        { CPC_PHASE_STREAMING, FN(CPC_OP_FREEZE), CPC_PHASE_FROZEN },
        { CPC_PHASE_FROZEN, FN(CPC_OP_STATE), CPC_PHASE_MANIFEST },
        { CPC_PHASE_MANIFEST, FN(CPC_OP_PREPARE), CPC_PHASE_PREPARED },
        { CPC_PHASE_MANIFEST, FN(CPC_OP_COMMIT), CPC_PHASE_COMMITTED },
        { CPC_PHASE_COMMITTED, FN(CPC_OP_COMMIT), CPC_PHASE_COMMITTED },
        { CPC_PHASE_PREPARED, FN(CPC_OP_RUN), CPC_PHASE_RUNNING },
        { CPC_PHASE_COMMITTED, FN(CPC_OP_FINISH), CPC_PHASE_RUNNING },
        { CPC_PHASE_FAILED, FN(CPC_OP_ABORT), CPC_PHASE_ABORTED },
        { CPC_PHASE_FAILED, FN(CPC_OP_RESUME), CPC_PHASE_NONE },
        { CPC_PHASE_FAILED, FN(CPC_OP_QUERY), CPC_PHASE_FAILED },
    };
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        CHECK_IS(phase_after(steps[i][0], steps[i][1]), steps[i][2]);
    }
}

static void where_failure_leads(void)
{
    for (uint32_t phase = CPC_PHASE_NONE; phase <= CPC_PHASE_FAILED; phase++) {
        bool open = phase >= CPC_PHASE_OPEN && phase <= CPC_PHASE_PREPARED;
        CHECK_IS(phase_failed(phase, false), open ? CPC_PHASE_FAILED : phase);
        CHECK_IS(phase_failed(phase, true), phase);
    }
}

static void which_failures_end_a_session(void)
{
    static const uint32_t ends[] = {
        CPC_S_CANCELLED, CPC_S_PEER_WIRE, CPC_S_PEER_REGIONS, CPC_S_PEER_KEY,
        CPC_S_CONFIRMATION, CPC_S_WIRE_MAGIC, CPC_S_WIRE_TAG, CPC_S_WIRE_OWNER,
        CPC_S_MANIFEST_PAGES, CPC_S_MANIFEST_DEVICES, CPC_S_PLATFORM, CPC_S_FAULT,
        CPC_S_CRYPTO, CPC_S_RING, 9999,
    };
    static const uint32_t harmless[] = {
        CPC_S_OK, CPC_S_BAD_ARGUMENT, CPC_S_BAD_PAYLOAD, CPC_S_BUSY,
        CPC_S_WRONG_PHASE, CPC_S_INCOMPLETE, CPC_S_TOKEN, CPC_S_TOKEN_SESSION,
        CPC_S_TOKEN_SIGNATURE, CPC_S_COMMITTED, CPC_S_DISKS, CPC_S_DEVICE_STATE,
    };
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        CHECK(phase_status_ends(ends[i]));
    }
    for (size_t i = 0; i < ARRAY_SIZE(harmless); i++) {
        CHECK(!phase_status_ends(harmless[i]));
    }
}

static void who_shares_the_session(void)
{
    CHECK_IS(phase_lock(FN(CPC_OP_SEND)), PHASE_STREAM);
    CHECK_IS(phase_lock(FN(CPC_OP_RECV)), PHASE_STREAM);
    CHECK_IS(phase_lock(FN(CPC_OP_QUERY)), PHASE_READER);
    for (size_t j = 0; j < ARRAY_SIZE(letters); j++) {
        if (letters[j].letter != 's' && letters[j].letter != 'r') {
            CHECK_IS(phase_lock(letters[j].function), PHASE_EXCLUSIVE);
        }
    }
}

static const struct test tests[] = {
    { "every_call_in_every_phase", every_call_in_every_phase },
    { "nothing_without_a_session", nothing_without_a_session },
    { "who_may_open", who_may_open },
    { "where_success_leads", where_success_leads },
    { "where_failure_leads", where_failure_leads },
    { "which_failures_end_a_session", which_failures_end_a_session },
    { "who_shares_the_session", who_shares_the_session },
};
TEST_MAIN(tests)
