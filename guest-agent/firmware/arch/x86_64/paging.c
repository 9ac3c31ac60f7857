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
#define TABLES      256u
#define VIRTUAL_END (1ull << 47)

/* From the linker script, all page aligned. */
extern const uint8_t image_start[], text_start[], text_end[], rodata_end[], image_end[];

static uint64_t tables[TABLES][512] __attribute__((aligned(4096)));
static uint32_t tables_used;

/* Physical addresses: on the plain platform those of cpc_abi.h. */
static struct {
    uint64_t trusted;
    uint64_t shm;
    uint64_t c_bit;          /* in entries of what is private; 0 on plain */
} place;

/* Of something in trusted memory. */
static uint64_t physical_of(const void *trusted)
{
    return (uint64_t)(uintptr_t)trusted - CPC_TRUSTED_BASE + place.trusted;
}

static uint64_t *table_at(uint64_t entry)
{
    return (uint64_t *)(uintptr_t)((entry & ADDRESS & ~place.c_bit) - place.trusted +
                                   CPC_TRUSTED_BASE);
}

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
        *entry = physical_of(table) | place.c_bit | PRESENT | WRITE;
    }
    return table_at(*entry);
}

/*
 * The entry for one address, and the size of the page it maps: the largest that
 * fits, or what is there already. What is mapped twice is mapped alike, so an
 * entry in the way says what the new one would.
 */
static uint64_t *find_entry(uint64_t virtual, uint64_t physical, uint64_t size,
                            uint64_t *step)
{
    static const uint64_t sizes[] = { SIZE_1G, SIZE_2M };
    uint64_t both = virtual | physical;
    uint64_t *entry = descend(&tables[0][virtual >> 39 & 511]);
    uint32_t shift = 30;

    for (uint32_t level = 0; level < 2; level++, shift -= 9) {
        if (entry == NULL) {
            return NULL;
        }
        entry += virtual >> shift & 511;
        *step = sizes[level];
        if ((*entry & (PRESENT | LARGE)) == (PRESENT | LARGE)) {
            *step -= virtual & (*step - 1);      /* to the end of that page */
            return entry;
        }
        if ((*entry & PRESENT) == 0 && size >= *step && (both & (*step - 1)) == 0) {
            return entry;
        }
        entry = descend(entry);
    }
    *step = SIZE_4K;
    return entry == NULL ? NULL : entry + (virtual >> 12 & 511);
}

/* Everything is page aligned. */
static bool map(uint64_t virtual, uint64_t physical, uint64_t size, uint64_t flags)
{
    if (((virtual | physical | size) & (SIZE_4K - 1)) != 0 || virtual >= VIRTUAL_END ||
        size > VIRTUAL_END - virtual) {
        return false;
    }
    while (size > 0) {
        uint64_t step;
        uint64_t *entry = find_entry(virtual, physical, size, &step);

        if (entry == NULL) {
            return false;
        }
        if ((*entry & PRESENT) == 0) {
            *entry = physical | PRESENT | flags | (step == SIZE_4K ? 0 : LARGE);
        }
        step = step < size ? step : size;
        virtual += step;
        physical += step;
        size -= step;
    }
    return true;
}

/* A part of trusted memory. */
static bool own(const void *start, const void *end, uint64_t flags)
{
    return map((uint64_t)(uintptr_t)start, physical_of(start),
               (uint64_t)((const uint8_t *)end - (const uint8_t *)start),
               flags | place.c_bit);
}

/* Firmware data and the stacks, without the guards below each stack. */
static bool map_data(void)
{
    const uint8_t *block = &stacks[0][0];

    if (!own(rodata_end, block, RW)) {
        return false;
    }
    for (uint32_t i = 0; i < CPC_HVCPU_LIMIT; i++, block += STACK_BLOCK) {
        const uint8_t *trap = block + GUARD_SIZE;
        const uint8_t *stack = block + TRAP_STACK_TOP + GUARD_SIZE;

        if (!own(trap, trap + TRAP_STACK_SIZE, RW) ||
            !own(stack, stack + STACK_SIZE, RW)) {
            return false;
        }
    }
    return own(block, image_end, RW);
}

static bool map_rings(const struct cpc_boot_info *boot)
{
    uint64_t data = boot->shm_size - boot->hvcpu_max * boot->ring_size;

    for (uint32_t i = 0; i < boot->hvcpu_max; i++) {
        uint64_t virtual = RING_VIRTUAL + (uint64_t)i * RING_STRIDE + RING_SKEW;
        uint64_t physical = place.shm + data + i * boot->ring_size;

        if (!map(virtual, physical, boot->ring_size, RW) ||
            !map(virtual + boot->ring_size, physical, boot->ring_size, RW)) {
            return false;
        }
    }
    return map(CPC_SHM_BASE, place.shm, data, RW);
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
           boot->max_pages <= (SHARED_WINDOW - CPC_WINDOW_BASE) / CPC_PAGE_SIZE;
}

static bool plausible_snp(const struct cpc_boot_info *boot)
{
    return boot->c_bit >= 1ull << 32 && (boot->c_bit & (boot->c_bit - 1)) == 0 &&
           (boot->c_bit & ADDRESS) != 0 &&
           boot->trusted_gpa < boot->c_bit && boot->shm_gpa < boot->c_bit &&
           boot->trusted_size <= boot->c_bit - boot->trusted_gpa &&
           boot->shm_size <= boot->c_bit - boot->shm_gpa;
}

/* The window of the plain platform is guest RAM in flat numbering; on SEV-SNP
   arch_map() makes one of the extents that the host names. */
static bool map_platform(const struct cpc_boot_info *boot)
{
    uint64_t window = (boot->max_pages * CPC_PAGE_SIZE + SIZE_1G - 1) & ~(SIZE_1G - 1);

    return boot->platform == CPC_PLATFORM_SEV_SNP ||
           (map(CPC_MMIO_BASE, CPC_MMIO_BASE, SIZE_4K, RW | NO_CACHE) &&
            map(CPC_WINDOW_BASE, CPC_WINDOW_BASE, window, RW));
}

uint64_t paging_init(const struct cpc_boot_info *boot)
{
    const uint8_t *trusted = (const uint8_t *)CPC_TRUSTED_BASE;
    bool snp = boot->platform == CPC_PLATFORM_SEV_SNP;

    tables_used = 0;
    place.trusted = snp ? boot->trusted_gpa : CPC_TRUSTED_BASE;
    place.shm = snp ? boot->shm_gpa : CPC_SHM_BASE;
    place.c_bit = snp ? boot->c_bit : 0;
    if (!plausible(boot) || (snp && !plausible_snp(boot)) || new_table() == NULL ||
        !own(image_start, text_start, RO) ||
        !own(text_start, text_end, RX) ||
        !own(text_end, rodata_end, RO) ||
        !map_data() ||
        !own(image_end, trusted + (boot->trusted_size & ~(SIZE_4K - 1)), RW) ||
        !map_rings(boot) ||
        !map_platform(boot)) {
        return 0;
    }
    return physical_of(tables) | place.c_bit;
}

uint8_t *arch_window(bool private)
{
    return (uint8_t *)(private ? CPC_WINDOW_BASE : SHARED_WINDOW);
}

bool arch_map(uint64_t gpa, uint64_t first, uint64_t pages)
{
    uint64_t offset = first * CPC_PAGE_SIZE;
    uint64_t size = pages * CPC_PAGE_SIZE;

    return map(CPC_WINDOW_BASE + offset, gpa, size, RW | place.c_bit) &&
           map(SHARED_WINDOW + offset, gpa, size, RW);
}
