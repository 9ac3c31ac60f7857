/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is not in trusted memory any more when a call is over that did not end
 * well, or a session. On SEV-SNP the guest's kernel could look for it there.
 */
#include "crypto_internal.h"
#include "driver.h"
#include "firmware.h"
#include "snp_machine.h"

#define ALL 0x1eu

static struct pair pair;
static struct wire wire;

/* Every test runs on both platforms. */
static void on_both(void (*run)(void))
{
    bool as_it_was = host_all_snp;

    for (uint32_t snp = 0; snp < 2; snp++) {
        host_all_snp = snp != 0;
        pair = pair_new(NULL, NULL);
        run();
        wire_free(&wire);
        pair_free(&pair);
    }
    host_all_snp = as_it_was;
}

/* ---- faults --------------------------------------------------------------- */

static uint32_t words_left;      /* of entropy, until a call faults */

static void fault_at_a_word(struct host_machine *machine)
{
    (void)machine;
    if (--words_left == 0) {
        *(volatile uint8_t *)(uintptr_t)0xdead0 = 1;
    }
}

/* Both pairs of keys are made in OPEN, from a few dozen words. */
static void open_faults(void)
{
    uint32_t faults = 0;

    pair.source->on_entropy = fault_at_a_word;
    for (uint32_t word = 1; word < 200; word += 3) {
        words_left = word;
        struct answer answer = call(pair.source, CPC_OP_OPEN, CPC_ROLE_SOURCE, ALL, NULL, 0);
        if (answer.status == CPC_S_OK) {
            CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
            break;
        }
        CHECK_IS(answer.status, CPC_S_FAULT);
        CHECK(crypto_pool_clean());
        CHECK(all_zero(session_of(pair.source), sizeof(struct migrate_session)));
        faults++;
    }
    CHECK(faults > 4);
    pair.source->on_entropy = NULL;
    pair_open(&pair, ALL);
}

static void a_fault_in_open_leaves_no_key(void)
{
    on_both(open_faults);
}

/* The next one to take the pool faults, which is the first key derivation. */
static void fault_behind_the_secret(struct host_machine *machine)
{
    machine->crash_hvcpu = true;
}

static bool on_the_stack(struct host_machine *machine, const uint8_t secret[32])
{
    pthread_attr_t attributes;
    void *stack;
    size_t size;

    CHECK(pthread_getattr_np(machine->hvcpu[0].thread, &attributes) == 0);
    CHECK(pthread_attr_getstack(&attributes, &stack, &size) == 0);
    pthread_attr_destroy(&attributes);
    return memmem(stack, size, secret, 32) != NULL;
}

static void accept_faults(void)
{
    struct answer hello_s = call(pair.source, CPC_OP_OPEN, CPC_ROLE_SOURCE, ALL, NULL, 0);
    struct answer hello_d = call(pair.destination, CPC_OP_OPEN, CPC_ROLE_DESTINATION, ALL,
                                 NULL, 0);
    struct cpc_hello peer;
    uint8_t secret[32];

    CHECK_IS(hello_s.status, CPC_S_OK);
    memcpy(&peer, hello_d.payload, sizeof(peer));
    CHECK(crypto_x25519(secret, session_of(pair.source)->secret.x25519, peer.x25519) == 0);
    pair.source->on_entropy = fault_behind_the_secret;
    struct answer answer = call(pair.source, CPC_OP_ACCEPT, 0, 0, hello_d.payload,
                                hello_d.size);
    CHECK_IS(answer.status, CPC_S_FAULT);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_FAILED);
    CHECK(!on_the_stack(pair.source, secret));
    CHECK(all_zero(&session_of(pair.source)->secret, sizeof(session_of(pair.source)->secret)));
}

static void a_fault_in_accept_leaves_no_secret(void)
{
    on_both(accept_faults);
}

/* ---- keys ---------------------------------------------------------------- */

/* A host may leave a RUN half done: gvCPUs run, and the call has failed. */
static void run_fails(void)
{
    pair_open(&pair, ALL);
    make_wire(&pair, &wire);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    load_devices(pair.destination, 0xd5);
    struct answer token = call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0);
    struct answer commit = call(pair.source, CPC_OP_COMMIT, 0, 0, token.payload, token.size);
    CHECK_IS(commit.status, CPC_S_OK);
    pair.destination->fail[CPC_PCALL_RELEASE] = CPC_P_FAILED;
    CHECK_IS(call(pair.destination, CPC_OP_RUN, 0, 0, commit.payload, commit.size).status,
             CPC_S_PLATFORM);
    no_keys(pair.destination);
    /* Nor does a token leave yet that says it runs. */
    struct answer again = call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0);
    CHECK(memcmp(again.payload, token.payload, sizeof(struct cpc_token)) == 0);
    pair.destination->fail[CPC_PCALL_RELEASE] = CPC_P_OK;
    token = call(pair.destination, CPC_OP_RUN, 0, 0, commit.payload, commit.size);
    CHECK_IS(token.status, CPC_S_OK);
    CHECK_IS(call(pair.source, CPC_OP_FINISH, 0, 0, token.payload, token.size).status,
             CPC_S_OK);
}

static void no_key_stays_when_the_guest_runs(void)
{
    on_both(run_fails);
}

/* ---- pages ---------------------------------------------------------------- */

static void send_is_done(void)
{
    pair_open(&pair, ALL);
    touch_page(pair.source, 2, 5, 1);        /* a copy of it is sent, on either platform */
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    session_of(pair.source);
    const struct hvcpu *hvcpu = &runtime_get()->hvcpu[0];
    const struct migrate_scratch *scratch = (const void *)hvcpu->scratch;
    CHECK(all_zero(scratch->bounce, sizeof(scratch->bounce)));
    CHECK(all_zero(hvcpu->buffer, sizeof(hvcpu->buffer)));
}

static void no_page_stays_after_send(void)
{
    on_both(send_is_done);
}

/* ---- registers ------------------------------------------------------------ */

static bool no_registers(const struct host_machine *machine)
{
    return all_zero(machine->vmsa, (size_t)machine->boot.gvcpu_max * CPC_VMSA_STRIDE);
}

static void to_manifest(void)
{
    pair_open(&pair, ALL);
    make_wire(&pair, &wire);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    CHECK(!no_registers(pair.source) && !no_registers(pair.destination));
    load_devices(pair.destination, 0xd5);
}

/* What a gvCPU of an SEV-SNP guest runs from is not wiped: here it is what the firmware
   made for it (tests/test_snp_gvcpu.c has others). */
static void source_has_none(void)
{
    CHECK(pair.source->snp != NULL || no_registers(pair.source));
    CHECK(pair.source->snp == NULL || !no_registers(pair.source));
}

static void committed_and_aborted(void)
{
    to_manifest();
    struct answer token = call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0);
    CHECK_IS(token.status, CPC_S_OK);
    CHECK(!no_registers(pair.destination));
    CHECK_IS(call(pair.source, CPC_OP_COMMIT, 0, 0, token.payload, token.size).status,
             CPC_S_OK);
    source_has_none();
    token = call(pair.destination, CPC_OP_ABORT, 0, 0, NULL, 0);
    CHECK_IS(token.status, CPC_S_OK);
    CHECK(no_registers(pair.destination));
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, token.payload, token.size).status,
             CPC_S_OK);
    source_has_none();
}

static void run(void)
{
    to_manifest();
    struct answer token = call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0);
    token = call(pair.source, CPC_OP_COMMIT, 0, 0, token.payload, token.size);
    CHECK_IS(call(pair.destination, CPC_OP_RUN, 0, 0, token.payload, token.size).status,
             CPC_S_OK);
    CHECK(no_registers(pair.destination) == (pair.destination->snp == NULL));
}

static void failed(void)
{
    to_manifest();
    load_devices(pair.destination, 0xd6);
    CHECK_IS(call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0).status,
             CPC_S_MANIFEST_DEVICES);
    CHECK(no_registers(pair.destination));
    table_of(pair.source)->generation++;
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    source_has_none();
}

static void no_registers_stay_after_a_session(void)
{
    on_both(committed_and_aborted);
    on_both(run);
    on_both(failed);
}

#define T(name) { #name, name }
static const struct test tests[] = {
    T(a_fault_in_open_leaves_no_key), T(a_fault_in_accept_leaves_no_secret),
    T(no_key_stays_when_the_guest_runs), T(no_page_stays_after_send), T(no_registers_stay_after_a_session),
};
TEST_MAIN(tests)
