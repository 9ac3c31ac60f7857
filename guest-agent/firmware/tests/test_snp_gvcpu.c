/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SEV-SNP platform on the model of such a machine: save areas of gvCPUs,
 * and the map of guest memory as the host tells it.
 */
#include "snp_pair.h"

/* ---- gvCPUs --------------------------------------------------------------- */

static void freeze_fails_while_a_gvcpu_runs(void)
{
    begin();
    pair_open(&pair, ALL);
    pair.source->snp->keeps_running = true;
    is_hardware(call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0), PLATFORM_RMPADJUST, 3);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_FAILED);
    pair.source->snp->keeps_running = false;
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(pair.source->snp->trusted[i].vmsa && pair.source->snp->trusted[i].in_use);
    }
    end();
}

static void a_frozen_gvcpu_has_no_save_area(void)
{
    begin();
    pair_open(&pair, ALL);
    CHECK_IS(call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(!pair.source->snp->trusted[0].vmsa && !pair.source->snp->trusted[1].vmsa);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(pair.source->snp->trusted[0].in_use && pair.source->snp->trusted[1].in_use);
    end();
}

/* gvCPU 1 runs from page 1800 of the guest, as Linux starts its own. */
static void guest_save_area(void)
{
    begin();
    uint8_t *page = pair.source->region[0].memory + 1800 * CPC_PAGE_SIZE;
    memcpy(page, pair.source->vmsa + CPC_VMSA_STRIDE, CPC_PAGE_SIZE);
    mark_dirty(pair.source, 0, 1800);
    host_snp_follow(pair.source, 1800, 1);
    rmp(pair.source, 0, 1800)->vmsa = true;
    rmp(pair.source, 0, 1800)->in_use = true;
    pair.source->snp->trusted[1].in_use = false;
    pair.source->snp->gvcpu_vmsa[1] = host_page_gpa(pair.source, 1800);
    pair_open(&pair, ALL);
}

static void a_save_area_in_guest_memory_moves(void)
{
    guest_save_area();
    finish(1);
    CHECK(!rmp(pair.source, 0, 1800)->vmsa);
    struct answer commit = prepare_and_commit();
    static const uint8_t zero[CPC_PAGE_SIZE];
    CHECK(memcmp(pair.source->vmsa + CPC_VMSA_STRIDE, zero, sizeof(zero)) == 0);
    CHECK(memcmp(pair.source->vmsa, zero, sizeof(zero)) != 0);   /* gvCPU 0 is there */
    CHECK_IS(call(pair.destination, CPC_OP_RUN, 0, 0, commit.payload, commit.size).status,
             CPC_S_OK);
    CHECK_IS(pair.destination->snp->created, 2);
    CHECK_IS(pair.destination->snp->ap_vmsa[1],
             host_trusted_gpa(pair.destination, pair.destination->vmsa + CPC_VMSA_STRIDE));
    CHECK(memcmp(pair.source->gvcpu[1], pair.destination->gvcpu[1], HOST_VMSA_BYTES) == 0);
    end();
}

/* What docs/sev-snp.md admits: nothing shows that gvCPU 1 has left its first page. */
static void a_left_save_area_is_believed(void)
{
    guest_save_area();
    pair.source->snp->gvcpu_vmsa[1] =
        host_trusted_gpa(pair.source, pair.source->vmsa + CPC_VMSA_STRIDE);
    CHECK_IS(call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(rmp(pair.source, 0, 1800)->vmsa);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    end();
}

/* Neither the page that the host names nor the firmware's own can be run then. */
static void a_save_area_in_guest_memory_resumes(void)
{
    guest_save_area();
    CHECK_IS(call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(!rmp(pair.source, 0, 1800)->vmsa);
    CHECK(!pair.source->snp->trusted[0].vmsa && !pair.source->snp->trusted[1].vmsa);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(rmp(pair.source, 0, 1800)->vmsa && rmp(pair.source, 0, 1800)->in_use);
    CHECK(pair.source->snp->trusted[0].vmsa && pair.source->snp->trusted[0].in_use);
    end();
}

/* The host names a page that gvCPU 1 has left, and runs it from the firmware's. */
static void a_gvcpu_that_runs_from_its_own_page_is_not_frozen_elsewhere(void)
{
    guest_save_area();
    uint8_t *own = pair.source->vmsa + CPC_VMSA_STRIDE;
    pair.source->snp->trusted[1].in_use = true;
    is_hardware(call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0), PLATFORM_RMPADJUST, 3);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(rmp(pair.source, 0, 1800)->vmsa && pair.source->snp->trusted[1].vmsa);
    CHECK(memcmp(own, pair.source->region[0].memory + 1800 * CPC_PAGE_SIZE,
                 CPC_PAGE_SIZE) == 0);
    end();
}

/* What the host names for gvCPU 1 is no save area, whatever is in it. */
static void freeze_refuses(struct host_machine *machine, uint64_t vmsa_gpa)
{
    machine->snp->gvcpu_vmsa[1] = vmsa_gpa;
    host_machine = machine;
    CHECK_IS(platform()->freeze(), PLATFORM_HARDWARE(PLATFORM_RMPQUERY, 0x100));
}

/* 4 KiB that the host got into the guest's memory, as a block of a file: it would give the
   attribute to them at RESUME. */
static void a_page_that_looks_like_a_save_area_is_none(void)
{
    begin();
    uint8_t *own = pair.source->vmsa + CPC_VMSA_STRIDE;
    memcpy(pair.source->region[0].memory + 1801 * CPC_PAGE_SIZE, own, CPC_PAGE_SIZE);
    host_snp_follow(pair.source, 1801, 1);
    pair_open(&pair, ALL);
    pair.source->snp->gvcpu_vmsa[1] = host_page_gpa(pair.source, 1801);
    is_hardware(call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0), PLATFORM_RMPQUERY, 0x100);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_FAILED);
    pair.source->snp->gvcpu_vmsa[1] = host_trusted_gpa(pair.source, own);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(!rmp(pair.source, 0, 1801)->vmsa && !rmp(pair.source, 0, 1801)->in_use);
    CHECK(pair.source->snp->trusted[0].in_use && pair.source->snp->trusted[1].in_use);
    end();
}

/* STATE copies registers into trusted memory. After a RESUME they are there once only. */
static void the_copy_of_a_save_area_is_none(void)
{
    static const uint8_t zero[CPC_PAGE_SIZE];

    guest_save_area();
    uint8_t *own = pair.source->vmsa + CPC_VMSA_STRIDE;
    finish(1);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(rmp(pair.source, 0, 1800)->in_use && !pair.source->snp->trusted[1].vmsa);
    CHECK(memcmp(own, zero, sizeof(zero)) == 0);
    freeze_refuses(pair.source, host_trusted_gpa(pair.source, own));
    end();
}

/* The guest's page travels like any other, with what is in it. */
static void a_save_area_that_travelled_as_a_page_is_none(void)
{
    guest_save_area();
    finish(1);
    struct answer commit = prepare_and_commit();
    CHECK_IS(call(pair.destination, CPC_OP_RUN, 0, 0, commit.payload, commit.size).status,
             CPC_S_OK);
    CHECK(rmp(pair.destination, 0, 1800)->validated);
    freeze_refuses(pair.destination, host_page_gpa(pair.destination, 1800));
    end();
}

/* Without the instruction nothing can be said of a page: nothing is frozen. */
static void a_processor_without_rmpquery_freezes_nothing(void)
{
    begin();
    pair_open(&pair, ALL);
    pair.source->snp->no_rmpquery = true;
    struct answer answer = call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0);
    CHECK_IS(answer.status, CPC_S_FAULT);
    CHECK_IS(answer.fault[0], 6);
    CHECK_IS(pair.source->faults, 1);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_FAILED);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(pair.source->snp->trusted[0].in_use && pair.source->snp->trusted[1].in_use);
    end();
}

/* The source never started gvCPU 1: at the destination it waits for its INIT too. */
static void a_gvcpu_that_waits_for_init_waits_on(void)
{
    begin();
    pair.source->snp->trusted[1].in_use = false;
    pair_open(&pair, ALL);
    pair.destination->snp->waits[1] = true;      /* as its device state says */
    finish(1);
    CHECK(!pair.source->snp->trusted[1].vmsa);
    struct answer commit = prepare_and_commit();
    CHECK_IS(call(pair.destination, CPC_OP_RUN, 0, 0, commit.payload, commit.size).status,
             CPC_S_OK);
    CHECK_IS(pair.destination->snp->created, 1);
    CHECK(!pair.destination->snp->ap_on_init[0] && pair.destination->snp->ap_on_init[1]);
    CHECK_IS(pair.destination->snp->ap_vmsa[1],
             host_trusted_gpa(pair.destination, pair.destination->vmsa + CPC_VMSA_STRIDE));
    end();
}

/* What the host says gvCPU 1 runs from, and how FREEZE answers. */
static void freeze_with(uint64_t vmsa_gpa, uint32_t code)
{
    begin();
    touch_page(pair.source, 0, 30, 1);
    pair_open(&pair, ALL);
    host_snp_follow(pair.source, 0, 64);
    rmp(pair.source, 0, 30)->vmsa = true;
    pair.source->snp->gvcpu_vmsa[1] = vmsa_gpa;
    struct answer answer = call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0);
    CHECK_IS(answer.status, CPC_S_PLATFORM);
    CHECK_IS(answer.result[0], CPC_PCALL_GVCPU);
    CHECK_IS(answer.result[1], code);
    pair.source->snp->gvcpu_vmsa[1] = host_trusted_gpa(pair.source, pair.source->vmsa +
                                                                    CPC_VMSA_STRIDE);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(pair.source->snp->trusted[0].in_use && pair.source->snp->trusted[1].in_use);
    end();
}

static void save_areas_that_cannot_be(void)
{
    freeze_with(0, CPC_P_BAD_STATE);
    freeze_with(CPC_SNP_TRUSTED_GPA, CPC_P_BAD_ARGUMENT);
    freeze_with(CPC_SNP_TRUSTED_GPA + CPC_PAGE_SIZE, CPC_P_BAD_ARGUMENT); /* gvCPU 0's */
    freeze_with(CPC_SNP_SHM_GPA, CPC_P_BAD_ARGUMENT);
    freeze_with(30 * CPC_PAGE_SIZE, CPC_P_BAD_ARGUMENT);                  /* nonsense */
    freeze_with(31 * CPC_PAGE_SIZE, CPC_P_BAD_ARGUMENT);                  /* absent */
    freeze_with(30 * CPC_PAGE_SIZE + 8, CPC_P_BAD_ARGUMENT);
    freeze_with(UINT64_MAX & ~0xfffull, CPC_P_BAD_ARGUMENT);
}

/* What the host says of gvCPU 1 at the freeze, when it says no save area. */
static void freeze_without(uint32_t code)
{
    begin();
    pair_open(&pair, ALL);
    if (code == CPC_P_NOT_PRESENT) {
        pair.source->gvcpu_present[1] = false;
    } else {
        pair.source->fail[CPC_PCALL_GVCPU] = code;
    }
    struct answer answer = call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0);
    CHECK_IS(answer.status, CPC_S_PLATFORM);
    CHECK_IS(answer.result[0], CPC_PCALL_GVCPU);
    CHECK_IS(answer.result[1], code);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_FAILED);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK(pair.source->snp->trusted[0].in_use && pair.source->snp->trusted[1].in_use);
    end();
}

static void a_hidden_gvcpu_is_missed(void)
{
    freeze_without(CPC_P_NOT_PRESENT);
    freeze_without(CPC_P_BAD_STATE);
}

static void a_gvcpu_that_is_not_created_can_be_tried_again(void)
{
    begin();
    pair_open(&pair, ALL);
    finish(1);
    struct answer commit = prepare_and_commit();
    pair.destination->snp->refuses_ap = true;
    is_hardware(call(pair.destination, CPC_OP_RUN, 0, 0, commit.payload, commit.size),
                PLATFORM_AP_CREATE, 2);
    CHECK(pair.destination->frozen);
    CHECK_IS(call(pair.destination, CPC_OP_ABORT, 0, 0, NULL, 0).status, CPC_S_WRONG_PHASE);
    pair.destination->snp->refuses_ap = false;
    CHECK_IS(call(pair.destination, CPC_OP_RUN, 0, 0, commit.payload, commit.size).status,
             CPC_S_OK);
    CHECK_IS(pair.destination->snp->created, 2);
    CHECK(!pair.destination->frozen);
    end();
}

/* ---- the map -------------------------------------------------------------- */

static struct cpc_snp_extent *extent(uint32_t number)
{
    return &host_hints(pair.source)->extent[number];
}

static void open_with(uint32_t status)
{
    CHECK_IS(call(pair.source, CPC_OP_OPEN, CPC_ROLE_SOURCE, ALL, NULL, 0).status, status);
    end();
}

/* Extents 0 and 1 are RAM, 2 is video RAM; region 2 is indirect. */
#define MAP_LIE(name, change)                                                \
    static void name(void)                                                   \
    {                                                                        \
        begin();                                                             \
        change;                                                              \
        open_with(CPC_S_BOOT_INFO);                                          \
    }
MAP_LIE(map_too_many, host_hints(pair.source)->extents = 65)
MAP_LIE(map_no_pages, extent(0)->pages = 0)
MAP_LIE(map_unaligned, extent(0)->gpa = 8)
MAP_LIE(map_same_gpa, extent(1)->gpa = extent(0)->gpa)
MAP_LIE(map_gpa_overlaps, extent(1)->gpa = 1599 * CPC_PAGE_SIZE)
MAP_LIE(map_flat_overlaps, extent(1)->first_page = 1599)
MAP_LIE(map_on_trusted_memory, extent(1)->gpa = CPC_SNP_TRUSTED_GPA)
MAP_LIE(map_into_trusted_memory, extent(1)->gpa = CPC_SNP_TRUSTED_GPA - CPC_PAGE_SIZE)
MAP_LIE(map_on_the_ring, extent(1)->gpa = CPC_SNP_SHM_GPA)
MAP_LIE(map_on_mmio, extent(1)->gpa = CPC_SNP_MMIO_GPA)
MAP_LIE(map_wraps, extent(1)->pages = UINT64_MAX)
MAP_LIE(map_behind_the_region, extent(1)->pages++)
MAP_LIE(map_before_the_region, extent(2)->first_page--)
MAP_LIE(map_of_an_indirect_region,
        host_hints(pair.source)->table.region[1].flags |= CPC_REGION_INDIRECT)
MAP_LIE(map_of_no_region, host_hints(pair.source)->table.region[1].flags = 0)
MAP_LIE(map_without_the_launch, extent(0)->pages = MODEL_LAUNCH_ALONE)

/* A table that changes while it is copied is a table that makes no sense, or
   one of another generation. Whatever it is, a page stays where it was. */
static void a_page_cannot_move(void)
{
    begin();
    CHECK_IS(call(pair.source, CPC_OP_OPEN, CPC_ROLE_SOURCE, ALL, NULL, 0).status, CPC_S_OK);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    extent(1)->gpa += CPC_PAGE_SIZE;
    open_with(CPC_S_BOOT_INFO);
}

static void the_map_may_grow(void)
{
    begin();
    extent(1)->pages -= 100;
    CHECK_IS(call(pair.source, CPC_OP_OPEN, CPC_ROLE_SOURCE, ALL, NULL, 0).status, CPC_S_OK);
    CHECK_IS(call(pair.source, CPC_OP_RESUME, 0, 0, NULL, 0).status, CPC_S_OK);
    extent(1)->pages += 100;
    open_with(CPC_S_OK);
}

/* Both hosts are asked where the guest's pages are; they must say the same. */
static void another_map_at_the_destination_is_refused(void)
{
    begin();
    host_hints(pair.destination)->extent[2].gpa += CPC_PAGE_SIZE;
    struct proofs proofs = pair_accept(&pair, ALL);
    CHECK_IS(confirm(pair.source, &proofs.destination).status, CPC_S_CONFIRMATION);
    CHECK_IS(confirm(pair.destination, &proofs.source).status, CPC_S_CONFIRMATION);
    end();
}

#define T(name) { #name, name }
static const struct test tests[] = {
    T(freeze_fails_while_a_gvcpu_runs), T(a_frozen_gvcpu_has_no_save_area),
    T(a_save_area_in_guest_memory_moves), T(a_save_area_in_guest_memory_resumes),
    T(a_gvcpu_that_waits_for_init_waits_on), T(a_left_save_area_is_believed),
    T(a_gvcpu_that_runs_from_its_own_page_is_not_frozen_elsewhere),
    T(a_page_that_looks_like_a_save_area_is_none), T(the_copy_of_a_save_area_is_none),
    T(a_save_area_that_travelled_as_a_page_is_none),
    T(a_processor_without_rmpquery_freezes_nothing),
    T(save_areas_that_cannot_be), T(a_hidden_gvcpu_is_missed),
    T(a_gvcpu_that_is_not_created_can_be_tried_again),
    T(map_too_many), T(map_no_pages), T(map_unaligned), T(map_same_gpa),
    T(map_gpa_overlaps), T(map_flat_overlaps), T(map_on_trusted_memory),
    T(map_into_trusted_memory), T(map_on_the_ring), T(map_on_mmio), T(map_wraps),
    T(map_behind_the_region), T(map_before_the_region), T(map_of_an_indirect_region),
    T(map_of_no_region), T(map_without_the_launch), T(a_page_cannot_move), T(the_map_may_grow),
    T(another_map_at_the_destination_is_refused),
};
TEST_MAIN(tests)
