/* SPDX-License-Identifier: Apache-2.0 */
/* Two machines and a guest between them. */
#include "driver.h"

#include <fcntl.h>
#include <unistd.h>

#include "snp_machine.h"

/* RAM of five blocks of 512 pages and a rest, video RAM, and a ROM. */
const struct host_layout standard_layout = {
    .hvcpus = 2,
    .gvcpus = 2,
    .gvcpu_max = 4,
    .ring_size = CPC_RING_MIN,
    .regions = 3,
    .region = {
        { "pc.ram", 2600, 0 },
        { "vga.vram", 100, 0 },
        { "pc.bios", 64, CPC_REGION_INDIRECT },
    },
};

struct pair pair_new(const struct host_layout *source,
                     const struct host_layout *destination)
{
    struct host_layout a = source != NULL ? *source : standard_layout;
    struct host_layout b = destination != NULL ? *destination : standard_layout;
    struct pair pair;

    b.incoming = true;
    pair.source = host_machine_new(&a);
    pair.destination = host_machine_new(&b);
    host_machine_start(pair.source);
    host_machine_start(pair.destination);
    CHECK_IS(pair.source->init_status, CPC_S_OK);
    CHECK_IS(pair.destination->init_status, CPC_S_OK);
    return pair;
}

void pair_free(struct pair *pair)
{
    host_machine_free(pair->source);
    host_machine_free(pair->destination);
}

struct proofs pair_accept(struct pair *pair, uint32_t suites)
{
    struct host_machine *s = pair->source;
    struct host_machine *d = pair->destination;
    struct answer hello_s = call(s, CPC_OP_OPEN, CPC_ROLE_SOURCE, suites, NULL, 0);
    struct answer hello_d = call(d, CPC_OP_OPEN, CPC_ROLE_DESTINATION, suites, NULL, 0);
    CHECK_IS(hello_s.status, CPC_S_OK);
    CHECK_IS(hello_d.status, CPC_S_OK);
    CHECK_IS(hello_s.size, sizeof(struct cpc_hello));
    struct proofs proofs = {
        .source = call(s, CPC_OP_ACCEPT, 0, 0, hello_d.payload, hello_d.size),
        .destination = call(d, CPC_OP_ACCEPT, 0, 0, hello_s.payload, hello_s.size),
    };
    CHECK_IS(proofs.source.status, CPC_S_OK);
    CHECK_IS(proofs.destination.status, CPC_S_OK);
    CHECK_IS(proofs.source.size, 32);
    return proofs;
}

struct answer confirm(struct host_machine *machine, const struct answer *proof)
{
    return call(machine, CPC_OP_CONFIRM, 0, 0, proof->payload, 32);
}

void pair_open(struct pair *pair, uint32_t suites)
{
    struct proofs proofs = pair_accept(pair, suites);

    CHECK_IS(confirm(pair->source, &proofs.destination).status, CPC_S_OK);
    CHECK_IS(confirm(pair->destination, &proofs.source).status, CPC_S_OK);
}

static uint64_t mix(uint64_t value)
{
    value ^= value >> 33;
    value *= 0xff51afd7ed558ccdull;
    value ^= value >> 33;
    return value * 0xc4ceb9fe1a85ec53ull;
}

void mark_dirty(struct host_machine *machine, uint32_t region, uint64_t page)
{
    uint64_t flat = machine->table.region[region].first_page + page;
    uint64_t *bitmap = (void *)(machine->shm + machine->boot.bitmap_offset);
    __atomic_or_fetch(&bitmap[flat / 64], 1ull << (flat % 64), __ATOMIC_SEQ_CST);
}

void touch_page(struct host_machine *machine, uint32_t region, uint64_t page,
                uint64_t value)
{
    uint64_t *words = (void *)(machine->region[region].memory + page * CPC_PAGE_SIZE);
    for (uint32_t i = 0; i < CPC_PAGE_SIZE / 8; i++) {
        words[i] = value == 0 ? 0 : mix(value + i);
    }
    mark_dirty(machine, region, page);
}

void fill_guest(struct host_machine *machine, uint32_t seed)
{
    for (uint32_t r = 0; r < machine->table.count; r++) {
        for (uint64_t p = 0; p < machine->table.region[r].pages; p++) {
            uint64_t luck = mix(seed + r * 1000003 + p / 24) % 8;
            if (luck < 3) {
                touch_page(machine, r, p, (seed + r + 1) * 4099 + p);
            } else if (luck < 5) {
                touch_page(machine, r, p, 0);
            }                       /* else stays a hole */
            machine->region[r].shared[p] = luck == 0 && p % 24 > 20;
        }
    }
}

struct answer send_round(struct host_machine *machine, uint32_t stream,
                         uint32_t streams, uint32_t round, uint64_t flags,
                         struct wire *wire)
{
    uint64_t arg[6] = { stream, streams, round, flags };
    return export_call(machine, 0, CPC_OP_SEND, arg, wire);
}

static void set_devices(struct host_machine *machine, uint8_t byte)
{
    memset(machine->device_digest, byte, sizeof(machine->device_digest));
    machine->device_known = true;
}

void save_devices(struct host_machine *machine, uint8_t byte)
{
    set_devices(machine, byte);
    machine->disks_active = false;
}

void load_devices(struct host_machine *machine, uint8_t byte)
{
    set_devices(machine, byte);
    machine->disks_active = true;
}

void finish_source(struct pair *pair, uint32_t round, struct wire *wire)
{
    uint64_t arg[6] = { 1 };

    CHECK_IS(call(pair->source, CPC_OP_FREEZE, 0, 0, NULL, 0).status, CPC_S_OK);
    save_devices(pair->source, 0xd5);
    CHECK_IS(send_round(pair->source, 0, 1, round, CPC_SEND_FINAL, wire).status,
             CPC_S_OK);
    CHECK_IS(export_call(pair->source, 0, CPC_OP_STATE, arg, wire).status, CPC_S_OK);
}

void make_wire(struct pair *pair, struct wire *wire)
{
    fill_guest(pair->source, 7);
    CHECK_IS(send_round(pair->source, 0, 1, 1, CPC_SEND_FULL, wire).status, CPC_S_OK);
    for (uint64_t page = 100; page < 140; page++) {
        touch_page(pair->source, 0, page, page % 4 == 0 ? 0 : 31 * page);
    }
    finish_source(pair, 2, wire);
}

struct cpc_region_table *table_of(struct host_machine *machine)
{
    return machine->snp == NULL ? &machine->table : &host_hints(machine)->table;
}

bool same_memory(const struct pair *pair)
{
    for (uint32_t r = 0; r < pair->source->table.count; r++) {
        if (memcmp(pair->source->region[r].memory, pair->destination->region[r].memory,
                   pair->source->table.region[r].pages * CPC_PAGE_SIZE) != 0) {
            return false;
        }
    }
    return true;
}

uint64_t resident_pages(struct host_machine *machine, uint32_t region)
{
    int fd = machine->region[region].fd;
    int64_t end = (int64_t)(machine->table.region[region].pages * CPC_PAGE_SIZE);
    uint64_t bytes = 0;
    int64_t at = 0;

    while (at < end) {
        int64_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0) {
            break;
        }
        int64_t hole = lseek(fd, data, SEEK_HOLE);
        bytes += (uint64_t)(hole - data);
        at = hole;
    }
    return bytes / CPC_PAGE_SIZE;
}

struct migrate_session *session_of(struct host_machine *machine)
{
    host_machine = machine;
    struct migrate *migrate = runtime_get()->module_state[CPC_MODULE_MIGRATE];
    return &migrate->session;
}

struct cpc_session_info query(struct host_machine *machine)
{
    struct cpc_session_info info;
    struct answer answer = call(machine, CPC_OP_QUERY, 0, 0, NULL, 0);
    CHECK_IS(answer.status, CPC_S_OK);
    CHECK_IS(answer.size, sizeof(info));
    memcpy(&info, answer.payload, sizeof(info));
    return info;
}
