/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest that does what a list says, one step after the other, and reports
 * each on the debug console: vCPU, number, value, flags, exception, and two
 * values more. What is right is steps.py's to know. The second vCPU has a list
 * of its own, when a step of the first one makes it.
 */
#include "guest.h"

/* In the order of Op in steps.py. */
enum op {
    END, PVALIDATE, RMPADJUST, RMPQUERY, GRANT, READ, WRITE, CALL, REQUEST, PREPARE, VMGEXIT,
    CHANGE, MSR, SAVE_AREA, UNTIL, PAUSE, MOVES, COUNT, DUMP, COPY,
};

struct step { u64 op, a, b, c; };

/* said_by: another GHCB, so that a report changes nothing of a request between steps. */
struct cpu { u64 number, ghcb, said_by, list; };

struct result { u64 value, flags, raised, more[2]; };

/* In registers.S: where a vCPU starts with patterns in its registers. */
extern const char spin_with_patterns[], halt_with_patterns[], woken[];

/* Flags that no instruction under test leaves: CF set, ZF clear. */
#define UNLIKELY_FLAGS "cmp $1, %%r13d\n"
#define FLAGS "\npushfq; pop %[flags]"

static void pvalidate(struct result *r, u64 va, u64 size, u64 validate)
{
    __asm__ volatile(TRY(UNLIKELY_FLAGS ".byte 0xf2, 0x0f, 0x01, 0xff" FLAGS)
                     : "+a"(va), [raised] "=&S"(r->raised), [flags] "+r"(r->flags)
                     : "c"(size), "d"(validate) : TRY_CLOBBERS);
    r->value = va;
}

static void rmpadjust(struct result *r, u64 va, u64 size, u64 attributes)
{
    __asm__ volatile(TRY(UNLIKELY_FLAGS ".byte 0xf3, 0x0f, 0x01, 0xfe" FLAGS)
                     : "+a"(va), [raised] "=&S"(r->raised), [flags] "+r"(r->flags)
                     : "c"(size), "d"(attributes) : TRY_CLOBBERS);
    r->value = va;
}

static void rmpquery(struct result *r, u64 va, u64 size, u64 vmpl)
{
    __asm__ volatile(TRY(UNLIKELY_FLAGS ".byte 0xf3, 0x0f, 0x01, 0xfd" FLAGS)
                     : "+a"(va), [raised] "=&S"(r->raised), [flags] "+r"(r->flags),
                       "+c"(size), "+d"(vmpl) : : TRY_CLOBBERS);
    r->value = va;
    r->more[0] = vmpl;
    r->more[1] = size;
}

static void grant(struct result *r, u64 va, u64 pages, u64 attributes)
{
    u64 worst = 0;

    for (; pages; pages--, va += 0x1000) {
        rmpadjust(r, va, 0, attributes);
        worst |= r->value | r->raised;
    }
    r->value = worst;
}

static u64 cr2(void)
{
    u64 value;

    __asm__ volatile("mov %%cr2, %0" : "=r"(value));
    return value;
}

static void touch(struct result *r, u64 op, u64 va, u64 value)
{
    __asm__ volatile("mov %0, %%cr2" : : "r"(0UL));
    if (op == READ) {
        __asm__ volatile(TRY("mov (%%rdi), %%rax") : "+a"(value), [raised] "=&S"(r->raised)
                         : "D"(va) : TRY_CLOBBERS);
    } else if (op == WRITE) {
        __asm__ volatile(TRY("mov %%rax, (%%rdi)") : "+a"(value), [raised] "=&S"(r->raised)
                         : "D"(va) : TRY_CLOBBERS);
    } else {
        /* What faults at its first byte has not got a return address to take. */
        __asm__ volatile("mov %%rsp, %%rbx\n" TRY("call *%%rdi") "\nmov %%rbx, %%rsp"
                         : "+a"(value), [raised] "=&S"(r->raised)
                         : "D"(va) : "rbx", TRY_CLOBBERS);
    }
    r->value = value;
    r->more[0] = cr2();
}

static void page_exit(struct result *r, u64 ghcb)
{
    msr_exit(ghcb);
    r->value = get(ghcb, INFO1);
    r->more[0] = get(ghcb, INFO2);
    r->more[1] = get(ghcb, RAX);
}

static void by_msr(struct result *r, struct cpu *c, u64 value)
{
    u32 low, high;

    msr_exit(value);
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0xc0010130));
    r->value = (u64)high << 32 | low;
    if ((value & 0xfff) == REGISTER) {
        c->ghcb = value & ~0xfffULL;
    }
}

static u64 tsc(void)
{
    u32 low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static void pause(u64 ticks)
{
    u64 since = tsc();

    while (tsc() - since < ticks) {
        __asm__ volatile("pause");
    }
}

/* Whether it changes; looks more than once where that is not what is wanted. */
static u64 moves(u64 address, u64 wanted, u64 looks)
{
    u64 ticks = 1 << 26, changed = !wanted, before, turn;

    for (turn = 0; turn < looks && changed != wanted; turn++) {
        before = *at(address);
        pause(ticks);
        changed = *at(address) != before;
    }
    return changed;
}

static void words(struct cpu *c, char first, const u64 *value, u32 count)
{
    volatile u8 line[8 * 17 + 2];
    u32 i, n = 0;

    line[n++] = first;
    for (i = 0; i < count; i++) {
        line[n++] = ' ';
        n += hex(line + n, value[i]);
    }
    line[n++] = '\n';
    /* QEMU writes a byte at a time: lines of both would mix. */
    while (__atomic_exchange_n(at(LOCK), 1, __ATOMIC_ACQUIRE)) {
        __asm__ volatile("pause");
    }
    msr_exit(c->said_by | REGISTER);
    say(c->said_by, line, n);
    msr_exit(c->ghcb | REGISTER);
    __atomic_store_n(at(LOCK), 0, __ATOMIC_RELEASE);
}

static void dump(struct cpu *c, u64 address, u64 bytes)
{
    u64 end = address + bytes, line[5];
    u32 i;

    for (; address < end; address += 32) {
        line[0] = address;
        for (i = 0; i < 4; i++) {
            line[1 + i] = *at(address + i * 8);
        }
        words(c, '=', line, 5);
    }
}

static void follow(struct cpu *c);

static u64 entry(u64 which)
{
    return (u64)(which == 0 ? (const char *)follow :
                 which == 1 ? spin_with_patterns : halt_with_patterns);
}

static void one(struct result *r, struct cpu *c, const struct step *s)
{
    switch (s->op) {
    case PVALIDATE:
        pvalidate(r, s->a, s->b, s->c);
        break;
    case RMPADJUST:
        rmpadjust(r, s->a, s->b, s->c);
        break;
    case RMPQUERY:
        rmpquery(r, s->a, s->b, s->c);
        break;
    case GRANT:
        grant(r, s->a, s->b, s->c);
        break;
    case READ: case WRITE: case CALL:
        touch(r, s->op, s->a, s->b);
        break;
    case REQUEST: case PREPARE:
        put(c->ghcb, SCRATCH, c->ghcb + BUFFER);
        prepare(c->ghcb, s->a, s->b, s->c, 1);
        if (s->op == REQUEST) {
            page_exit(r, c->ghcb);
        }
        break;
    case VMGEXIT:
        page_exit(r, s->a ? s->a : c->ghcb);
        break;
    case CHANGE:    /* a field of the GHCB, 8 bytes or 4 */
        if (s->c == 4) {
            *(volatile u32 *)(SHARED + c->ghcb + s->a) = s->b;
        } else {
            put(c->ghcb, s->a, s->b);
        }
        break;
    case MSR:
        by_msr(r, c, s->a);
        break;
    case SAVE_AREA:
        fill_vmsa(s->a, entry(s->b), STACK1 - 8, CPUS + 0x1000);
        *at(s->a + 0xc8) = s->c << 16;
        break;
    case UNTIL:
        while (*at(s->a) != s->b) {
            __asm__ volatile("pause");
        }
        break;
    case PAUSE:
        pause(s->a);
        break;
    case MOVES:
        r->value = moves(s->a, s->b, s->c);
        break;
    case COUNT:
        for (;;) {
            (*at(s->a))++;      /* no PAUSE: that leaves the guest */
        }
    case COPY:
        for (r->more[0] = 0; r->more[0] < s->c; r->more[0] += 8) {
            *at(s->a + r->more[0]) = *at(s->b + r->more[0]);
        }
        break;
    case DUMP:
        dump(c, s->a, s->b);
        break;
    }
}

static void follow(struct cpu *c)
{
    const struct step *s = (const struct step *)c->list;
    u64 number;

    msr_exit(c->ghcb | REGISTER);
    for (number = 0; s[number].op != END; number++) {
        struct result r = { 0 };
        u64 line[7];

        one(&r, c, &s[number]);
        line[0] = c->number;
        line[1] = number;
        line[2] = r.value;
        line[3] = r.flags;
        line[4] = r.raised;
        line[5] = r.more[0];
        line[6] = r.more[1];
        words(c, '>', line, 7);
    }
    if (c->number == 0) {
        msr_exit(TERMINATE);
    }
    for (;;) {
        __asm__ volatile("hlt");
    }
}

void guest(void)
{
    struct cpu *c = (struct cpu *)CPUS, *second = (struct cpu *)(CPUS + 0x1000);

    catch_exceptions();
    gate(2, woken);
    *c = (struct cpu) { 0, GHCBS, GHCBS + 0x2000, LIST0 };
    *second = (struct cpu) { 1, GHCBS + 0x1000, GHCBS + 0x3000, LIST1 };
    follow(c);
}
