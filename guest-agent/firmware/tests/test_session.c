/* SPDX-License-Identifier: Apache-2.0 */
/* Handshakes and what they refuse: hellos, maps of memory, boot information. */
#include "driver.h"
#include "firmware.h"

#define ALL 0x1eu

static struct pair pair;

static struct answer open_as(struct host_machine *machine, uint32_t role, uint32_t suites)
{
    return call(machine, CPC_OP_OPEN, role, suites, NULL, 0);
}

static void open_refusals(void)
{
    pair = pair_new(NULL, NULL);
    CHECK_IS(open_as(pair.source, 0, ALL).status, CPC_S_BAD_ARGUMENT);
    CHECK_IS(open_as(pair.source, 3, ALL).status, CPC_S_BAD_ARGUMENT);
    CHECK_IS(open_as(pair.source, 1, 0).status, CPC_S_BAD_ARGUMENT);
    CHECK_IS(open_as(pair.source, 1, 0x20).status, CPC_S_BAD_ARGUMENT);
    CHECK_IS(open_as(pair.source, 2, ALL).status, CPC_S_WRONG_PHASE);
    CHECK_IS(open_as(pair.destination, 1, ALL).status, CPC_S_WRONG_PHASE);
    CHECK_IS(open_as(pair.source, 1, ALL).status, CPC_S_OK);
    CHECK_IS(open_as(pair.source, 1, ALL).status, CPC_S_SESSION_EXISTS);
    CHECK_IS(open_as(pair.destination, 2, ALL).status, CPC_S_OK);
    CHECK_IS(open_as(pair.destination, 2, ALL).status, CPC_S_SESSION_EXISTS);
    CHECK_IS(call(pair.source, CPC_OP_RECV, 0, 0, NULL, 0).status, CPC_S_WRONG_ROLE);
    CHECK_IS(call(pair.destination, CPC_OP_SEND, 0, 1, NULL, 0).status, CPC_S_WRONG_ROLE);
    CHECK_IS(call(pair.source, CPC_OP_SEND, 16, 1, NULL, 0).status, CPC_S_BAD_ARGUMENT);
    CHECK_IS(call(pair.source, CPC_OP_SEND, 0, 1, NULL, 0).status, CPC_S_WRONG_PHASE);
    pair_free(&pair);
}

static void no_suite_here(void)
{
    pair = pair_new(NULL, NULL);
    host_machine = pair.source;
    runtime_get()->suites = CPC_SUITE_BIT(CPC_SUITE_AES256GCM);
    CHECK_IS(open_as(pair.source, 1, CPC_SUITE_BIT(CPC_SUITE_AEGIS128L)).status,
             CPC_S_NO_SUITE);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_NONE);
    pair_free(&pair);
}

static void no_entropy(void)
{
    pair = pair_new(NULL, NULL);
    pair.source->no_entropy = true;
    CHECK_IS(open_as(pair.source, 1, ALL).status, CPC_S_NO_ENTROPY);
    pair.source->no_entropy = false;
    CHECK_IS(open_as(pair.source, 1, ALL).status, CPC_S_OK);
    pair_free(&pair);
}

/* The destination gets the source's hello with one thing changed. */
static struct cpc_hello hello;

static void with_hello(uint32_t status, uint32_t phase)
{
    CHECK_IS(call(pair.destination, CPC_OP_ACCEPT, 0, 0, &hello, sizeof(hello)).status,
             status);
    CHECK_IS(query(pair.destination).phase, phase);
    pair_free(&pair);
}

static void begin_hello(void)
{
    pair = pair_new(NULL, NULL);
    CHECK_IS(open_as(pair.destination, 2, ALL).status, CPC_S_OK);
    struct answer answer = open_as(pair.source, 1, ALL);
    CHECK_IS(answer.status, CPC_S_OK);
    memcpy(&hello, answer.payload, sizeof(hello));
}

#define HELLO(name, change, status, phase)                                   \
    static void name(void)                                                   \
    {                                                                        \
        begin_hello();                                                       \
        change;                                                              \
        with_hello(status, phase);                                           \
    }
#define FAILED CPC_PHASE_FAILED
#define OPEN CPC_PHASE_OPEN

HELLO(hello_magic, hello.magic++, CPC_S_BAD_PAYLOAD, OPEN)
HELLO(hello_wire, hello.wire++, CPC_S_PEER_WIRE, FAILED)
HELLO(hello_pad, hello.pad[2] = 1, CPC_S_BAD_PAYLOAD, OPEN)
HELLO(hello_role, hello.role = CPC_ROLE_DESTINATION, CPC_S_WRONG_ROLE, OPEN)
HELLO(hello_role_wild, hello.role = 77, CPC_S_WRONG_ROLE, OPEN)
HELLO(hello_platform, hello.platform ^= CPC_PLATFORM_PLAIN ^ CPC_PLATFORM_SEV_SNP, CPC_S_PEER_PLATFORM, FAILED)
HELLO(hello_gvcpus, hello.gvcpus++, CPC_S_PEER_GVCPUS, FAILED)
HELLO(hello_suites, hello.suites = 0, CPC_S_NO_SUITE, FAILED)
HELLO(hello_region_count, hello.regions = 33, CPC_S_BAD_PAYLOAD, OPEN)
HELLO(hello_region_hidden, hello.regions--, CPC_S_BAD_PAYLOAD, OPEN)
HELLO(hello_region_missing, memset(&hello.region[2], 0, sizeof(hello.region[2])),
      CPC_S_PEER_REGIONS, FAILED)
HELLO(hello_region_size, hello.region[0].pages++, CPC_S_PEER_REGIONS, FAILED)
HELLO(hello_region_name, hello.region[1].name[0]++, CPC_S_PEER_REGIONS, FAILED)
HELLO(hello_region_twice, hello.region[1] = hello.region[0], CPC_S_PEER_REGIONS, FAILED)
HELLO(hello_region_ghost, (hello.regions = 4, hello.region[3].pages = 5),
      CPC_S_PEER_REGIONS, FAILED)
HELLO(hello_low_order_key, memset(hello.x25519, 0, 32), CPC_S_PEER_KEY, FAILED)
HELLO(hello_signer, hello.signer[0] = 2, CPC_S_PEER_KEY, FAILED)

static void hello_short(void)
{
    begin_hello();
    CHECK_IS(call(pair.destination, CPC_OP_ACCEPT, 0, 0, &hello, sizeof(hello) - 1).status,
             CPC_S_BAD_PAYLOAD);
    with_hello(CPC_S_OK, CPC_PHASE_ACCEPTED);
}

/* A hello whose order of regions differs is fine: they are matched by name. */
static void regions_are_matched_by_name(void)
{
    struct host_layout layout = standard_layout;
    struct wire wire = { 0 };

    layout.region[0] = standard_layout.region[2];
    layout.region[2] = standard_layout.region[0];
    pair = pair_new(NULL, &layout);
    pair_open(&pair, ALL);
    make_wire(&pair, &wire);
    CHECK_IS(import_call(pair.destination, 0, 0, &wire).status, CPC_S_OK);
    CHECK(memcmp(pair.source->region[0].memory, pair.destination->region[2].memory,
                 2600 * CPC_PAGE_SIZE) == 0);
    CHECK(memcmp(pair.source->region[2].memory, pair.destination->region[0].memory,
                 64 * CPC_PAGE_SIZE) == 0);
    load_devices(pair.destination, 0xd5);
    CHECK_IS(call(pair.destination, CPC_OP_PREPARE, 0, 0, NULL, 0).status, CPC_S_OK);
    wire_free(&wire);
    pair_free(&pair);
}

/* A host that changes one bit of a hello on its way ends up with other keys. */
static void someone_in_between(void)
{
    pair = pair_new(NULL, NULL);
    struct answer hello_s = open_as(pair.source, 1, ALL);
    struct answer hello_d = open_as(pair.destination, 2, ALL);
    struct cpc_hello *changed = (void *)hello_s.payload;
    changed->nonce[0] ^= 1;
    struct answer proof_s =
        call(pair.source, CPC_OP_ACCEPT, 0, 0, hello_d.payload, hello_d.size);
    struct answer proof_d =
        call(pair.destination, CPC_OP_ACCEPT, 0, 0, hello_s.payload, hello_s.size);
    CHECK_IS(proof_s.status, CPC_S_OK);
    CHECK_IS(proof_d.status, CPC_S_OK);
    CHECK_IS(call(pair.source, CPC_OP_CONFIRM, 0, 0, proof_d.payload, 31).status,
             CPC_S_BAD_PAYLOAD);
    CHECK_IS(call(pair.source, CPC_OP_CONFIRM, 0, 0, proof_d.payload, 32).status,
             CPC_S_CONFIRMATION);
    CHECK_IS(call(pair.destination, CPC_OP_CONFIRM, 0, 0, proof_s.payload, 32).status,
             CPC_S_CONFIRMATION);
    CHECK_IS(query(pair.source).phase, CPC_PHASE_FAILED);
    CHECK_IS(query(pair.source).failure, CPC_S_CONFIRMATION);
    pair_free(&pair);
}

/* Nobody's own confirmation proves anything to them. */
static void confirmation_reflected(void)
{
    pair = pair_new(NULL, NULL);
    struct answer hello_s = open_as(pair.source, 1, ALL);
    struct answer hello_d = open_as(pair.destination, 2, ALL);
    struct answer proof =
        call(pair.source, CPC_OP_ACCEPT, 0, 0, hello_d.payload, hello_d.size);
    CHECK_IS(proof.status, CPC_S_OK);
    CHECK_IS(hello_s.status, CPC_S_OK);
    CHECK_IS(call(pair.source, CPC_OP_CONFIRM, 0, 0, proof.payload, 32).status,
             CPC_S_CONFIRMATION);
    pair_free(&pair);
}

static void send_arguments(void)
{
    struct wire wire = { 0 };
    static const uint64_t bad[][4] = {
        { 0, 0, 1, 0 }, { 0, 17, 1, 0 }, { 1, 1, 1, 0 }, { 0, 1, 0, 0 },
        { 0, 1, 1u << 30, 0 }, { 0, 1, 1ull << 32, 0 }, { 0, 1, 1, 4 },
    };

    pair = pair_new(NULL, NULL);
    pair_open(&pair, ALL);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        uint64_t arg[6] = { bad[i][0], bad[i][1], bad[i][2], bad[i][3] };
        post(pair.source, 0, CPC_OP_SEND, arg, NULL, 0);
        CHECK_IS(take_answer(pair.source, 0).status, CPC_S_BAD_ARGUMENT);
    }
    CHECK_IS(send_round(pair.source, 0, 1, 5, CPC_SEND_FINAL, &wire).status,
             CPC_S_WRONG_PHASE);
    CHECK_IS(send_round(pair.source, 0, 1, 5, 0, &wire).status, CPC_S_OK);
    CHECK_IS(send_round(pair.source, 0, 1, 5, 0, &wire).status, CPC_S_BAD_ARGUMENT);
    CHECK_IS(send_round(pair.source, 0, 2, 6, 0, &wire).status, CPC_S_BAD_ARGUMENT);
    CHECK_IS(call(pair.source, CPC_OP_FREEZE, 0, 0, NULL, 0).status, CPC_S_OK);
    CHECK_IS(send_round(pair.source, 0, 1, 6, 0, &wire).status, CPC_S_WRONG_PHASE);
    CHECK_IS(send_round(pair.source, 0, 1, 6, CPC_SEND_FINAL, &wire).status, CPC_S_OK);
    CHECK_IS(send_round(pair.source, 0, 1, 7, CPC_SEND_FINAL, &wire).status,
             CPC_S_WRONG_PHASE);
    wire_free(&wire);
    pair_free(&pair);
}

static void memory_map_changes(void)
{
    struct wire wire = { 0 };

    pair = pair_new(NULL, NULL);
    pair_open(&pair, ALL);
    table_of(pair.source)->generation++;
    CHECK_IS(send_round(pair.source, 0, 1, 1, CPC_SEND_FULL, &wire).status,
             CPC_S_PEER_REGIONS);
    wire_free(&wire);
    pair_free(&pair);
}

static void memory_map_makes_no_sense(void)
{
    pair = pair_new(NULL, NULL);
    struct cpc_region_table *table = table_of(pair.source);
    struct cpc_region_table good = *table;

    table->region[1].first_page = 0;
    CHECK_IS(open_as(pair.source, 1, ALL).status, CPC_S_BOOT_INFO);
    *table = good;
    memcpy(table->region[1].name, table->region[0].name, CPC_REGION_NAME);
    CHECK_IS(open_as(pair.source, 1, ALL).status, CPC_S_BOOT_INFO);
    *table = good;
    memset(table->region[1].name, 'x', CPC_REGION_NAME);
    CHECK_IS(open_as(pair.source, 1, ALL).status, CPC_S_BOOT_INFO);
    *table = good;
    table->count = 33;
    CHECK_IS(open_as(pair.source, 1, ALL).status, CPC_S_BOOT_INFO);
    *table = good;
    table->region[0].pages = 1ull << 40;
    CHECK_IS(open_as(pair.source, 1, ALL).status, CPC_S_TOO_LARGE);
    *table = good;
    CHECK_IS(open_as(pair.source, 1, ALL).status, CPC_S_OK);
    pair_free(&pair);
}

static uint32_t init_with(struct host_machine *machine)
{
    host_machine = machine;
    return firmware_init();
}

static void boot_info_is_checked(void)
{
    struct host_machine *machine = host_machine_new(&standard_layout);
    struct cpc_boot_info good = machine->boot;

    machine->boot.magic = 0;
    CHECK_IS(init_with(machine), CPC_S_BOOT_INFO);
    machine->boot = good;
    machine->boot.abi = CPC_ABI_VERSION + 1;
    CHECK_IS(init_with(machine), CPC_S_BOOT_INFO);
    machine->boot = good;
    machine->boot.ring_size += 64;
    CHECK_IS(init_with(machine), CPC_S_BOOT_INFO);
    machine->boot = good;
    machine->boot.hvcpu_max = 17;
    CHECK_IS(init_with(machine), CPC_S_BOOT_INFO);
    machine->boot = good;
    machine->boot.launch_ranges = CPC_SNP_LAUNCH + 1;
    CHECK_IS(init_with(machine), CPC_S_BOOT_INFO);
    machine->boot = good;
    machine->boot.trusted_gpa = CPC_SNP_TRUSTED_GPA;
    machine->boot.launch_ranges = 1;
    machine->boot.launch[0] = (struct cpc_snp_range){ CPC_PAGE_SIZE, UINT64_MAX };
    CHECK_IS(init_with(machine), CPC_S_BOOT_INFO);
    machine->boot = good;
    machine->boot.max_pages = 1ull << 35;
    CHECK_IS(init_with(machine), CPC_S_BOOT_INFO);
    machine->boot = good;
    machine->boot.trusted_size -= 4 * good.max_pages + 0x400000;
    CHECK_IS(init_with(machine), CPC_S_TOO_LARGE);
    machine->boot = good;
    host_machine_free(machine);
}

#define T(name) { #name, name }
static const struct test tests[] = {
    T(open_refusals), T(no_suite_here), T(no_entropy), T(hello_magic), T(hello_wire),
    T(hello_pad), T(hello_role), T(hello_role_wild), T(hello_platform),
    T(hello_gvcpus), T(hello_suites), T(hello_region_count), T(hello_region_hidden),
    T(hello_region_missing), T(hello_region_size), T(hello_region_name),
    T(hello_region_twice), T(hello_region_ghost), T(hello_low_order_key),
    T(hello_signer), T(hello_short), T(regions_are_matched_by_name),
    T(someone_in_between), T(confirmation_reflected), T(send_arguments),
    T(memory_map_changes), T(memory_map_makes_no_sense), T(boot_info_is_checked),
};
TEST_MAIN(tests)
