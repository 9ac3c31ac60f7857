/* SPDX-License-Identifier: Apache-2.0 */
/* Exactly one side may run the guest, whatever the hosts relay. */
#include "driver.h"

static struct pair pair;

static struct answer on_source(uint32_t op, const struct answer *token)
{
    return call(pair.source, op, 0, 0, token != NULL ? token->payload : NULL,
                token != NULL ? token->size : 0);
}

static struct answer on_destination(uint32_t op, const struct answer *token)
{
    return call(pair.destination, op, 0, 0, token != NULL ? token->payload : NULL,
                token != NULL ? token->size : 0);
}

/* Both sides hold the manifest; device state is loaded, disks are handed over. */
static void to_manifest(void)
{
    struct wire wire = { 0 };
    pair = pair_new(NULL, NULL);
    pair_open(&pair, 0x1e);
    make_wire(&pair, &wire);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    load_devices(pair.destination, 0xd5);
    wire_free(&wire);
}

static struct answer to_prepared(void)
{
    to_manifest();
    struct answer prepared = on_destination(CPC_OP_PREPARE, NULL);
    CHECK_IS(prepared.status, CPC_S_OK);
    return prepared;
}

static struct answer to_committed(void)
{
    struct answer prepared = to_prepared();
    struct answer commit = on_source(CPC_OP_COMMIT, &prepared);
    CHECK_IS(commit.status, CPC_S_OK);
    return commit;
}

/* Never two: a test that let both run would show here. */
static void end(bool source_runs, bool destination_runs)
{
    CHECK(!(source_runs && destination_runs));
    CHECK_IS(!pair.source->frozen, source_runs);
    CHECK_IS(!pair.destination->frozen, destination_runs);
    pair_free(&pair);
}

static void tokens_may_be_asked_for_again(void)
{
    struct answer prepared = to_prepared();
    struct answer again = on_destination(CPC_OP_PREPARE, NULL);
    CHECK(memcmp(&prepared.payload, &again.payload, sizeof(struct cpc_token)) == 0);
    struct answer commit = on_source(CPC_OP_COMMIT, &prepared);
    CHECK_IS(commit.status, CPC_S_OK);
    struct answer running = on_destination(CPC_OP_RUN, &commit);
    CHECK_IS(running.status, CPC_S_OK);
    again = on_destination(CPC_OP_RUN, &commit);
    CHECK_IS(again.status, CPC_S_OK);
    CHECK(memcmp(running.payload, again.payload, sizeof(struct cpc_token)) == 0);
    CHECK_IS(pair.destination->releases, 1);
    CHECK_IS(on_source(CPC_OP_FINISH, &running).status, CPC_S_OK);
    CHECK_IS(on_source(CPC_OP_FINISH, &running).status, CPC_S_OK);
    no_keys(pair.source);
    no_keys(pair.destination);
    end(false, true);
}

static void resume_before_the_commit_needs_nothing(void)
{
    to_prepared();
    CHECK_IS(on_source(CPC_OP_RESUME, NULL).status, CPC_S_OK);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_NONE);
    CHECK(all_zero(session_of(pair.source), sizeof(struct migrate_session)));
    end(true, false);
}

static void resume_without_freeze_leaves_the_guest_alone(void)
{
    pair = pair_new(NULL, NULL);
    pair_open(&pair, 0x1e);
    CHECK_IS(on_source(CPC_OP_RESUME, NULL).status, CPC_S_OK);
    CHECK_IS(pair.source->releases, 0);
    CHECK_IS(on_source(CPC_OP_RESUME, NULL).status, CPC_S_NO_SESSION);
    end(true, false);
}

static void resume_after_the_commit_is_refused(void)
{
    to_committed();
    CHECK_IS(on_source(CPC_OP_RESUME, NULL).status, CPC_S_COMMITTED);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_COMMITTED);
    end(false, false);
}

static void resume_after_the_commit_with_the_abort(void)
{
    to_committed();
    struct answer given_up = on_destination(CPC_OP_ABORT, NULL);
    CHECK_IS(given_up.status, CPC_S_OK);
    struct answer again = on_destination(CPC_OP_ABORT, NULL);
    CHECK(memcmp(given_up.payload, again.payload, sizeof(struct cpc_token)) == 0);
    CHECK_IS(on_source(CPC_OP_RESUME, &given_up).status, CPC_S_OK);
    no_keys(pair.destination);
    end(true, false);
}

static void run_after_the_abort_is_refused(void)
{
    struct answer commit = to_committed();
    CHECK_IS(on_destination(CPC_OP_ABORT, NULL).status, CPC_S_OK);
    CHECK_IS(on_destination(CPC_OP_RUN, &commit).status, CPC_S_WRONG_PHASE);
    CHECK_IS(call(pair.destination, CPC_OP_OPEN, CPC_ROLE_DESTINATION, 2, NULL, 0).status,
             CPC_S_SESSION_EXISTS);
    end(false, false);
}

static void abort_after_the_run_is_refused(void)
{
    struct answer commit = to_committed();
    CHECK_IS(on_destination(CPC_OP_RUN, &commit).status, CPC_S_OK);
    CHECK_IS(on_destination(CPC_OP_ABORT, NULL).status, CPC_S_WRONG_PHASE);
    end(false, true);
}

/* The release answered with an error after it was tried: it may have worked. */
static void abort_after_a_tried_release_is_refused(void)
{
    struct answer commit = to_committed();
    pair.destination->fail[CPC_PCALL_RELEASE] = CPC_P_FAILED;
    struct answer run = on_destination(CPC_OP_RUN, &commit);
    CHECK_IS(run.status, CPC_S_PLATFORM);
    CHECK_IS(run.result[0], CPC_PCALL_RELEASE);
    CHECK_IS(run.result[1], CPC_P_FAILED);
    CHECK_IS(on_destination(CPC_OP_ABORT, NULL).status, CPC_S_WRONG_PHASE);
    pair.destination->fail[CPC_PCALL_RELEASE] = CPC_P_OK;
    CHECK_IS(on_destination(CPC_OP_RUN, &commit).status, CPC_S_OK);
    end(false, true);
}

static void fault_in_the_release_can_be_run_again(void)
{
    struct answer commit = to_committed();
    pair.destination->crash[CPC_PCALL_RELEASE] = true;
    struct answer run = on_destination(CPC_OP_RUN, &commit);
    CHECK_IS(run.status, CPC_S_FAULT);
    CHECK_IS(run.fault[0], 14);
    CHECK_IS(run.fault[2], 0xdead0);
    CHECK_IS(on_destination(CPC_OP_ABORT, NULL).status, CPC_S_WRONG_PHASE);
    pair.destination->crash[CPC_PCALL_RELEASE] = false;
    CHECK_IS(on_destination(CPC_OP_RUN, &commit).status, CPC_S_OK);
    end(false, true);
}

static void a_vmsa_that_does_not_load_leads_back(void)
{
    struct answer commit = to_committed();
    pair.destination->fail[pair.destination->snp == NULL ? CPC_PCALL_VMSA_LOAD
                                                         : CPC_PCALL_GVCPU] =
        CPC_P_FAILED;
    CHECK_IS(on_destination(CPC_OP_RUN, &commit).status, CPC_S_PLATFORM);
    CHECK_IS(query(pair.destination).phase, CPC_PHASE_FAILED);
    struct answer given_up = on_destination(CPC_OP_ABORT, NULL);
    CHECK_IS(given_up.status, CPC_S_OK);
    CHECK_IS(on_source(CPC_OP_RESUME, &given_up).status, CPC_S_OK);
    end(true, false);
}

static void devices_changed_after_prepare_do_not_run(void)
{
    struct answer commit = to_committed();
    load_devices(pair.destination, 0x66);
    CHECK_IS(on_destination(CPC_OP_RUN, &commit).status, CPC_S_DEVICE_STATE);
    CHECK(pair.destination->frozen);
    load_devices(pair.destination, 0xd5);
    CHECK_IS(on_destination(CPC_OP_RUN, &commit).status, CPC_S_OK);
    end(false, true);
}

static void disks_given_back_after_prepare_do_not_run(void)
{
    struct answer commit = to_committed();
    pair.destination->fail[CPC_PCALL_DISKS_ACTIVE] = CPC_P_BAD_STATE;
    CHECK_IS(on_destination(CPC_OP_RUN, &commit).status, CPC_S_DISKS);
    CHECK(pair.destination->frozen);
    pair.destination->fail[CPC_PCALL_DISKS_ACTIVE] = CPC_P_OK;
    CHECK_IS(on_destination(CPC_OP_RUN, &commit).status, CPC_S_OK);
    end(false, true);
}

static void commit_for_another_destination(void)
{
    struct answer foreign = to_prepared();
    struct pair other = pair;
    struct answer mine = to_prepared();
    struct cpc_token token;

    CHECK_IS(on_source(CPC_OP_COMMIT, &foreign).status, CPC_S_TOKEN_SESSION);
    /* the same with our session and manifest, but their signature */
    memcpy(&token, mine.payload, sizeof(token));
    memcpy(token.signature, ((struct cpc_token *)(void *)foreign.payload)->signature,
           sizeof(token.signature));
    memcpy(foreign.payload, &token, sizeof(token));
    CHECK_IS(on_source(CPC_OP_COMMIT, &foreign).status, CPC_S_TOKEN_SIGNATURE);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_MANIFEST);
    struct answer commit = on_source(CPC_OP_COMMIT, &mine);
    CHECK_IS(commit.status, CPC_S_OK);
    CHECK_IS(on_source(CPC_OP_COMMIT, &foreign).status, CPC_S_TOKEN_SIGNATURE);
    /* nor does the other destination run with our commit */
    CHECK_IS(call(other.destination, CPC_OP_RUN, 0, 0, commit.payload, commit.size).status,
             CPC_S_TOKEN_SESSION);
    pair_free(&other);
    end(false, false);
}

static void abort_of_another_destination(void)
{
    struct answer foreign;
    struct pair other;

    to_committed();
    other = pair;
    to_committed();
    foreign = call(other.destination, CPC_OP_ABORT, 0, 0, NULL, 0);
    CHECK_IS(on_source(CPC_OP_RESUME, &foreign).status, CPC_S_TOKEN_SESSION);
    memcpy(foreign.payload + 16, session_of(pair.source)->id, 16);
    CHECK_IS(on_source(CPC_OP_RESUME, &foreign).status, CPC_S_TOKEN_SIGNATURE);
    pair_free(&other);
    end(false, false);
}

static void tokens_of_the_wrong_make(void)
{
    struct answer prepared = to_prepared();
    struct answer bad = prepared;
    struct cpc_token *token = (void *)bad.payload;

    token->magic ^= 1;
    CHECK_IS(on_source(CPC_OP_COMMIT, &bad).status, CPC_S_TOKEN);
    bad = prepared;
    token->wire = 2;
    CHECK_IS(on_source(CPC_OP_COMMIT, &bad).status, CPC_S_TOKEN);
    bad = prepared;
    token->type = CPC_TOKEN_RUNNING;
    CHECK_IS(on_source(CPC_OP_COMMIT, &bad).status, CPC_S_TOKEN);
    bad = prepared;
    token->pad = 1;
    CHECK_IS(on_source(CPC_OP_COMMIT, &bad).status, CPC_S_TOKEN);
    bad = prepared;
    token->manifest[0] ^= 1;
    CHECK_IS(on_source(CPC_OP_COMMIT, &bad).status, CPC_S_TOKEN_SESSION);
    bad = prepared;
    token->signature[95] ^= 1;
    CHECK_IS(on_source(CPC_OP_COMMIT, &bad).status, CPC_S_TOKEN_SIGNATURE);
    bad = prepared;
    bad.size--;
    CHECK_IS(on_source(CPC_OP_COMMIT, &bad).status, CPC_S_BAD_PAYLOAD);
    CHECK_IS(on_source(CPC_OP_COMMIT, &prepared).status, CPC_S_OK);
    /* a PREPARED is no ABORT, and no RUNNING */
    CHECK_IS(on_source(CPC_OP_RESUME, &prepared).status, CPC_S_TOKEN);
    CHECK_IS(on_source(CPC_OP_FINISH, &prepared).status, CPC_S_TOKEN);
    end(false, false);
}

static void finish_before_the_commit(void)
{
    struct answer prepared = to_prepared();
    CHECK_IS(on_source(CPC_OP_FINISH, &prepared).status, CPC_S_WRONG_PHASE);
    end(false, false);
}

static void disks_must_have_changed_hands(void)
{
    to_manifest();
    pair.destination->disks_active = false;
    CHECK_IS(on_destination(CPC_OP_PREPARE, NULL).status, CPC_S_DISKS);
    pair.destination->disks_active = true;
    struct answer prepared = on_destination(CPC_OP_PREPARE, NULL);
    CHECK_IS(prepared.status, CPC_S_OK);
    pair.source->disks_active = true;
    CHECK_IS(on_source(CPC_OP_COMMIT, &prepared).status, CPC_S_DISKS);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_MANIFEST);
    pair.source->disks_active = false;
    CHECK_IS(on_source(CPC_OP_COMMIT, &prepared).status, CPC_S_OK);
    end(false, false);
}

static void device_state_must_be_loaded(void)
{
    to_manifest();
    pair.destination->device_known = false;
    CHECK_IS(on_destination(CPC_OP_PREPARE, NULL).status, CPC_S_DEVICE_STATE);
    load_devices(pair.destination, 0xd5);
    CHECK_IS(on_destination(CPC_OP_PREPARE, NULL).status, CPC_S_OK);
    end(false, false);
}

static void device_state_must_be_the_one_sent(void)
{
    to_manifest();
    load_devices(pair.destination, 0xd6);
    CHECK_IS(on_destination(CPC_OP_PREPARE, NULL).status, CPC_S_MANIFEST_DEVICES);
    CHECK_IS(query(pair.destination).phase, CPC_PHASE_FAILED);
    end(false, false);
}

/* The destination's own records say something else than the manifest. */
static void manifest_differs(uint32_t status)
{
    CHECK_IS(on_destination(CPC_OP_PREPARE, NULL).status, status);
    CHECK_IS(on_destination(CPC_OP_PREPARE, NULL).status, CPC_S_SESSION_FAILED);
    end(false, false);
}

static void a_page_is_missing(void)
{
    to_manifest();
    struct runtime *runtime = (session_of(pair.destination), runtime_get());
    for (uint32_t i = 0; i < 2600; i++) {
        if (runtime->versions[i] != 0) {
            runtime->versions[i] = 0;
            break;
        }
    }
    manifest_differs(CPC_S_MANIFEST_PAGES);
}

static void a_page_is_stale(void)
{
    to_manifest();
    struct runtime *runtime = (session_of(pair.destination), runtime_get());
    CHECK_IS(MEMORY_VERSION(runtime->versions[100]), 2);
    runtime->versions[100] -= 1;
    manifest_differs(CPC_S_MANIFEST_PAGES);
}

static void a_page_too_many(void)
{
    to_manifest();
    struct runtime *runtime = (session_of(pair.destination), runtime_get());
    for (uint32_t i = 0; i < 2600; i++) {
        if (runtime->versions[i] == 0) {
            runtime->versions[i] = MEMORY_ENTRY(CPC_KIND_PRIVATE, 1);
            break;
        }
    }
    manifest_differs(CPC_S_MANIFEST_PAGES);
}

static void a_region_too_many(void)
{
    to_manifest();
    session_of(pair.destination)->manifest.regions++;
    manifest_differs(CPC_S_MANIFEST_PAGES);
}

static void another_number_of_streams(void)
{
    to_manifest();
    session_of(pair.destination)->manifest.streams++;
    manifest_differs(CPC_S_MANIFEST_STREAMS);
}

static void another_number_of_records(void)
{
    to_manifest();
    session_of(pair.destination)->manifest.records[0]++;
    manifest_differs(CPC_S_MANIFEST_STREAMS);
}

static void records_of_a_stream_that_is_not(void)
{
    to_manifest();
    session_of(pair.destination)->manifest.records[7]++;
    manifest_differs(CPC_S_MANIFEST_STREAMS);
}

static void a_vmsa_is_missing(void)
{
    to_manifest();
    session_of(pair.destination)->vmsa_count--;
    manifest_differs(CPC_S_MANIFEST_VMSA);
}

static void a_vmsa_is_another(void)
{
    to_manifest();
    session_of(pair.destination)->vmsa_tags[1][0] ^= 1;
    manifest_differs(CPC_S_MANIFEST_VMSA);
}

static void a_stream_has_not_ended(void)
{
    struct wire wire = { 0 };
    uint64_t arg[6] = { 0, 2, 1, CPC_SEND_FULL | CPC_SEND_FINAL };
    uint64_t streams[6] = { 2 };

    pair = pair_new(NULL, NULL);
    pair_open(&pair, 0x1e);
    fill_guest(pair.source, 7);
    CHECK_IS(on_source(CPC_OP_FREEZE, NULL).status, CPC_S_OK);
    save_devices(pair.source, 0xd5);
    CHECK_IS(export_call(pair.source, 0, CPC_OP_SEND, arg, &wire).status, CPC_S_OK);
    CHECK_IS(export_call(pair.source, 0, CPC_OP_STATE, streams, &wire).status,
             CPC_S_INCOMPLETE);
    arg[0] = 1;
    struct wire second = { 0 };
    CHECK_IS(export_call(pair.source, 1, CPC_OP_SEND, arg, &second).status, CPC_S_OK);
    streams[0] = 1;
    CHECK_IS(export_call(pair.source, 0, CPC_OP_STATE, streams, &wire).status,
             CPC_S_BAD_ARGUMENT);
    streams[0] = 2;
    CHECK_IS(export_call(pair.source, 0, CPC_OP_STATE, streams, &wire).status, CPC_S_OK);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    load_devices(pair.destination, 0xd5);
    CHECK_IS(on_destination(CPC_OP_PREPARE, NULL).status, CPC_S_INCOMPLETE);
    CHECK_IS(import_call(pair.destination, 1, 1, &second).status, CPC_S_OK);
    CHECK_IS(on_destination(CPC_OP_PREPARE, NULL).status, CPC_S_OK);
    CHECK(same_memory(&pair));
    wire_free(&second);
    wire_free(&wire);
    end(false, false);
}

static void state_needs_saved_devices(void)
{
    struct wire wire = { 0 };
    uint64_t arg[6] = { 1 };

    pair = pair_new(NULL, NULL);
    pair_open(&pair, 0x1e);
    CHECK_IS(on_source(CPC_OP_FREEZE, NULL).status, CPC_S_OK);
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FINAL, &wire).status, CPC_S_OK);
    CHECK_IS(export_call(pair.source, 0, CPC_OP_STATE, arg, &wire).status,
             CPC_S_DEVICE_STATE);
    save_devices(pair.source, 1);
    CHECK_IS(export_call(pair.source, 0, CPC_OP_STATE, arg, &wire).status, CPC_S_OK);
    wire_free(&wire);
    end(false, false);
}

#define T(name) { #name, name }
static const struct test tests[] = {
    T(tokens_may_be_asked_for_again), T(resume_before_the_commit_needs_nothing),
    T(resume_without_freeze_leaves_the_guest_alone),
    T(resume_after_the_commit_is_refused), T(resume_after_the_commit_with_the_abort),
    T(run_after_the_abort_is_refused), T(abort_after_the_run_is_refused),
    T(abort_after_a_tried_release_is_refused), T(fault_in_the_release_can_be_run_again),
    T(a_vmsa_that_does_not_load_leads_back),
    T(devices_changed_after_prepare_do_not_run),
    T(disks_given_back_after_prepare_do_not_run), T(commit_for_another_destination),
    T(abort_of_another_destination), T(tokens_of_the_wrong_make),
    T(finish_before_the_commit), T(disks_must_have_changed_hands),
    T(device_state_must_be_loaded), T(device_state_must_be_the_one_sent),
    T(a_page_is_missing), T(a_page_is_stale), T(a_page_too_many),
    T(a_region_too_many), T(another_number_of_streams), T(another_number_of_records),
    T(records_of_a_stream_that_is_not), T(a_vmsa_is_missing), T(a_vmsa_is_another),
    T(a_stream_has_not_ended), T(state_needs_saved_devices),
};
TEST_MAIN(tests)
