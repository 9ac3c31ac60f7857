/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hardware of the fake machine: the firmware built for a plain process on the ring file
 * that cpcctl made, a guest that runs, and the dirty log.
 *
 * The guest's work can be checked: step n writes n + 1 into page n modulo PAGES, and n is its
 * only register. So wherever it begins to run it knows what its memory has to hold, and looks.
 * While it runs it holds a lock on a file that all hosts of a test share: the kernel knows at
 * any time who runs it, the dead included, and a second one is found out by itself.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "cpc_abi.h"
#include "machine.h"

#define PAGES        256u    /* that the guest writes to, of its memory */
#define STEP_NS      1000000
#define ROM_PAGES    16u

static struct host_machine *machine;
static const char *name;         /* "HOST PID", begins each line of the journal */
static int journal_fd = -1;
static int guest_fd = -1;        /* the lock that means: it runs here */
static int news_fd = -1;         /* told of each freeze and release */
static bool paused;              /* by the monitor; changed under gvcpus_run */
static bool logging;
static uint64_t dirty[(PAGES + 63) / 64];

struct news {
    uint64_t frozen;
    uint64_t seconds;
    uint64_t microseconds;
};

/* One line, whole: the file is open for appending. */
static void journal(const char *format, ...)
{
    char line[256];
    struct timespec now;
    va_list list;

    clock_gettime(CLOCK_MONOTONIC, &now);
    int size = snprintf(line, sizeof(line), "%lld.%09ld %s ", (long long)now.tv_sec,
                        now.tv_nsec, name);
    va_start(list, format);
    size += vsnprintf(line + size, sizeof(line) - (size_t)size - 1, format, list);
    va_end(list);
    line[size++] = '\n';
    if (write(journal_fd, line, (size_t)size) != size) {
        abort();
    }
}

static uint64_t *word(uint64_t page)
{
    return (uint64_t *)(void *)(machine->region[0].memory + page * CPC_PAGE_SIZE);
}

static uint64_t step_of_guest(void)
{
    uint64_t n;
    memcpy(&n, machine->gvcpu[0], sizeof(n));
    return n;
}

static void set_step(uint64_t n)
{
    memset(machine->gvcpu[0], 0, HOST_VMSA_BYTES);
    memcpy(machine->gvcpu[0], &n, sizeof(n));
}

static void write_page(uint64_t page, uint64_t value)
{
    __atomic_store_n(word(page), value, __ATOMIC_SEQ_CST);
    __atomic_or_fetch(&dirty[page / 64], 1ull << (page % 64), __ATOMIC_SEQ_CST);
}

/* What page p holds after n steps: the number of the last one that wrote it. */
static uint64_t expected(uint64_t p, uint64_t n)
{
    return n <= p ? 0 : (n - 1 - p) / PAGES * PAGES + p + 1;
}

/* The lock that says: the guest runs here. False: another one holds it. */
static bool own_guest(bool own)
{
    struct flock lock = { .l_type = own ? F_WRLCK : F_UNLCK, .l_whence = SEEK_SET };

    return fcntl(guest_fd, F_OFD_SETLK, &lock) == 0;
}

static void begins(void)
{
    uint64_t n = step_of_guest(), wrong = 0;

    if (!own_guest(true)) {
        journal("SECOND: another one runs");
    }
    for (uint64_t p = 0; p < PAGES; p++) {
        wrong += *word(p) != expected(p, n);
    }
    if (wrong != 0) {
        journal("CORRUPT: %llu pages at step %llu", (unsigned long long)wrong,
                (unsigned long long)n);
    }
    journal("runs from step %llu", (unsigned long long)n);
}

static uint32_t on_freeze(struct host_machine *of, bool frozen)
{
    struct news news = { .frozen = frozen };
    struct timeval now;

    (void)of;
    if (frozen && paused) {
        return CPC_P_FAILED;     /* the device freezes what runs */
    }
    if (frozen) {
        journal("stops at step %llu", (unsigned long long)step_of_guest());
        own_guest(false);
    } else {
        paused = false;
        begins();
    }
    gettimeofday(&now, NULL);
    news.seconds = (uint64_t)now.tv_sec;
    news.microseconds = (uint64_t)now.tv_usec;
    if (write(news_fd, &news, sizeof(news)) != sizeof(news)) {
        abort();
    }
    return CPC_P_OK;
}

static void *guest(void *unused)
{
    const struct timespec step = { .tv_nsec = STEP_NS };

    (void)unused;
    for (;;) {
        pthread_rwlock_rdlock(&machine->gvcpus_run);
        if (!machine->frozen && !paused) {
            uint64_t n = step_of_guest();
            write_page(n % PAGES, n + 1);
            set_step(n + 1);
        }
        pthread_rwlock_unlock(&machine->gvcpus_run);
        nanosleep(&step, NULL);
    }
    return NULL;
}

struct fake_layout {
    uint64_t ring_size;
    uint64_t ram_pages;
    uint64_t max_pages;
    uint32_t hvcpus;
    uint32_t gvcpus;
    uint32_t gvcpu_max;
    uint32_t incoming;
    int32_t ring;
    int32_t journal;
    int32_t guest;
    int32_t news;
};

/* All descriptors become the machine's. Returns the firmware's start-up status, CPC_S_*. */
uint32_t fake_start(const struct fake_layout *layout, const char *who)
{
    struct host_layout host = {
        .hvcpus = layout->hvcpus,
        .gvcpus = layout->gvcpus,
        .gvcpu_max = layout->gvcpu_max,
        .incoming = layout->incoming != 0,
        .ring_size = layout->ring_size,
        .shm_fd = layout->ring,
        .max_pages = layout->max_pages,
        .regions = 2,
        .region = { { "pc.ram", layout->ram_pages, 0 },
                    { "pc.bios", ROM_PAGES, CPC_REGION_INDIRECT } },
    };
    pthread_t thread;

    name = strdup(who);
    journal_fd = layout->journal;
    guest_fd = layout->guest;
    news_fd = layout->news;
    machine = host_machine_new(&host);
    machine->on_freeze = on_freeze;
    set_step(0);
    host_machine_start(machine);
    for (uint32_t i = 0; i < layout->hvcpus; i++) {
        host_hvcpu_kill(machine, i);     /* until it is added */
    }
    if (!host.incoming) {
        begins();
    }
    if (pthread_create(&thread, NULL, guest, NULL) != 0) {
        abort();
    }
    return machine->init_status;
}

void fake_hvcpu(uint32_t hvcpu, uint32_t on)
{
    (on ? host_hvcpu_add : host_hvcpu_kill)(machine, hvcpu);
}

void fake_wake(uint32_t hvcpu)
{
    host_wake(machine, hvcpu);
}

uint32_t fake_asleep(uint32_t hvcpu)
{
    return host_asleep(machine, hvcpu);
}

uint32_t fake_frozen(void)
{
    return machine->frozen;
}

/* The monitor's stop and cont. Nonzero: the guest is frozen, so nothing was done. */
uint32_t fake_pause(uint32_t on)
{
    pthread_rwlock_wrlock(&machine->gvcpus_run);
    uint32_t frozen = machine->frozen;
    if (!frozen) {
        paused = on != 0;
    }
    pthread_rwlock_unlock(&machine->gvcpus_run);
    return frozen;
}

uint32_t fake_paused(void)
{
    return paused;
}

/* The guest begins anew. Nonzero: it does not run. */
uint32_t fake_reset(void)
{
    pthread_rwlock_wrlock(&machine->gvcpus_run);
    uint32_t frozen = machine->frozen;
    if (!frozen) {
        set_step(0);
        for (uint64_t p = 0; p < PAGES; p++) {
            write_page(p, 0);
        }
        journal("is reset");
    }
    pthread_rwlock_unlock(&machine->gvcpus_run);
    return frozen;
}

void fake_disks(uint32_t active)
{
    machine->disks_active = active != 0;
}

void fake_devices(const uint8_t digest[32])
{
    memcpy(machine->device_digest, digest, 32);
    machine->device_known = true;
}

static uint64_t *hint(void)
{
    return (uint64_t *)(void *)(machine->shm + machine->boot.bitmap_offset);
}

void fake_dirty_log(uint32_t on)
{
    if (on && !logging) {
        /* What was written before the log began is no news. */
        memset(hint(), 0, (machine->boot.max_pages + 63) / 64 * 8);
        memset(dirty, 0, sizeof(dirty));
    }
    logging = on != 0;
}

/* Pages found dirty, now in the hint; -1: the log is off. */
int64_t fake_dirty_sync(void)
{
    int64_t found = 0;

    for (size_t i = 0; i < sizeof(dirty) / sizeof(dirty[0]); i++) {
        uint64_t bits = __atomic_exchange_n(&dirty[i], 0, __ATOMIC_SEQ_CST);
        __atomic_or_fetch(&hint()[i], bits, __ATOMIC_SEQ_CST);
        found += __builtin_popcountll(bits);
    }
    return logging ? found : -1;
}

/* The mailbox page of an hvCPU in the firmware's view: of the ring file, or a private one. */
static void map_mailbox(uint32_t hvcpu, bool file)
{
    off_t offset = CPC_SHM_MAILBOX + hvcpu * CPC_PAGE_SIZE;
    int flags = MAP_FIXED | (file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);

    if (mmap(machine->shm + offset, CPC_PAGE_SIZE, PROT_READ | PROT_WRITE, flags,
             file ? machine->shm_fd : -1, file ? offset : 0) == MAP_FAILED) {
        abort();
    }
}

/* From now on nobody sees what the firmware answers. While the hvCPU is parked. */
void fake_withhold(uint32_t hvcpu)
{
    struct cpc_mailbox posted = *host_mailbox(machine, hvcpu);

    map_mailbox(hvcpu, false);
    *host_mailbox(machine, hvcpu) = posted;
}

/* The answer arrives. While the hvCPU is parked. */
void fake_hand_out(uint32_t hvcpu)
{
    struct cpc_mailbox answered = *host_mailbox(machine, hvcpu);

    map_mailbox(hvcpu, true);
    struct cpc_mailbox *mailbox = host_mailbox(machine, hvcpu);
    uint32_t done = answered.done;
    answered.done = mailbox->done;
    memcpy(&mailbox->done, &answered.done,
           sizeof(answered) - offsetof(struct cpc_mailbox, done));
    __atomic_store_n(&mailbox->done, done, __ATOMIC_RELEASE);
}

/* A call that waits in the mailbox: its CPC_OP_*; 0: none does. */
uint32_t fake_posted(uint32_t hvcpu)
{
    struct cpc_mailbox *mailbox = host_mailbox(machine, hvcpu);
    uint32_t request = __atomic_load_n(&mailbox->request, __ATOMIC_ACQUIRE);

    return request != __atomic_load_n(&mailbox->done, __ATOMIC_ACQUIRE) ? mailbox->op : 0;
}
