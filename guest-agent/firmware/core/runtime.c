/* SPDX-License-Identifier: Apache-2.0 */
/* Start-up: check the boot info, carve the tables, test the ciphers. */
#include "runtime.h"

#include "crypto.h"
#include "firmware.h"

#define CARVE_ALIGN 4096ull

_Static_assert(CPC_TABLES_BYTES(0, CPC_HVCPU_LIMIT) > sizeof(struct runtime),
               "the promised table space holds the runtime");
_Static_assert(sizeof(struct hvcpu) < 0x20000, "an hvCPU's fixed buffers");

static uint64_t align_up(uint64_t value)
{
    return (value + CARVE_ALIGN - 1) & ~(CARVE_ALIGN - 1);
}

static struct runtime *runtime_place(const struct cpc_boot_info *boot)
{
    return (struct runtime *)(uintptr_t)align_up(boot->free_base);
}

static bool power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

static bool launch_valid(const struct cpc_boot_info *boot)
{
    uint64_t end = boot->trusted_gpa;

    if (boot->launch_ranges > CPC_SNP_LAUNCH) {
        return false;
    }
    for (uint32_t i = 0; i < boot->launch_ranges; i++) {
        const struct cpc_snp_range *range = &boot->launch[i];
        if (range->gpa % CPC_PAGE_SIZE != 0 || range->gpa >= end ||
            range->pages > (end - range->gpa) / CPC_PAGE_SIZE) {
            return false;
        }
    }
    return true;
}

static bool boot_info_valid(const struct cpc_boot_info *boot)
{
    if (boot->magic != CPC_BOOT_MAGIC || boot->abi != CPC_ABI_VERSION ||
        boot->hvcpu_max == 0 || boot->hvcpu_max > CPC_HVCPU_LIMIT ||
        boot->gvcpu_max == 0 || boot->gvcpu_max > CPC_GVCPU_LIMIT ||
        boot->vmsa_stride != CPC_VMSA_STRIDE || boot->incoming > 1 ||
        !launch_valid(boot)) {
        return false;
    }
    if (!power_of_two(boot->ring_size) || boot->ring_size < CPC_RING_MIN ||
        boot->ring_size > CPC_RING_MAX) {
        return false;
    }
    /* 2^40 pages are 4 PiB: beyond that the sums below could overflow. */
    if (boot->max_pages == 0 || boot->max_pages >= (1ull << 40) ||
        boot->bitmap_offset < CPC_SHM_BITMAP ||
        boot->bitmap_offset > boot->shm_size ||
        boot->shm_size - boot->bitmap_offset < (boot->max_pages + 7) / 8 ||
        boot->shm_size / boot->hvcpu_max < boot->ring_size) {
        return false;
    }
    return boot->free_base != 0 && boot->free_base % 16 == 0;
}

/* Bytes from `at` on that the platform gave us. */
static uint64_t trusted_left(const struct cpc_boot_info *boot, uint64_t base,
                             uint64_t at)
{
    uint64_t end = base + boot->trusted_size;
    return at >= base && at < end ? end - at : 0;
}

struct runtime *runtime_get(void)
{
    const struct cpc_boot_info *boot = arch_boot_info();
    if (!boot_info_valid(boot)) {
        return NULL;
    }
    struct runtime *runtime = runtime_place(boot);
    uint64_t left = trusted_left(boot, arch_trusted_base(),
                                 (uint64_t)(uintptr_t)runtime);
    return left < sizeof(*runtime) ? NULL : runtime;
}

static size_t scratch_size(void)
{
    size_t size = 0;
    for (uint32_t i = 0; i < module_count; i++) {   /* <= MODULE_LIMIT */
        if (module_table[i] != NULL && module_table[i]->scratch_size > size) {
            size = module_table[i]->scratch_size;
        }
    }
    return size;
}

/* Where every table goes; returns the first byte behind them. */
static uint64_t carve(struct runtime *runtime, const struct cpc_boot_info *boot,
                      bool store)
{
    uint64_t at = align_up((uint64_t)(uintptr_t)runtime + sizeof(*runtime));
    uint64_t scratch = align_up(scratch_size());

    for (uint32_t i = 0; i < module_count; i++) {   /* <= MODULE_LIMIT */
        if (module_table[i] == NULL) {
            continue;
        }
        if (store) {
            runtime->module_state[i] = (void *)(uintptr_t)at;
        }
        at += align_up(module_table[i]->state_size);
    }
    for (uint32_t i = 0; i < boot->hvcpu_max; i++) { /* <= CPC_HVCPU_LIMIT */
        if (store) {
            runtime->hvcpu[i].scratch = (uint8_t *)(uintptr_t)at;
        }
        at += scratch;
    }
    if (store) {
        runtime->versions = (uint32_t *)(uintptr_t)at;
        runtime->version_count = boot->max_pages;
    }
    return at + align_up(4 * boot->max_pages);
}

uint32_t firmware_init(void)
{
    const struct cpc_boot_info *boot = arch_boot_info();

    if (!boot_info_valid(boot)) {
        return CPC_S_BOOT_INFO;
    }
    struct runtime *runtime = runtime_place(boot);
    uint64_t start = (uint64_t)(uintptr_t)runtime;
    uint64_t left = trusted_left(boot, arch_trusted_base(), start);
    if (left < sizeof(*runtime)) {
        return CPC_S_TOO_LARGE;
    }
    if (carve(runtime, boot, false) - start > left) {
        runtime->init_status = CPC_S_TOO_LARGE;
        return CPC_S_TOO_LARGE;
    }
    carve(runtime, boot, true);
    uint8_t *shm = arch_shm();
    for (uint32_t i = 0; i < boot->hvcpu_max; i++) { /* <= CPC_HVCPU_LIMIT */
        struct hvcpu *hvcpu = &runtime->hvcpu[i];
        hvcpu->number = i;
        hvcpu->ring.shared =
            (struct cpc_ring *)(void *)(shm + CPC_SHM_RING + i * CPC_PAGE_SIZE);
        hvcpu->ring.data = arch_ring_data(i);
        hvcpu->ring.size = boot->ring_size;
    }
    for (uint32_t i = 0; i < module_count; i++) {    /* <= MODULE_LIMIT */
        if (module_table[i] != NULL && module_table[i]->start != NULL) {
            module_table[i]->start(runtime->module_state[i]);
        }
    }
    runtime->suites = crypto_init();
    if (runtime->suites == 0) {
        runtime->init_status = CPC_S_KNOWN_ANSWER;
    }
    return runtime->init_status;
}
