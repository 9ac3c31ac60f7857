/* SPDX-License-Identifier: Apache-2.0 */
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch.h"
#include "firmware.h"
#include "platform.h"
#include "runtime.h"
#include "snp_machine.h"

_Thread_local struct host_machine *host_machine;
_Thread_local uint32_t host_hvcpu;
bool host_all_snp;

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        abort();
    }
}

static void *map(int fd, size_t size, int64_t offset, void *at)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
                       : MAP_SHARED | MAP_NORESERVE;
    void *memory = mmap(at, size, PROT_READ | PROT_WRITE,
                        flags | (at != NULL ? MAP_FIXED : 0), fd, offset);
    must(memory != MAP_FAILED, "mmap");
    return memory;
}

static int memory_file(const char *name, uint64_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    must(fd >= 0 && ftruncate(fd, (int64_t)size) == 0, "memfd");
    return fd;
}

static void make_shm(struct host_machine *machine, int file, uint64_t max_pages)
{
    struct cpc_boot_info *boot = &machine->boot;
    uint64_t ring = boot->ring_size;

    boot->bitmap_offset = CPC_SHM_BITMAP;
    machine->data_offset = (CPC_SHM_BITMAP + max_pages / 8 + CPC_SHM_ALIGN - 1) &
                           ~(uint64_t)(CPC_SHM_ALIGN - 1);
    boot->shm_size = machine->data_offset + boot->hvcpu_max * ring;
    machine->shm_fd = file != 0 ? file : memory_file("cpc-ring", boot->shm_size);
    machine->shm = map(machine->shm_fd, boot->shm_size, 0, NULL);
    for (uint32_t i = 0; i < boot->hvcpu_max; i++) {
        int64_t offset = (int64_t)(machine->data_offset + i * ring);
        machine->ring[i] = map(-1, 2 * ring, 0, NULL);
        map(machine->shm_fd, ring, offset, machine->ring[i]);
        map(machine->shm_fd, ring, offset, machine->ring[i] + ring);
    }
}

static uint64_t make_regions(struct host_machine *machine,
                             const struct host_layout *layout)
{
    uint64_t flat = 0;

    machine->table.generation = 1;
    machine->table.count = layout->regions;
    for (uint32_t i = 0; i < layout->regions; i++) {
        struct cpc_region *region = &machine->table.region[i];
        struct host_region *host = &machine->region[i];
        uint64_t size = layout->region[i].pages * CPC_PAGE_SIZE;

        host->fd = memory_file(layout->region[i].name, size);
        host->memory = map(host->fd, size, 0, NULL);
        host->shared = calloc(layout->region[i].pages, 1);
        must(host->shared != NULL, "calloc");
        region->id = i;
        region->flags = CPC_REGION_PRESENT | layout->region[i].flags;
        region->window = (region->flags & CPC_REGION_INDIRECT) != 0
                             ? 0
                             : (uint64_t)(uintptr_t)host->memory;
        region->pages = layout->region[i].pages;
        region->first_page = flat;
        snprintf(region->name, sizeof(region->name), "%s", layout->region[i].name);
        flat += (region->pages + 63) / 64 * 64;
    }
    return flat;
}

struct host_machine *host_machine_new(const struct host_layout *layout)
{
    struct host_machine *machine = calloc(1, sizeof(*machine));
    must(machine != NULL, "calloc");
    struct cpc_boot_info *boot = &machine->boot;
    uint64_t flat = make_regions(machine, layout);
    uint64_t max_pages = layout->max_pages != 0 ? layout->max_pages : flat;
    bool snp = layout->snp || host_all_snp;
    /* An SEV-SNP guest has all of its gvCPUs from the start. */
    uint32_t gvcpu_max = snp ? layout->gvcpus : layout->gvcpu_max;

    boot->magic = CPC_BOOT_MAGIC;
    boot->abi = CPC_ABI_VERSION;
    boot->platform = CPC_PLATFORM_PLAIN;
    boot->hvcpu_max = layout->hvcpus;
    boot->gvcpu_max = gvcpu_max;
    boot->vmsa_stride = CPC_VMSA_STRIDE;
    boot->ring_size = layout->ring_size;
    boot->max_pages = max_pages;
    boot->incoming = layout->incoming;
    make_shm(machine, layout->shm_fd, max_pages);

    uint64_t vmsas = (uint64_t)gvcpu_max * CPC_VMSA_STRIDE;
    uint64_t tables = CPC_TABLES_BYTES(max_pages, layout->hvcpus);
    boot->trusted_size = CPC_PAGE_SIZE + vmsas + tables;
    machine->trusted = map(-1, boot->trusted_size, 0, NULL);
    machine->vmsa = machine->trusted + CPC_PAGE_SIZE;
    boot->vmsa_base = (uint64_t)(uintptr_t)machine->vmsa;
    boot->free_base = boot->vmsa_base + vmsas;
    boot->region_table = (uint64_t)(uintptr_t)&machine->table;

    pthread_mutex_init(&machine->lock, NULL);
    pthread_cond_init(&machine->wake, NULL);
    pthread_rwlock_init(&machine->gvcpus_run, NULL);
    machine->frozen = layout->incoming;
    machine->disks_active = !layout->incoming;
    for (uint32_t i = 0; i < layout->gvcpus; i++) {
        machine->gvcpu_present[i] = true;
        memset(machine->gvcpu[i], (int)(i + 1), HOST_VMSA_BYTES);
    }
    if (snp) {
        host_snp_new(machine, layout->incoming);
    }
    return machine;
}

struct start {
    struct host_machine *machine;
    uint32_t hvcpu;
};

static void *hvcpu_thread(void *argument)
{
    struct start start = *(struct start *)argument;
    free(argument);
    host_machine = start.machine;
    host_hvcpu = start.hvcpu;
    if (platform()->join()) {
        firmware_main();
    }
    return NULL;
}

void host_hvcpu_add(struct host_machine *machine, uint32_t hvcpu)
{
    struct start *start = malloc(sizeof(*start));
    must(start != NULL, "malloc");
    *start = (struct start){ machine, hvcpu };
    machine->hvcpu[hvcpu] = (struct host_hvcpu){ .started = true };
    must(pthread_create(&machine->hvcpu[hvcpu].thread, NULL, hvcpu_thread, start) == 0,
         "pthread_create");
}

void host_machine_start(struct host_machine *machine)
{
    host_machine = machine;
    host_hvcpu = 0;
    machine->init_status = platform()->join() ? platform()->init() : CPC_S_HARDWARE;
    uint32_t status = firmware_init();
    if (machine->init_status == CPC_S_OK) {
        machine->init_status = status;
    }
    if (machine->init_status == CPC_S_OK) {
        machine->init_status = platform()->begin();
    }
    if (runtime_get() != NULL && machine->init_status != CPC_S_OK) {
        runtime_get()->init_status = machine->init_status;
    }
    if (machine->snp != NULL) {
        host_snp_started(machine);
    }
    host_machine = NULL;
    for (uint32_t i = 0; i < machine->boot.hvcpu_max; i++) {
        host_hvcpu_add(machine, i);
    }
}

void host_wake(struct host_machine *machine, uint32_t hvcpu)
{
    pthread_mutex_lock(&machine->lock);
    machine->hvcpu[hvcpu].pending = true;
    pthread_cond_broadcast(&machine->wake);
    pthread_mutex_unlock(&machine->lock);
}

bool host_asleep(struct host_machine *machine, uint32_t hvcpu)
{
    pthread_mutex_lock(&machine->lock);
    bool asleep = machine->hvcpu[hvcpu].asleep && !machine->hvcpu[hvcpu].pending;
    pthread_mutex_unlock(&machine->lock);
    return asleep;
}

void host_park(void)
{
    struct host_hvcpu *self = &host_machine->hvcpu[host_hvcpu];
    bool stop;

    if (host_machine->on_park != NULL) {
        host_machine->on_park(host_machine);
        return;
    }
    pthread_mutex_lock(&host_machine->lock);
    self->asleep = true;
    while (!self->pending && !self->stop) {
        pthread_cond_wait(&host_machine->wake, &host_machine->lock);
    }
    self->asleep = false;
    self->pending = false;
    stop = self->stop;
    pthread_mutex_unlock(&host_machine->lock);
    if (stop) {
        pthread_exit(NULL);
    }
}

void host_hvcpu_kill(struct host_machine *machine, uint32_t hvcpu)
{
    struct host_hvcpu *self = &machine->hvcpu[hvcpu];

    if (!self->started) {
        return;
    }
    pthread_mutex_lock(&machine->lock);
    self->stop = true;
    pthread_cond_broadcast(&machine->wake);
    pthread_mutex_unlock(&machine->lock);
    pthread_join(self->thread, NULL);
    self->started = false;
}

void host_machine_free(struct host_machine *machine)
{
    uint64_t ring = machine->boot.ring_size;

    for (uint32_t i = 0; i < machine->boot.hvcpu_max; i++) {
        host_hvcpu_kill(machine, i);
        munmap(machine->ring[i], 2 * ring);
    }
    for (uint32_t i = 0; i < machine->table.count; i++) {
        struct host_region *region = &machine->region[i];
        munmap(region->memory, machine->table.region[i].pages * CPC_PAGE_SIZE);
        close(region->fd);
        free(region->shared);
    }
    if (machine->snp != NULL) {
        host_snp_free(machine);
    }
    munmap(machine->shm, machine->boot.shm_size);
    close(machine->shm_fd);
    munmap(machine->trusted, machine->boot.trusted_size);
    pthread_rwlock_destroy(&machine->gvcpus_run);
    pthread_cond_destroy(&machine->wake);
    pthread_mutex_destroy(&machine->lock);
    free(machine);
}
