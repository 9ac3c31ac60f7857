/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The final page tables, one set for all hvCPUs. Nothing is both writable and
 * executable; what is not listed in paging_init() is not mapped, the NULL page
 * and the stack guards included.
 */
#include "percpu.h"

#define PRESENT     (1ull << 0)
#define WRITE       (1ull << 1)
#define NO_CACHE    (1ull << 4)
#define LARGE       (1ull << 7)
#define NO_EXECUTE  (1ull << 63)
#define ADDRESS     0x000ffffffffff000ull

#define RX          0ull
#define RO          NO_EXECUTE
#define RW          (WRITE | NO_EXECUTE)

#define SIZE_4K     (1ull << 12)
#define SIZE_2M     (1ull << 21)
#define SIZE_1G     (1ull << 30)
#define TABLES      192u
#define VIRTUAL_END (1ull << 47)

/* From the linker script, all page aligned. */
extern const uint8_t image_start[], text_start[], text_end[], rodata_end[], image_end[];

static uint64_t tables[TABLES][512] __attribute__((aligned(4096)));
static uint32_t tables_used;

static uint64_t *new_table(void)
{
    if (tables_used == TABLES) {
        return NULL;
    }
    uint64_t *table = tables[tables_used++];
    for (uint32_t i = 0; i < 512; i++) {
        table[i] = 0;
    }
    return table;
}

/* The table below an entry, made when there is none; NULL when out of tables. */
static uint64_t *descend(uint64_t *entry)
{
    if ((*entry & PRESENT) == 0) {
        uint64_t *table = new_table();
        if (table == NULL) {
            return NULL;
        }
        *entry = (uint64_t)(uintptr_t)table | PRESENT | WRITE;
    }
    return (uint64_t *)(uintptr_t)(*entry & ADDRESS);
}

/* Everything is page aligned; uses the largest pages that fit. */
static bool map(uint64_t virtual, uint64_t physical, uint64_t size, uint64_t flags)
{
    if (((virtual | physical | size) & (SIZE_4K - 1)) != 0 || virtual >= VIRTUAL_END ||
        size > VIRTUAL_END - virtual) {
        return false;
    }
    while (size > 0) {
        uint64_t both = virtual | physical;
        uint64_t step = SIZE_4K;
        uint64_t *entry = descend(&tables[0][virtual >> 39 & 511]);

        if (entry == NULL) {
            return false;
        }
        entry += virtual >> 30 & 511;
        if (size >= SIZE_1G && (both & (SIZE_1G - 1)) == 0) {
            step = SIZE_1G;
        } else {
            entry = descend(entry);
            if (entry == NULL) {
                return false;
            }
            entry += virtual >> 21 & 511;
            if (size >= SIZE_2M && (both & (SIZE_2M - 1)) == 0) {
                step = SIZE_2M;
            } else {
                entry = descend(entry);
                if (entry == NULL) {
                    return false;
                }
                entry += virtual >> 12 & 511;
            }
        }
        *entry = physical | PRESENT | flags | (step == SIZE_4K ? 0 : LARGE);
        virtual += step;
        physical += step;
        size -= step;
    }
    return true;
}

static bool identity(const void *start, const void *end, uint64_t flags)
{
    uint64_t from = (uint64_t)(uintptr_t)start;

    return map(from, from, (uint64_t)(uintptr_t)end - from, flags);
}

/* Firmware data and the stacks, without the guards below each stack. */
static bool map_data(void)
{
    const uint8_t *block = &stacks[0][0];

    if (!identity(rodata_end, block, RW)) {
        return false;
    }
    for (uint32_t i = 0; i < CPC_HVCPU_LIMIT; i++, block += STACK_BLOCK) {
        const uint8_t *trap = block + GUARD_SIZE;
        const uint8_t *stack = block + TRAP_STACK_TOP + GUARD_SIZE;

        if (!identity(trap, trap + TRAP_STACK_SIZE, RW) ||
            !identity(stack, stack + STACK_SIZE, RW)) {
            return false;
        }
    }
    return identity(block, image_end, RW);
}

static bool map_rings(const struct cpc_boot_info *boot)
{
    uint64_t data = boot->shm_size - boot->hvcpu_max * boot->ring_size;

    for (uint32_t i = 0; i < boot->hvcpu_max; i++) {
        uint64_t virtual = RING_VIRTUAL + (uint64_t)i * RING_STRIDE + RING_SKEW;
        uint64_t physical = CPC_SHM_BASE + data + i * boot->ring_size;

        if (!map(virtual, physical, boot->ring_size, RW) ||
            !map(virtual + boot->ring_size, physical, boot->ring_size, RW)) {
            return false;
        }
    }
    return map(CPC_SHM_BASE, CPC_SHM_BASE, data, RW);
}

/* The platform is trusted, but a mistake in its numbers must end here. */
static bool plausible(const struct cpc_boot_info *boot)
{
    uint64_t image = (uint64_t)(uintptr_t)image_end - CPC_TRUSTED_BASE;

    return boot->magic == CPC_BOOT_MAGIC && boot->abi == CPC_ABI_VERSION &&
           boot->hvcpu_max >= 1 && boot->hvcpu_max <= CPC_HVCPU_LIMIT &&
           boot->ring_size >= CPC_RING_MIN && boot->ring_size <= CPC_RING_MAX &&
           (boot->ring_size & (boot->ring_size - 1)) == 0 &&
           boot->shm_size % CPC_SHM_ALIGN == 0 &&
           boot->shm_size > boot->hvcpu_max * boot->ring_size &&
           boot->shm_size <= CPC_MMIO_BASE - CPC_SHM_BASE &&
           boot->trusted_size >= image &&
           boot->trusted_size <= CPC_SHM_BASE - CPC_TRUSTED_BASE &&
           boot->max_pages <= (RING_VIRTUAL - CPC_WINDOW_BASE) / CPC_PAGE_SIZE;
}

uint64_t paging_init(const struct cpc_boot_info *boot)
{
    uint64_t data_end = (uint64_t)(uintptr_t)image_end;
    uint64_t trusted_end = CPC_TRUSTED_BASE + (boot->trusted_size & ~(SIZE_4K - 1));
    uint64_t window = (boot->max_pages * CPC_PAGE_SIZE + SIZE_1G - 1) & ~(SIZE_1G - 1);

    tables_used = 0;
    if (!plausible(boot) || new_table() == NULL ||
        !identity(image_start, text_start, RO) ||
        !identity(text_start, text_end, RX) ||
        !identity(text_end, rodata_end, RO) ||
        !map_data() ||
        !map(data_end, data_end, trusted_end - data_end, RW) ||
        !map_rings(boot) ||
        !map(CPC_MMIO_BASE, CPC_MMIO_BASE, SIZE_4K, RW | NO_CACHE) ||
        !map(CPC_WINDOW_BASE, CPC_WINDOW_BASE, window, RW)) {
        return 0;
    }
    return (uint64_t)(uintptr_t)tables;
}
