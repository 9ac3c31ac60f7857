/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SEV-SNP platform on the model of such a machine: what is validated when,
 * and what a host gains by lying. (The tests of the protocol run on the model
 * too: CPC_TEST_PLATFORM=sev-snp.)
 */
#include "snp_pair.h"

/* ---- start ---------------------------------------------------------------- */

static void each_gvcpu_is_created_once(void)
{
    begin();
    const struct vmsa *vmsa = (const void *)pair.source->vmsa;
    const struct vmsa *other = (const void *)(pair.source->vmsa + CPC_VMSA_STRIDE);
    CHECK_IS(pair.source->snp->created, 1);
    CHECK_IS(pair.source->snp->ap_vmsa[0], host_trusted_gpa(pair.source, vmsa));
    CHECK(vmsa->cs.base == 0xffff0000 && vmsa->rip == 0xfff0 && vmsa->cr0 == 0x10);
    CHECK(!pair.source->snp->ap_on_init[0] && pair.source->snp->ap_on_init[1]);
    CHECK_IS(pair.source->snp->ap_vmsa[1], host_trusted_gpa(pair.source, other));
    CHECK(other->cs.base == 0x00800000 && other->rip == 0xb004 && other->cr0 == 0x10);
    CHECK_IS(pair.destination->snp->created, 0);
    CHECK_IS(pair.destination->snp->ap_vmsa[1], 0);
    host_machine = pair.source;
    CHECK_IS(platform()->begin(), CPC_S_OK);
    CHECK_IS(pair.source->snp->created, 1);
    end();
}

static void start_with(uint32_t incoming, bool refuses_ap, bool refuses_join,
                       uint32_t status)
{
    host_all_snp = true;
    struct host_machine *machine = host_machine_new(&standard_layout);
    host_hints(machine)->incoming = incoming;
    machine->snp->refuses_ap = refuses_ap;
    machine->snp->refuses_join = refuses_join;
    host_machine_start(machine);
    CHECK_IS(machine->init_status, status);
    CHECK_IS(machine->snp->created, 0);
    if (!refuses_join) {             /* else nobody takes a call */
        CHECK_IS(call(machine, CPC_OP_PING, 0, 0, NULL, 0).status, status);
    }
    host_machine_free(machine);
}

static void a_host_that_knows_no_gvcpus(void)
{
    host_all_snp = true;
    struct host_machine *machine = host_machine_new(&standard_layout);
    machine->fail[CPC_PCALL_GVCPU] = CPC_P_FAILED;
    host_machine_start(machine);
    CHECK_IS(machine->snp->created, 0);
    CHECK_IS(call(machine, CPC_OP_PING, 0, 0, NULL, 0).status, CPC_S_PLATFORM);
    host_machine_free(machine);
}

static void a_start_that_fails_answers_every_call(void)
{
    start_with(1, false, false, CPC_S_OK);
    start_with(2, false, false, CPC_S_BOOT_INFO);
    start_with(0, true, false, CPC_S_HARDWARE);
    start_with(0, false, true, CPC_S_HARDWARE);
}

/* ---- pages ---------------------------------------------------------------- */

static bool of_the_launch(uint64_t page)
{
    return (page >= MODEL_LAUNCH && page < MODEL_LAUNCH + MODEL_LAUNCH_PAGES) ||
           page == MODEL_LAUNCH_ALONE;
}

static void each_page_is_validated_once(void)
{
    begin();
    CHECK_IS(resident_pages(pair.destination, 0), MODEL_LAUNCH_PAGES + 1);
    pair_open(&pair, ALL);
    CHECK_IS(resident_pages(pair.destination, 0), 0);
    make_wire(&pair, &wire);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    CHECK(same_memory(&pair));
    uint32_t private = 0;
    for (uint32_t r = 0; r < 2; r++) {
        for (uint64_t p = 0; p < pair.source->table.region[r].pages; p++) {
            const struct rmp_entry *e = rmp(pair.destination, r, p);
            CHECK_IS(e->private, rmp(pair.source, r, p)->private);
            CHECK_IS(e->validated, e->private);
            CHECK_IS(e->validations, e->private);
            CHECK_IS(e->rescinded, r == 0 && of_the_launch(p));
            private += e->private;
        }
    }
    CHECK(private > 500);
    end();
}

static void conversions_across_rounds(void)
{
    struct host_region *region;

    begin();
    region = &pair.source->region[0];
    for (uint64_t page = 700; page < 704; page++) {
        touch_page(pair.source, 0, page, page);
    }
    region->shared[703] = 1;
    pair_open(&pair, ALL);
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    region->shared[700] = region->shared[701] = 1;
    region->shared[703] = 0;
    CHECK_IS(send_round(pair.source, 0, 1, 2, 0, &wire).status, CPC_S_OK);
    mark_dirty(pair.source, 0, 700);
    CHECK_IS(send_round(pair.source, 0, 1, 3, 0, &wire).status, CPC_S_OK);
    region->shared[700] = 0;
    touch_page(pair.source, 0, 702, 0);      /* a private zero page */
    finish(4);
    CHECK(same_memory(&pair));
    static const uint32_t want[4][3] = { { 2, 1, 1 }, { 1, 1, 0 }, { 1, 0, 1 },
                                         { 1, 0, 1 } };
    for (uint64_t i = 0; i < 4; i++) {
        const struct rmp_entry *e = rmp(pair.destination, 0, 700 + i);
        CHECK_IS(e->validations, want[i][0]);
        CHECK_IS(e->rescinded, want[i][1]);
        CHECK_IS(e->validated, want[i][2]);
    }
    CHECK_IS(call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0).status, CPC_S_OK);
    end();
}

/* The host calls it private, the processor does not agree. */
static void what_is_not_validated_is_absent(void)
{
    begin();
    touch_page(pair.source, 0, 700, 1);
    touch_page(pair.source, 0, 701, 1);
    rmp(pair.source, 0, 701)->held = true;
    pair_open(&pair, ALL);
    host_rmp_set(pair.source, 701, true, false);
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    CHECK_IS(wire_find(&wire, CPC_RECORD_PAGES, 0)->count, 1);
    CHECK_IS(version_of(pair.source, 701), 0);
    CHECK(version_of(pair.source, 700) != 0);
    end();
}

/*
 * SEND of a guest that fills the ring and more: while it waits for room, run 31
 * is sealed and the pages from 512 on have been looked at, but not read.
 */
static struct answer take_away(uint32_t round, uint64_t flags)
{
    uint64_t arg[6] = { 0, 1, round, flags };
    struct cpc_mailbox *mailbox = host_mailbox(pair.source, 0);
    double deadline = now() + DEADLINE_SECONDS;

    post(pair.source, 0, CPC_OP_SEND, arg, NULL, 0);
    while (__atomic_load_n(&mailbox->state, __ATOMIC_SEQ_CST) != CPC_STATE_YIELDED) {
        CHECK(!answered(pair.source, 0));
        pause_until(deadline, "a full ring");
    }
    rmp(pair.source, 0, 517)->held = true;
    host_rmp_set(pair.source, 517, true, false);
    for (bool last = false; !last;) {
        struct cpc_ring *ring = host_ring(pair.source, 0);
        last = answered(pair.source, 0);
        uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
        wire_append(&wire, pair.source->ring[0] + ring->tail % CPC_RING_MIN,
                    head - ring->tail);
        __atomic_store_n(&ring->tail, head, __ATOMIC_SEQ_CST);
        host_wake(pair.source, 0);
        pause_until(deadline, "the round");
    }
    return take_answer(pair.source, 0);
}

static void fill_a_ring(void)
{
    begin();
    for (uint64_t page = 0; page < 600; page++) {
        touch_page(pair.source, 0, page, page + 1);
    }
    pair_open(&pair, ALL);
}

static void a_page_taken_away_is_sent_later(void)
{
    fill_a_ring();
    CHECK_IS(take_away(1, CPC_SEND_FULL).status, CPC_S_OK);
    CHECK_IS(version_of(pair.source, 516), MEMORY_ENTRY(CPC_KIND_PRIVATE, 1));
    CHECK_IS(version_of(pair.source, 517), MEMORY_ENTRY(MEMORY_OWED, 0));
    host_rmp_set(pair.source, 517, true, true);
    rmp(pair.source, 0, 517)->held = false;
    CHECK_IS(send_round(pair.source, 0, 1, 2, 0, &wire).status, CPC_S_OK);
    CHECK_IS(version_of(pair.source, 517), MEMORY_ENTRY(CPC_KIND_PRIVATE, 2));
    finish(3);
    CHECK(same_memory(&pair));
    end();
}

/* A guest that gets the page back writes to it, and the host hides that. */
static void back_without_a_hint(void)
{
    uint64_t *bitmap = (void *)(pair.source->shm + pair.source->boot.bitmap_offset);

    touch_page(pair.source, 0, 517, 4711);
    host_rmp_set(pair.source, 517, true, true);
    rmp(pair.source, 0, 517)->held = false;
    bitmap[517 / 64] = 0;
    finish(3);
    CHECK(same_memory(&pair));
    CHECK_IS(version_of(pair.source, 517), MEMORY_ENTRY(CPC_KIND_PRIVATE, 3));
    CHECK_IS(call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0).status, CPC_S_OK);
    end();
}

static void a_page_taken_away_is_sent_later_without_a_hint(void)
{
    fill_a_ring();
    CHECK_IS(take_away(1, CPC_SEND_FULL).status, CPC_S_OK);
    back_without_a_hint();
    fill_a_ring();
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    for (uint64_t page = 0; page < 600; page++) {
        mark_dirty(pair.source, 0, page);
    }
    CHECK_IS(take_away(2, 0).status, CPC_S_OK);
    back_without_a_hint();
}

/* The destination is told that the page is gone where it has it. */
static void gone(bool sent_before)
{
    CHECK_IS(take_away(sent_before ? 2 : 1, sent_before ? 0 : CPC_SEND_FULL).status,
             CPC_S_OK);
    finish(3);
    CHECK_IS(wire_find(&wire, CPC_RECORD_KIND, 0) != NULL, sent_before);
    CHECK_IS(version_of(pair.source, 517), 0);
    CHECK_IS(version_of(pair.destination, 517), 0);
    CHECK_IS(call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0).status, CPC_S_OK);
    end();
}

static void a_page_taken_away_may_stay_away(void)
{
    fill_a_ring();
    gone(false);
    fill_a_ring();
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    for (uint64_t page = 0; page < 600; page++) {
        mark_dirty(pair.source, 0, page);
    }
    gone(true);
}

static void a_frozen_page_taken_away_ends_the_session(void)
{
    fill_a_ring();
    CHECK_IS(call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0).status, CPC_S_OK);
    is_hardware(take_away(1, CPC_SEND_FULL | CPC_SEND_FINAL), PLATFORM_LOST, 0);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    end();
}

/* The host injects #VC while nothing is read: after the look at page `dirty`, which is the last
   one wanted of its group. The page behind it is clean and stays what it was. */
static void inject_after(uint64_t dirty)
{
    begin();
    touch_page(pair.source, 0, dirty, 1);
    touch_page(pair.source, 0, dirty + 1, 2);
    pair_open(&pair, ALL);
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    mark_dirty(pair.source, 0, dirty);
    pair.source->snp->injects = 1;
    struct answer answer = send_round(pair.source, 0, 1, 2, 0, &wire);
    CHECK_IS(version_of(pair.source, dirty + 1), MEMORY_ENTRY(CPC_KIND_PRIVATE, 1));
    CHECK_IS(answer.status, CPC_S_FAULT);
    CHECK_IS(answer.fault[0], VECTOR_VC);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    end();
}

static void an_injected_exception_makes_no_page_absent(void)
{
    inject_after(704);
    inject_after(719);       /* the next one is of another group */
}

static void bad_kind(struct host_machine *machine, uint32_t op)
{
    if (op == CPC_PCALL_KINDS) {
        machine->shm[CPC_SHM_BOUNCE + 7] = 3;
    }
}

static void kinds_that_do_not_exist_are_refused(void)
{
    begin();
    pair_open(&pair, ALL);
    pair.source->snp->after_call = bad_kind;
    struct answer answer = send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire);
    CHECK_IS(answer.status, CPC_S_PLATFORM);
    CHECK_IS(answer.result[0], CPC_PCALL_KINDS);
    end();
}

/* Private content never goes into the host's hands. */
static void private_pages_need_a_place(void)
{
    static uint8_t page[CPC_PAGE_SIZE];
    uint32_t entry = 0;

    begin();
    pair_open(&pair, ALL);
    host_machine = pair.destination;
    const struct cpc_region *regions = session_of(pair.destination)->memory.region;
    struct cpc_region far = regions[0];
    uint32_t wants = PLATFORM_HARDWARE(PLATFORM_NO_PLACE, 0);
    CHECK_IS(platform()->insert(&regions[2], 0, 1, &entry, CPC_KIND_PRIVATE, page), wants);
    CHECK_IS(platform()->clear(&regions[2], 0, 1, &entry, CPC_KIND_PRIVATE), wants);
    far.first_page = 4000;
    CHECK_IS(platform()->insert(&far, 0, 1, &entry, CPC_KIND_PRIVATE, page), wants);
    CHECK_IS(platform()->clear(&far, 0, 1, &entry, CPC_KIND_SHARED), wants);
    CHECK_IS(platform()->insert(&regions[2], 0, 1, &entry, CPC_KIND_SHARED, page), CPC_P_OK);
    end();
}

/* ---- PVALIDATE and page state changes ------------------------------------- */

static struct answer import_with(void (*lie)(struct snp_machine *))
{
    begin();
    pair_open(&pair, ALL);
    make_wire(&pair, &wire);
    lie(pair.destination->snp);
    struct answer answer = import_call(pair.destination, 0, 0, &wire);
    if (answer.status != CPC_S_OK) {
        CHECK_IS(query(pair.destination).phase, CPC_PHASE_FAILED);
        CHECK_IS(resident_pages(pair.destination, 1), 0);
    }
    return answer;
}

static void lie_code(struct snp_machine *snp)
{
    snp->pvalidate_code = 6;
}

static void lie_unchanged(struct snp_machine *snp)
{
    snp->pvalidate_unchanged = true;
}

static void lie_slow(struct snp_machine *snp)
{
    snp->psc_at_once = 1;
}

static void lie_idle(struct snp_machine *snp)
{
    snp->psc_idle = true;
}

static void spoil_current(struct host_machine *machine, struct ghcb *ghcb)
{
    (void)machine;
    if (ghcb->exit_code == GHCB_EXIT_PSC) {
        memset(ghcb->buffer, 0, 2);          /* nothing done, no error */
    }
}

static void spoil_current_high(struct host_machine *machine, struct ghcb *ghcb)
{
    (void)machine;
    if (ghcb->exit_code == GHCB_EXIT_PSC) {
        memset(ghcb->buffer, 0xff, 2);
    }
}

static void spoil_info_2(struct host_machine *machine, struct ghcb *ghcb)
{
    (void)machine;
    if (ghcb->exit_code == GHCB_EXIT_PSC) {
        ghcb->exit_info_2 = 1ull << 32 | 2;
    }
}

static void spoil_info_1(struct host_machine *machine, struct ghcb *ghcb)
{
    (void)machine;
    if (ghcb->exit_code == GHCB_EXIT_PSC) {
        ghcb->exit_info_1 = 2;
    }
}

#define SPOIL(name) static void lie_##name(struct snp_machine *snp) { snp->spoil = name; }
SPOIL(spoil_current)
SPOIL(spoil_current_high)
SPOIL(spoil_info_2)
SPOIL(spoil_info_1)

static void answers_of_the_hardware_are_checked(void)
{
    is_hardware(import_with(lie_code), PLATFORM_PVALIDATE, 6), end();
    is_hardware(import_with(lie_unchanged), PLATFORM_PVALIDATE, 0x100), end();
    is_hardware(import_with(lie_spoil_current), PLATFORM_PSC, 0), end();
    is_hardware(import_with(lie_spoil_current_high), PLATFORM_PSC, 0), end();
    is_hardware(import_with(lie_spoil_info_2), PLATFORM_PSC, 0x102), end();
    is_hardware(import_with(lie_spoil_info_1), PLATFORM_VMGEXIT, 2), end();
}

/* Slow is allowed; so is idle, where the host makes pages private on demand. */
static void slow_page_state_changes_are_repeated(void)
{
    CHECK_IS(import_with(lie_slow).status, CPC_S_OK);
    CHECK(same_memory(&pair));
    end();
    CHECK_IS(import_with(lie_idle).status, CPC_S_OK);
    CHECK(same_memory(&pair));
    end();
}

/* Both hosts say that there is nothing: then there is nothing, and not what the
   launch had there. */
static void hide(struct host_machine *machine, uint32_t op)
{
    if (op == CPC_PCALL_KINDS) {
        memset(machine->shm + CPC_SHM_BOUNCE, CPC_KIND_ABSENT, CPC_PAGE_SIZE);
    }
}

static void a_hidden_page_of_the_launch_is_given_up(void)
{
    begin();
    touch_page(pair.source, 0, MODEL_LAUNCH, 1);
    pair.source->snp->after_call = hide;
    pair.destination->snp->after_call = hide;
    pair_open(&pair, ALL);
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status, CPC_S_OK);
    finish(2);
    for (uint64_t p = 0; p < pair.source->table.region[0].pages; p++) {
        CHECK(!rmp(pair.destination, 0, p)->validated);
        CHECK_IS(rmp(pair.destination, 0, p)->rescinded, of_the_launch(p));
    }
    CHECK_IS(resident_pages(pair.destination, 0), 0);
    end();
}

/* Other memory lies behind the address now; the launch's could come back later. */
static void a_swapped_page_of_the_launch_is_found(void)
{
    begin();
    host_rmp_set(pair.destination, MODEL_LAUNCH + 3, true, false);
    struct proofs proofs = pair_accept(&pair, ALL);
    is_hardware(confirm(pair.destination, &proofs.source), PLATFORM_PVALIDATE, 0x100);
    CHECK_IS(query(pair.destination).phase, CPC_PHASE_FAILED);
    end();
}

#define T(name) { #name, name }
static const struct test tests[] = {
    T(each_gvcpu_is_created_once), T(a_start_that_fails_answers_every_call), T(a_host_that_knows_no_gvcpus),
    T(each_page_is_validated_once), T(conversions_across_rounds),
    T(what_is_not_validated_is_absent), T(a_page_taken_away_is_sent_later),
    T(a_page_taken_away_is_sent_later_without_a_hint), T(a_page_taken_away_may_stay_away),
    T(a_frozen_page_taken_away_ends_the_session),
    T(an_injected_exception_makes_no_page_absent), T(kinds_that_do_not_exist_are_refused),
    T(private_pages_need_a_place), T(answers_of_the_hardware_are_checked),
    T(slow_page_state_changes_are_repeated), T(a_hidden_page_of_the_launch_is_given_up),
    T(a_swapped_page_of_the_launch_is_found),
};
TEST_MAIN(tests)
