/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest that does its worst: requests by GHCB page and MSR, PVALIDATE,
 * RMPADJUST and accesses, at random, on one or two vCPUs. It keeps itself
 * alive: what it stands on is never an operand. It says on the debug console,
 * a line after every so many turns, what it has done, and BAD when private
 * pages have changed that only the host could have changed.
 */
#include "guest.h"

enum mode { RACE, WILD_VMSA, END_BY_MSR, END_BY_PAGE, SPOIL, WINDOW };

struct parameters { u64 seed, mode, end; };

/* What is counted; the words of a report, in this order. */
enum { PAGES, MSRS, PVALIDATES, RMPADJUSTS, TOUCHES, CAUGHT, CREATED, KINDS };

struct cpu {
    u64 random;
    u64 ghcb;           /* guest-physical */
    u64 second;         /* the vCPU that the other one makes */
    u64 done[KINDS];
};

#define REPORT_TURNS 512
static void turns(struct cpu *c);

static u64 rnd(struct cpu *c)
{
    u64 x = c->random;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return c->random = x;
}

/* One time in n. */
static int seldom(struct cpu *c, u32 n)
{
    return (u32)rnd(c) % n == 0;
}

static volatile u8 *ghcb(struct cpu *c)
{
    return (volatile u8 *)(SHARED + c->ghcb);
}

static void page_exit(struct cpu *c)
{
    msr_exit(c->ghcb);
}

static void pvalidate(struct cpu *c, u64 va, u64 size, u64 validate)
{
    u64 raised;

    __asm__ volatile(TRY(".byte 0xf2, 0x0f, 0x01, 0xff")
                     : "+a"(va), [raised] "=&S"(raised) : "c"(size), "d"(validate)
                     : TRY_CLOBBERS);
    c->done[CAUGHT] += raised != 0;
}

static void rmpadjust(struct cpu *c, u64 va, u64 size, u64 attributes)
{
    u64 raised;

    __asm__ volatile(TRY(".byte 0xf3, 0x0f, 0x01, 0xfe")
                     : "+a"(va), [raised] "=&S"(raised) : "c"(size), "d"(attributes)
                     : TRY_CLOBBERS);
    c->done[CAUGHT] += raised != 0;
}

/* A page whose state may change. */
static u64 page(struct cpu *c)
{
    u64 r = rnd(c);

    switch (r & 31) {
    case 0: case 1: case 2:
        return (PLAY + (r >> 8) % (PLAY_END - PLAY)) & ~0x1fffffULL;
    case 3:
        /* Chipset windows; not 0xf0000, where this image is a second time. */
        return 0xa0000 + ((r >> 8) & 0x4f000);
    case 4:
        return 0xc0000000 + ((r >> 8) & 0x3effffff & ~0xfffULL);
    case 5:
        return (0x100000000 | r >> 8) & 0xfffffff000;
    default:
        /* Mostly the same few, so that states follow each other. */
        return PLAY + ((r >> 8) & ((r & 0x1000) ? 0x3f : 0x1fff)) * 0x1000;
    }
}

/* An address that only the host is to access. */
static u64 anywhere(struct cpu *c)
{
    u64 r = rnd(c);

    switch (r & 7) {
    case 0: case 1:
        return CANARY + (r >> 8) % (CANARY_END - CANARY);
    case 2:
        return r >> 8;
    case 3:
        return 0xfec00000 + ((r >> 8) & 0x3fffff);
    default:
        return page(c) + ((r & 0x100) ? (r >> 9) & 0xfff : 0);
    }
}

static void psc_list(struct cpu *c)
{
    volatile u64 *list = (volatile u64 *)(ghcb(c) + BUFFER);
    u32 i, last = (u32)rnd(c) % 8;

    list[0] = (u64)last << 16;
    for (i = 0; i <= last; i++) {
        u64 r = rnd(c), gpa = page(c);
        u64 large = (r & 7) == 0 && gpa >= PLAY;

        list[1 + i] = (large ? gpa & ~0x1fffffULL : gpa) |
                      (u64)(1 + ((r >> 3) & 1)) << 52 | large << 56;
    }
    put(c->ghcb, SCRATCH, c->ghcb + BUFFER);
    put(c->ghcb, CODE, EXIT_PSC);
}

static void page_request(struct cpu *c)
{
    static const u32 codes[32] = {
        0x72, 0x7b, 0x7c, 0x80000001, 0x80000002, 0x80000003, 0x80000005, EXIT_PSC,
        0x80000011, 0x80000012, EXIT_AP_CREATION, 0x8000fffd, 0x81, 0x89, 0x27, 0x37,
        0x7b, 0x7c, 0x80000001, 0x80000002, EXIT_PSC, EXIT_PSC, 0x80000014, 0x8000ffff,
        0x7c, 0x6e, 0x80000002, 0x80000002, 0x80000001, 0x80000002, 0x80000011, 0x80000012,
    };
    volatile u8 *g = ghcb(c);
    u64 r = rnd(c);
    u32 i;

    for (i = RAX; i < 0x400; i += 8) {
        put(c->ghcb, i, rnd(c));
    }
    for (i = BUFFER; i < BUFFER + 0x100; i += 8) {
        put(c->ghcb, i, rnd(c));
    }
    *(volatile u16 *)(g + VERSION) = seldom(c, 64) ? (u16)r : 2;
    *(volatile u32 *)(g + USAGE) = seldom(c, 64) ? (u32)r : 0;
    if (!seldom(c, 8)) {
        put(c->ghcb, VALID, ~0ULL);
        put(c->ghcb, VALID + 8, ~0ULL);
    }
    put(c->ghcb, CODE, codes[r & 31]);
    put(c->ghcb, INFO1, anywhere(c));
    put(c->ghcb, INFO2, r & 0x100 ? anywhere(c) & ~0xfffULL : rnd(c) & 0x1f);
    put(c->ghcb, RAX, r & 0x200 ? anywhere(c) & ~0xfffULL : rnd(c));
    put(c->ghcb, SCRATCH, r & 0x400 ? anywhere(c) : c->ghcb + BUFFER);
    if (codes[r & 31] == EXIT_IO) {
        u64 port = rnd(c) & 0xffff;

        /* Not the port that reports go to. */
        put(c->ghcb, INFO1, ((port & ~7ULL) == (PORT & ~7) ? 0x80 : port) << 16 | (rnd(c) & 0x7f));
        put(c->ghcb, INFO2, rnd(c) & 0x1fff);
    } else if (codes[r & 31] == 0x7c) {
        put(c->ghcb, INFO1, r >> 9 & 1);
    } else if (codes[r & 31] == EXIT_AP_CREATION) {
        put(c->ghcb, INFO1, (rnd(c) & 0x300030003) | 4);      /* a request that there is not */
    } else if (codes[r & 31] == EXIT_PSC && (r & 0x800)) {
        psc_list(c);
    }
    page_exit(c);
    c->done[PAGES]++;
}

static void msr_request(struct cpu *c)
{
    static const u16 requests[8] = { 0x002, 0x004, 0x010, 0x012, 0x014, 0x080, 0x014, 0x014 };
    u64 request = requests[rnd(c) & 7];
    u64 value = request == 0x014 ? page(c) | (rnd(c) & 15) << 52 : rnd(c) & ~0xfffULL;

    msr_exit(value | request);
    msr_exit(c->ghcb | REGISTER);  /* register again: 0x012 may have changed it */
    c->done[MSRS] += 2;
}

static void touch(struct cpu *c)
{
    u64 raised, value = 0, va = page(c) | (rnd(c) & 0xff8);

    /* Without the C-bit now and then; not where devices are. */
    if (va >= PLAY_END) {
        return;
    }
    va += rnd(c) & 3 ? 0 : SHARED;
    if (rnd(c) & 1) {
        __asm__ volatile(TRY("mov (%%rdi), %%al") : "+a"(value), [raised] "=&S"(raised)
                         : "D"(va) : TRY_CLOBBERS);
    } else {
        __asm__ volatile(TRY("mov %%al, (%%rdi)") : "+a"(value), [raised] "=&S"(raised)
                         : "D"(va) : TRY_CLOBBERS);
    }
    c->done[CAUGHT] += raised != 0;
    c->done[TOUCHES]++;
}

/* Where the second vCPU starts: turns(second), as this one runs. */
static void fill_second(struct cpu *c, u64 mode)
{
    u32 i;

    fill_vmsa(VMSA, (u64)turns, STACK1 - 8, CPUS + 0x1000);
    for (i = 0; mode == WILD_VMSA && i < 1 + (u32)c->random % 4; i++) {
        *at(VMSA + rnd(c) % (0x670 / 8) * 8) = rnd(c) & (rnd(c) & 1 ? ~0ULL : rnd(c));
    }
    if (!((const struct parameters *)PARAMETERS)->end) {
        segment(VMSA + 0x90, 0, 0x8b);  /* the task register as it was */
    }
    if (mode == WILD_VMSA && !seldom(c, 16)) {
        *at(VMSA + 0xd0) |= 0x1000;
        *at(VMSA + 0x3b0) = 1;
    }
}

static void ap_request(struct cpu *c, u64 what, u64 vmpl, u64 vmsa)
{
    request(c->ghcb, EXIT_AP_CREATION, what | vmpl << 16 | 1ULL << 32, vmsa, 1);
    c->done[CREATED] += what == 1 && (u32)get(c->ghcb, INFO1) == 0;
}

static void second_vcpu(struct cpu *c, u64 mode)
{
    struct cpu *second = (struct cpu *)(CPUS + 0x1000);

    ap_request(c, 2, 0, VMSA);
    second->random = rnd(c) | 1;
    second->ghcb = GHCBS + 0x1000;
    second->second = 1;
    rmpadjust(c, VMSA, 0, 1);
    fill_second(c, mode);
    rmpadjust(c, VMSA, 0, 1 | 1 << 16);
    ap_request(c, 1, *(volatile u8 *)(VMSA + 0xca) & 15, VMSA);
}

static u64 pattern(u64 address)
{
    return address * 0x9e3779b97f4a7c15ULL;
}

static void report(struct cpu *c)
{
    struct cpu *both = (struct cpu *)CPUS, *second = (struct cpu *)(CPUS + 0x1000);
    volatile u8 line[KINDS * 17 + 1];
    u32 i, n = 0;
    u64 address;

    for (i = 0; i < KINDS; i++) {
        n += hex(line + n, both->done[i] + second->done[i]);
        line[n++] = i + 1 < KINDS ? ' ' : '\n';
    }
    say(c->ghcb, line, n);
    for (address = CANARY; address < CANARY_END; address += 8) {
        if (*at(address) != pattern(address)) {
            line[0] = 'B';
            line[1] = 'A';
            line[2] = 'D';
            line[3] = '\n';
            say(c->ghcb, line, 4);
            return;
        }
    }
}

static void turns(struct cpu *c)
{
    const struct parameters *p = (const struct parameters *)PARAMETERS;
    u64 n;

    msr_exit(c->ghcb | REGISTER);
    for (n = 1;; n++) {
        u32 choice = rnd(c) & 31;

        if (choice < 14) {
            page_request(c);
        } else if (choice < 17) {
            msr_request(c);
        } else if (choice < 22) {
            pvalidate(c, page(c) + (seldom(c, 16) ? SHARED : 0), seldom(c, 8),
                      rnd(c) & (seldom(c, 16) ? ~0ULL : 1));
            c->done[PVALIDATES]++;
        } else if (choice < 27) {
            rmpadjust(c, page(c) + (seldom(c, 16) ? SHARED : 0), seldom(c, 8),
                      rnd(c) & (seldom(c, 16) ? ~0ULL : 0x1ff03));
            c->done[RMPADJUSTS]++;
        } else {
            touch(c);
        }
        if (!c->second && n % REPORT_TURNS == 1) {
            report(c);
            second_vcpu(c, p->mode);
        }
    }
}

static void spin(void)
{
    for (;;) {
        (*at(SPINS))++;     /* no PAUSE: that leaves the guest */
    }
}

/* Configuration of the PCI device at 00:02.0. */
static void configure(struct cpu *c, u32 offset, u32 value)
{
    request(c->ghcb, EXIT_IO, 0xcf8 << 16 | 4 << 4, 0, 0x80001000 | offset);
    request(c->ghcb, EXIT_IO, 0xcfc << 16 | 4 << 4, 0, value);
}

/* A save area in the memory of a device, which goes while the vCPU runs. */
static void window(struct cpu *c)
{
    u32 i;

    configure(c, 0x10, WINDOW_PAGE);
    configure(c, 0x04, 2);
    pvalidate(c, WINDOW_PAGE, 0, 1);
    fill_vmsa(VMSA, (u64)spin, STACK1 - 8, 0);
    for (i = 0; i < 0x1000; i += 8) {
        *at(WINDOW_PAGE + i) = *at(VMSA + i);
    }
    rmpadjust(c, WINDOW_PAGE, 0, 1 | 1 << 16);
    ap_request(c, 1, 0, WINDOW_PAGE);
    while (!*at(SPINS)) {
        __asm__ volatile("pause");
    }
    say(c->ghcb, (const u8 *)"RUNS\n", 5);
    configure(c, 0x04, 0);
    rmpadjust(c, VMSA, 0, 1);           /* every vCPU leaves the guest for this */
    say(c->ghcb, (const u8 *)"SHUT\n", 5);
}

void guest(void)
{
    const struct parameters *p = (const struct parameters *)PARAMETERS;
    struct cpu *c = (struct cpu *)CPUS;
    u64 address;

    catch_exceptions();
    c->random = p->seed | 1;
    c->ghcb = GHCBS;
    for (address = CANARY; address < CANARY_END; address += 8) {
        *at(address) = pattern(address);
    }
    if (p->mode == SPOIL) {
        *at(CANARY_END - 8) ^= 1;
    }
    if (p->mode == END_BY_MSR) {
        msr_exit(p->end << 12 | TERMINATE);
    }
    msr_exit(c->ghcb | REGISTER);
    if (p->mode == END_BY_PAGE) {
        request(c->ghcb, EXIT_TERMINATE, p->end, 0, 0);
    }
    if (p->mode == WINDOW) {
        window(c);
    }
    turns(c);
}
