/* SPDX-License-Identifier: Apache-2.0 */
/* The model's memory: two windows, the reverse map, the instructions. */
#include "snp_machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snp/vmsa.h"

/* A larger region is RAM and goes on above 4 GiB behind this many pages. Where
   the others are follows from their size: both ends agree in any order. */
#define LOW_PAGES   1600u
#define HIGH_GPA    0x100000000ull
#define OTHER_GPA   0xf0000000ull
#define OTHER_STEP  0x00100000ull

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        abort();
    }
}

static uint32_t region_of(const struct host_machine *machine, uint32_t flat)
{
    uint32_t r = machine->table.count - 1;

    while (r > 0 && machine->table.region[r].first_page > flat) {
        r--;
    }
    return r;
}

static uint64_t other_gpa(const struct cpc_region *region)
{
    return OTHER_GPA + region->pages % 256 * OTHER_STEP;
}

uint64_t host_page_gpa(const struct host_machine *machine, uint32_t flat)
{
    const struct cpc_region *region = &machine->table.region[region_of(machine, flat)];
    uint64_t page = flat - region->first_page;

    if (region->pages <= LOW_PAGES) {
        return other_gpa(region) + page * CPC_PAGE_SIZE;
    }
    return page < LOW_PAGES ? page * CPC_PAGE_SIZE
                            : HIGH_GPA + (page - LOW_PAGES) * CPC_PAGE_SIZE;
}

static uint32_t page_of_gpa(const struct host_machine *machine, uint64_t gpa)
{
    for (uint32_t r = 0; r < machine->table.count; r++) {
        const struct cpc_region *region = &machine->table.region[r];
        uint64_t page = (gpa - other_gpa(region)) / CPC_PAGE_SIZE;
        if (region->pages > LOW_PAGES) {
            page = gpa < HIGH_GPA ? gpa / CPC_PAGE_SIZE
                                  : LOW_PAGES + (gpa - HIGH_GPA) / CPC_PAGE_SIZE;
            page = gpa < HIGH_GPA && page >= LOW_PAGES ? UINT64_MAX : page;
        }
        if (page < region->pages && !memory_indirect(region)) {
            return (uint32_t)(region->first_page + page);
        }
    }
    return MODEL_UNMAPPED;
}

struct cpc_snp_hints *host_hints(struct host_machine *machine)
{
    return (struct cpc_snp_hints *)(void *)(machine->shm + CPC_SHM_HINTS);
}

uint64_t host_trusted_gpa(const struct host_machine *machine, const void *trusted)
{
    return machine->boot.trusted_gpa +
           (uint64_t)((const uint8_t *)trusted - machine->trusted);
}

struct snp *snp_state(void)
{
    return &host_machine->snp->state;
}

static void add_extent(struct cpc_snp_hints *hints, const struct host_machine *machine,
                       uint64_t flat, uint64_t pages)
{
    hints->extent[hints->extents++] = (struct cpc_snp_extent){
        .gpa = host_page_gpa(machine, (uint32_t)flat), .first_page = flat, .pages = pages,
    };
}

static void write_hints(struct host_machine *machine, bool incoming)
{
    struct cpc_snp_hints *hints = host_hints(machine);

    hints->incoming = incoming;
    hints->table = machine->table;
    for (uint32_t r = 0; r < machine->table.count; r++) {
        const struct cpc_region *region = &machine->table.region[r];
        hints->table.region[r].window = 0;
        if (memory_indirect(region)) {
            continue;
        }
        uint64_t low = region->pages > LOW_PAGES ? LOW_PAGES : region->pages;
        add_extent(hints, machine, region->first_page, low);
        if (low < region->pages) {
            add_extent(hints, machine, region->first_page + low, region->pages - low);
        }
    }
}

static void add_range(struct host_machine *machine, uint64_t flat, uint64_t pages,
                      bool incoming)
{
    machine->boot.launch[machine->boot.launch_ranges++] = (struct cpc_snp_range){
        .gpa = host_page_gpa(machine, (uint32_t)flat), .pages = pages,
    };
    /* Elsewhere the guest has it by now, and what it is follows from that. */
    for (uint64_t p = flat; p < flat + pages && incoming; p++) {
        uint32_t r = region_of(machine, (uint32_t)p);
        uint64_t page = p - machine->table.region[r].first_page;
        memset(machine->region[r].memory + page * CPC_PAGE_SIZE, 0x1a, CPC_PAGE_SIZE);
        host_rmp_set(machine, (uint32_t)p, true, true);
    }
}

static void launch(struct host_machine *machine, bool incoming)
{
    for (uint32_t r = 0; r < machine->table.count; r++) {
        const struct cpc_region *region = &machine->table.region[r];
        if (region->pages > LOW_PAGES && !memory_indirect(region)) {
            add_range(machine, region->first_page + MODEL_LAUNCH, MODEL_LAUNCH_PAGES,
                      incoming);
            add_range(machine, region->first_page + MODEL_LAUNCH_ALONE, 1, incoming);
        }
    }
}

void host_snp_new(struct host_machine *machine, bool incoming)
{
    struct cpc_boot_info *boot = &machine->boot;
    struct snp_machine *snp = calloc(1, sizeof(*snp));

    must(snp != NULL && boot->max_pages <= MODEL_PAGES, "model");
    machine->snp = snp;
    pthread_mutex_init(&snp->lock, NULL);
    memset(snp->page_at, 0xff, sizeof(snp->page_at));
    memset(snp->window_of, 0xff, sizeof(snp->window_of));
    for (uint32_t i = 0; i < 2; i++) {
        snp->window[i] = mmap(NULL, boot->max_pages * CPC_PAGE_SIZE, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        must(snp->window[i] != MAP_FAILED, "mmap");
    }
    boot->platform = CPC_PLATFORM_SEV_SNP;
    boot->incoming = 0;
    boot->trusted_gpa = CPC_SNP_TRUSTED_GPA;
    boot->shm_gpa = CPC_SNP_SHM_GPA;
    boot->mmio_gpa = CPC_SNP_MMIO_GPA;
    boot->c_bit = 1ull << 51;
    boot->ap_reset = MODEL_AP_RESET;
    for (uint32_t i = 0; i < CPC_GVCPU_LIMIT; i++) {
        snp->trusted[i] = (struct rmp_entry){ .private = true, .validated = true };
    }
    write_hints(machine, incoming);
    launch(machine, incoming);
}

void host_snp_started(struct host_machine *machine)
{
    struct snp_machine *snp = machine->snp;

    for (uint32_t i = 0; i < machine->boot.gvcpu_max && !snp->state.incoming; i++) {
        uint8_t *page = machine->vmsa + (uint64_t)i * CPC_VMSA_STRIDE;
        if (snp->ap_vmsa[i] == 0) {
            continue;
        }
        memset(page + CPC_PAGE_SIZE / 2, (int)(i + 1), HOST_VMSA_BYTES);
        memset(machine->gvcpu[i], (int)(i + 1), HOST_VMSA_BYTES);
        snp->gvcpu_vmsa[i] = host_trusted_gpa(machine, page);
        snp->trusted[i].vmsa = true;
        snp->trusted[i].in_use = true;
        snp->waits[i] = false;
    }
}

void host_snp_free(struct host_machine *machine)
{
    for (uint32_t i = 0; i < 2; i++) {
        munmap(machine->snp->window[i], machine->boot.max_pages * CPC_PAGE_SIZE);
    }
    pthread_mutex_destroy(&machine->snp->lock);
    free(machine->snp);
}

/* ---- windows -------------------------------------------------------------- */

uint8_t *arch_window(bool private)
{
    return host_machine->snp->window[private];
}

static void protect(const struct host_machine *machine, uint32_t flat)
{
    const struct snp_machine *snp = machine->snp;
    const struct rmp_entry *e = &snp->rmp[flat];
    uint32_t at = snp->window_of[flat];

    if (at == MODEL_UNMAPPED) {
        return;
    }
    for (uint32_t i = 0; i < 2; i++) {
        bool open = i == 1 ? e->private && e->validated : !e->private;
        mprotect(snp->window[i] + (uint64_t)at * CPC_PAGE_SIZE, CPC_PAGE_SIZE,
                 open ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
}

bool arch_map(uint64_t gpa, uint64_t first, uint64_t pages)
{
    struct host_machine *machine = host_machine;
    struct snp_machine *snp = machine->snp;

    for (uint64_t i = 0; i < pages; i++) {
        uint32_t flat = page_of_gpa(machine, gpa + i * CPC_PAGE_SIZE);
        if (flat == MODEL_UNMAPPED) {
            continue;            /* no RAM there: stays inaccessible */
        }
        if (snp->page_at[first + i] == flat && snp->window_of[flat] == first + i) {
            continue;
        }
        uint32_t r = region_of(machine, flat);
        int64_t offset = (int64_t)((flat - machine->table.region[r].first_page) *
                                   CPC_PAGE_SIZE);
        for (uint32_t w = 0; w < 2; w++) {
            must(mmap(snp->window[w] + (first + i) * CPC_PAGE_SIZE, CPC_PAGE_SIZE,
                      PROT_NONE, MAP_SHARED | MAP_FIXED, machine->region[r].fd,
                      offset) != MAP_FAILED, "mmap");
        }
        snp->page_at[first + i] = flat;
        snp->window_of[flat] = (uint32_t)(first + i);
        protect(machine, flat);
    }
    return true;
}

/* The guest page behind an address in the private window. */
static uint32_t page_in_window(const struct host_machine *machine, const void *address)
{
    uint64_t offset = (uint64_t)((const uint8_t *)address - machine->snp->window[1]);

    return offset < machine->boot.max_pages * CPC_PAGE_SIZE
               ? machine->snp->page_at[offset / CPC_PAGE_SIZE]
               : MODEL_UNMAPPED;
}

void host_snp_fault(struct host_machine *machine, struct arch_fault *fault)
{
    if (machine->snp == NULL) {
        return;
    }
    uint32_t flat = page_in_window(machine, (const void *)(uintptr_t)fault->address);
    if (flat != MODEL_UNMAPPED) {
        fault->vector = VECTOR_VC;
        fault->code = VC_NOT_VALIDATED;
        fault->address = 0;
    }
}

bool host_snp_injects(struct host_machine *machine, struct arch_fault *fault)
{
    if (machine == NULL || machine->snp == NULL || machine->snp->injects == 0) {
        return false;
    }
    machine->snp->injects--;
    *fault = (struct arch_fault){ .vector = VECTOR_VC, .code = VC_NOT_VALIDATED };
    return true;
}

static void set(struct host_machine *machine, uint32_t flat, bool private, bool validated)
{
    struct rmp_entry *e = &machine->snp->rmp[flat];
    uint32_t r = region_of(machine, flat);

    if (e->private == private && e->validated == validated) {
        return;
    }
    e->private = private;
    e->validated = validated;
    e->vmsa = e->vmsa && validated;
    machine->region[r].shared[flat - machine->table.region[r].first_page] = !private;
    protect(machine, flat);
}

void host_rmp_set(struct host_machine *machine, uint32_t flat, bool private,
                  bool validated)
{
    pthread_mutex_lock(&machine->snp->lock);
    set(machine, flat, private, validated);
    pthread_mutex_unlock(&machine->snp->lock);
}

void host_snp_follow(struct host_machine *machine, uint32_t flat, uint32_t pages)
{
    uint32_t r = region_of(machine, flat);
    const struct host_region *region = &machine->region[r];
    uint64_t first = machine->table.region[r].first_page;

    pthread_mutex_lock(&machine->snp->lock);
    for (uint32_t p = flat; p < flat + pages; p++) {
        int64_t at = (int64_t)((p - first) * CPC_PAGE_SIZE);
        bool hole = lseek(region->fd, at, SEEK_DATA) != at;
        bool private = !hole && !region->shared[p - first];
        if (!machine->snp->rmp[p].held && !memory_indirect(&machine->table.region[r])) {
            uint8_t shared = region->shared[p - first];
            set(machine, p, private, private);
            region->shared[p - first] = shared;
        }
    }
    pthread_mutex_unlock(&machine->snp->lock);
}

/* ---- instructions --------------------------------------------------------- */

/* The reverse map's entry of an operand; an address with none is a test's
   mistake or the firmware's. */
static struct rmp_entry *operand(const void *page)
{
    struct snp_machine *snp = host_machine->snp;
    uint64_t offset = (uint64_t)((const uint8_t *)page - host_machine->vmsa);
    uint32_t flat = page_in_window(host_machine, page);

    if (offset < (uint64_t)host_machine->boot.gvcpu_max * CPC_VMSA_STRIDE &&
        offset % CPC_VMSA_STRIDE == 0) {
        return &snp->trusted[offset / CPC_VMSA_STRIDE];
    }
    must(flat != MODEL_UNMAPPED && (uintptr_t)page % CPC_PAGE_SIZE == 0, "operand");
    return &snp->rmp[flat];
}

uint32_t insn_pvalidate(void *page, bool validate, bool *changed)
{
    struct snp_machine *snp = host_machine->snp;
    struct rmp_entry *e = operand(page);

    *changed = false;
    if (snp->pvalidate_code != 0) {
        return snp->pvalidate_code;
    }
    pthread_mutex_lock(&snp->lock);
    if (e->in_use) {
        pthread_mutex_unlock(&snp->lock);
        return 3;
    }
    if (e->validated != validate && !snp->pvalidate_unchanged) {
        *changed = true;
        e->validations += validate;
        e->rescinded += !validate;
        /* the host assigns a page after the nested page fault */
        set(host_machine, (uint32_t)(e - snp->rmp), true, validate);
    }
    pthread_mutex_unlock(&snp->lock);
    return 0;
}

static void must_be_validated(const struct rmp_entry *e, void *page)
{
    if (!e->validated) {
        *(volatile uint8_t *)page = 0;               /* #VC */
    }
}

uint32_t insn_rmpquery(void *page, uint64_t *attributes)
{
    const struct rmp_entry *e = operand(page);

    if (host_machine->snp->no_rmpquery) {
        __asm__ volatile("ud2");
    }
    must_be_validated(e, page);
    must(*attributes == 1, "target VMPL");
    *attributes |= e->vmsa ? RMPADJUST_VMSA : 0;
    return 0;
}

uint32_t insn_rmpadjust(void *page, uint64_t attributes)
{
    struct rmp_entry *e = operand(page);

    must_be_validated(e, page);
    must((attributes & 0xff) == 1, "target VMPL");
    if (e->in_use) {
        return 3;
    }
    e->vmsa = (attributes & RMPADJUST_VMSA) != 0;
    return 0;
}
