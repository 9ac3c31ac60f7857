/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gvCPUs: their start, freezing them for good by taking the VMSA
 * attribute from the page they run from, and creating them anew from save
 * areas in trusted memory.
 *
 * Which page a gvCPU runs from is the host's word; that it is a save area at
 * all is the processor's. What the host can gain by a lie: see docs/abi.md,
 * "What the host decides".
 */
#include "vmsa.h"

#include "crypto.h"
#include "ghcb.h"
#include "snp.h"

#define RESET_BSP  0xfffffff0u

static uint32_t rmpadjust(void *page, uint64_t attributes)
{
    uint32_t code = insn_rmpadjust(page, RMPADJUST_VMPL1 | attributes);

    return code == 0 ? CPC_P_OK : PLATFORM_HARDWARE(PLATFORM_RMPADJUST, code);
}

/* The attribute was given by somebody at VMPL 0: us, OVMF or the guest's kernel. No content of
   a page can stand for it. */
static uint32_t is_save_area(uint8_t *page)
{
    uint64_t attributes = RMPADJUST_VMPL1;
    uint32_t code = insn_rmpquery(page, &attributes);

    if (code == 0 && (attributes & RMPADJUST_VMSA) == 0) {
        code = 0x100;
    }
    return code == 0 ? CPC_P_OK : PLATFORM_HARDWARE(PLATFORM_RMPQUERY, code);
}

/* Make a page of trusted memory a save area and let a gvCPU run from it, at
   once or when the guest starts it by INIT and SIPI. */
static uint32_t create(uint32_t gvcpu, uint32_t apic_id, bool on_init)
{
    uint8_t *page = platform_vmsa(gvcpu);
    uint32_t status = rmpadjust(page, RMPADJUST_VMSA);

    return status == CPC_P_OK
               ? ghcb_ap_create(on_init ? GHCB_AP_CREATE_ON_INIT : GHCB_AP_CREATE, apic_id,
                                snp_gpa(page), VMSA_FEATURE_SNP)
               : status;
}

/* What OVMF expects after a reset: real mode at an address below 4 GiB. */
static void reset_state(struct vmsa *vmsa, uint32_t address)
{
    const struct vmsa_segment data = { .attributes = 0x93, .limit = 0xffff };

    memset(vmsa, 0, sizeof(*vmsa));
    vmsa->es = vmsa->ss = vmsa->ds = vmsa->fs = vmsa->gs = data;
    vmsa->cs = (struct vmsa_segment){ .selector = 0xf000, .attributes = 0x9b,
                                      .limit = 0xffff, .base = address & 0xffff0000 };
    vmsa->gdtr.limit = 0xffff;
    vmsa->idtr.limit = 0xffff;
    vmsa->ldtr = (struct vmsa_segment){ .attributes = 0x82, .limit = 0xffff };
    vmsa->tr = (struct vmsa_segment){ .attributes = 0x8b, .limit = 0xffff };
    vmsa->efer = VMSA_EFER_SVME;
    vmsa->cr4 = 0x40;
    vmsa->cr0 = 0x10;
    vmsa->dr7 = 0x400;
    vmsa->dr6 = 0xffff0ff0;
    vmsa->rflags = 2;
    vmsa->rip = address & 0xffff;
    vmsa->g_pat = 0x0007040600070406;
    vmsa->rdx = 0x600;
    vmsa->sev_features = VMSA_FEATURE_SNP;
    vmsa->xcr0 = 1;
    vmsa->mxcsr = 0x1f80;
    vmsa->x87_fcw = 0x37f;
}

static uint32_t ask(uint32_t gvcpu, struct cpc_gvcpu *answer)
{
    uint32_t status = snp_pcall(CPC_PCALL_GVCPU, gvcpu, 0, 0);

    snp_bounce_get(answer, sizeof(*answer));
    return status;
}

/* The first one runs at once, and starts the others, which wait for it. A host
   that calls them by wrong APIC ids does not get them started. */
static uint32_t begin(uint32_t gvcpu)
{
    struct vmsa *vmsa = (struct vmsa *)(void *)platform_vmsa(gvcpu);
    struct cpc_gvcpu info;
    uint32_t status = ask(gvcpu, &info);

    if (status != CPC_P_OK) {
        return status;
    }
    reset_state(vmsa, gvcpu == 0 ? RESET_BSP : (uint32_t)arch_boot_info()->ap_reset);
    return create(gvcpu, info.apic_id, gvcpu != 0);
}

uint32_t snp_begin(void)
{
    struct snp *snp = snp_state();
    uint32_t status = CPC_P_OK;

    if (snp->incoming || snp->begun) {
        return CPC_S_OK;
    }
    snp->begun = true;       /* once, whatever comes of it */
    for (uint32_t i = arch_boot_info()->gvcpu_max; i > 0 && status == CPC_P_OK; i--) {
        status = begin(i - 1);               /* i <= CPC_GVCPU_LIMIT */
    }
    if (status == CPC_P_OK) {
        return CPC_S_OK;
    }
    return status >> 24 != 0 ? CPC_S_HARDWARE : CPC_S_PLATFORM;
}

/* Their number was measured with the launch: a host cannot hide one, which would then not be
   frozen and run on at the source. */
uint32_t snp_gvcpu_present(uint32_t gvcpu)
{
    (void)gvcpu;                 /* < gvcpu_max */
    return CPC_P_OK;
}

static bool sane(const struct vmsa *vmsa)
{
    return (vmsa->efer & VMSA_EFER_SVME) != 0 && vmsa->vmpl == 0 &&
           vmsa->sev_features == VMSA_FEATURE_SNP;
}

/* Where a page that the host names is: the gvCPU's own in trusted memory, or
   one of the guest's. */
static uint8_t *locate(uint32_t gvcpu, uint64_t gpa)
{
    const struct cpc_snp_extent *extent = snp_find_gpa(gpa);

    if (gpa == snp_gpa(platform_vmsa(gvcpu))) {
        return platform_vmsa(gvcpu);
    }
    if (extent == NULL || gpa % CPC_PAGE_SIZE != 0) {
        return NULL;
    }
    return arch_window(true) + extent->first_page * CPC_PAGE_SIZE + (gpa - extent->gpa);
}

static bool named_before(const struct snp *snp, uint32_t gvcpu, const uint8_t *page)
{
    for (uint32_t i = 0; i < gvcpu; i++) {   /* <= CPC_GVCPU_LIMIT */
        if (snp->gvcpu[i].state == SNP_GVCPU_FROZEN && snp->gvcpu[i].page == page) {
            return true;
        }
    }
    return false;
}

static uint32_t take_attribute(void *argument)
{
    struct snp_gvcpu *gvcpu = argument;
    uint32_t status = is_save_area(gvcpu->page);

    if (status == CPC_P_OK) {
        status = sane((const struct vmsa *)(const void *)gvcpu->page)
                     ? rmpadjust(gvcpu->page, 0)
                     : PLATFORM_AT(CPC_PCALL_GVCPU, CPC_P_BAD_ARGUMENT);
    }
    if (status == CPC_P_OK) {
        gvcpu->state = SNP_GVCPU_FROZEN;
    }
    return status;
}

/*
 * Ours was its first save area, and may have stayed one: the gvCPU must not be able to run from
 * there either. It does not become one again at the release, as the gvCPU has left it.
 */
static uint32_t take_left(struct snp_gvcpu *gvcpu, uint32_t number)
{
    uint32_t status = CPC_P_OK;

    if (gvcpu->page != platform_vmsa(number)) {
        status = rmpadjust(platform_vmsa(number), 0);
        gvcpu->left = status == CPC_P_OK;
    }
    return status;
}

static uint32_t freeze_one(struct snp *snp, uint32_t number, const struct cpc_gvcpu *info)
{
    struct snp_gvcpu *gvcpu = &snp->gvcpu[number];
    struct arch_fault fault;

    if (info->vmsa_gpa == 0) {       /* nobody can get at a launch save area */
        return PLATFORM_AT(CPC_PCALL_GVCPU, CPC_P_BAD_STATE);
    }
    gvcpu->page = locate(number, info->vmsa_gpa);
    gvcpu->apic_id = info->apic_id;
    if (gvcpu->page == NULL || named_before(snp, number, gvcpu->page)) {
        return PLATFORM_AT(CPC_PCALL_GVCPU, CPC_P_BAD_ARGUMENT);
    }
    uint32_t status = arch_guard(take_attribute, gvcpu, &fault);
    if (status != CPC_S_FAULT) {
        return status == CPC_P_OK ? take_left(gvcpu, number) : status;
    }
    if (!snp_not_validated(&fault)) {
        arch_raise(&fault);
    }
    return PLATFORM_AT(CPC_PCALL_GVCPU, CPC_P_BAD_ARGUMENT);
}

uint32_t snp_freeze(void)
{
    struct snp *snp = snp_state();
    uint32_t status = snp_pcall(CPC_PCALL_FREEZE, 0, 0, 0);

    for (uint32_t i = 0; i < arch_boot_info()->gvcpu_max && status == CPC_P_OK; i++) {
        struct cpc_gvcpu info;               /* i < CPC_GVCPU_LIMIT */

        snp->gvcpu[i].state = SNP_GVCPU_OTHER;
        snp->gvcpu[i].left = false;
        uint32_t present = ask(i, &info);
        status = present == CPC_P_OK ? freeze_one(snp, i, &info)
                                     : PLATFORM_AT(CPC_PCALL_GVCPU, 0) | present;
    }
    return status;
}

uint32_t snp_release(void)
{
    struct snp *snp = snp_state();

    for (uint32_t i = 0; i < arch_boot_info()->gvcpu_max; i++) {
        struct snp_gvcpu *gvcpu = &snp->gvcpu[i];    /* i < CPC_GVCPU_LIMIT */
        uint32_t status = CPC_P_OK;

        if (gvcpu->left) {           /* STATE may have copied its registers there */
            crypto_wipe(platform_vmsa(i), sizeof(struct vmsa));
            gvcpu->left = false;
        }
        if (gvcpu->state == SNP_GVCPU_FROZEN) {
            status = rmpadjust(gvcpu->page, RMPADJUST_VMSA);
        } else if (gvcpu->state == SNP_GVCPU_LOADED) {
            status = create(i, gvcpu->apic_id, gvcpu->waits);
        }
        if (status != CPC_P_OK) {
            return status;
        }
        gvcpu->state = SNP_GVCPU_OTHER;
    }
    return snp_pcall(CPC_PCALL_RELEASE, 0, 0, 0);
}

uint32_t snp_vmsa_save(uint32_t gvcpu, uint32_t *bytes)
{
    const struct snp_gvcpu *from = &snp_state()->gvcpu[gvcpu];

    if (from->state != SNP_GVCPU_FROZEN) {
        return CPC_P_BAD_STATE;      /* FREEZE has frozen every one */
    }
    if (from->left) {                /* ours is free then */
        memcpy(platform_vmsa(gvcpu), from->page, sizeof(struct vmsa));
    }
    *bytes = sizeof(struct vmsa);
    return CPC_P_OK;
}

uint32_t snp_vmsa_load(uint32_t gvcpu, uint32_t bytes)
{
    struct snp_gvcpu *to = &snp_state()->gvcpu[gvcpu];
    struct cpc_gvcpu info;
    uint32_t status = ask(gvcpu, &info);

    if (status != CPC_P_OK) {
        return PLATFORM_AT(CPC_PCALL_GVCPU, 0) | status;
    }
    if (bytes != sizeof(struct vmsa) ||
        !sane((const struct vmsa *)(const void *)platform_vmsa(gvcpu))) {
        return CPC_P_BAD_ARGUMENT;
    }
    to->apic_id = info.apic_id;
    to->waits = (info.flags & CPC_GVCPU_WAITS) != 0;
    to->state = SNP_GVCPU_LOADED;
    return CPC_P_OK;
}

/* Where FREEZE took the attribute from the page, or did not get there, the gvCPU runs from it
   after a RESUME: those stay. */
void snp_vmsa_wipe(bool received)
{
    for (uint32_t i = 0; i < arch_boot_info()->gvcpu_max; i++) {
        struct snp_gvcpu *gvcpu = &snp_state()->gvcpu[i];    /* i < CPC_GVCPU_LIMIT */

        if (received || gvcpu->left) {
            crypto_wipe(platform_vmsa(i), sizeof(struct vmsa));
        }
        if (received) {
            gvcpu->state = SNP_GVCPU_OTHER;
        }
    }
}
