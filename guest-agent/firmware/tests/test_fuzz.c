/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plain mutating driver for the fuzz targets. The sequence is the same in
 * every run; CPC_FUZZ_RUNS makes it longer, CPC_FUZZ_SEED makes it another.
 */
#include "driver.h"
#include "fuzz_targets.h"

#define ROOM 400000u

static uint64_t random_state;

static uint64_t next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

/* Numbers that parsers get wrong. */
static const uint64_t edges[] = { 0, 1, 16, 17, 0x7f, 0xff, 0xffff, 0x7fffffff,
                                  0x80000000, 0xffffffff, 0xffffffffffull,
                                  1ull << 63, UINT64_MAX };

static size_t mutate(uint8_t *data, size_t size)
{
    size_t head = size < 400 ? size : 400;
    size_t at = 1 + next() % ((next() % 4 == 0 ? size : head) - 1);

    switch (next() % 6) {
    case 0:
        data[at] ^= (uint8_t)(1u << next() % 8);
        break;
    case 1:
        data[at] = (uint8_t)next();
        break;
    case 2: {
        size_t width = (size_t)1 << next() % 4;
        uint64_t value = edges[next() % ARRAY_SIZE(edges)];
        if (at + width <= size) {
            memcpy(data + at, &value, width);
        }
        break;
    }
    case 3:                      /* cut */
        return at > 1 ? at : size;
    case 4: {                    /* copy a piece somewhere else */
        size_t from = 1 + next() % (size - 1);
        size_t most = size - (from > at ? from : at);
        memmove(data + at, data + from, most != 0 ? next() % most : 0);
        break;
    }
    default:                     /* leave it: several rounds make few changes */
        break;
    }
    return size;
}

static void fuzz(uint32_t target, uint64_t runs)
{
    static uint8_t seed[ROOM], data[ROOM];
    size_t seed_size = fuzz_seed(target, seed, ROOM);

    random_state = setting("CPC_FUZZ_SEED", 0x9e3779b97f4a7c15ull) + target;
    for (uint64_t i = 0; i < runs; i++) {
        size_t size = seed_size;
        memcpy(data, seed, seed_size);
        if (target == FUZZ_CALL) {
            data[1] = (uint8_t)next();   /* the function */
            data[2] = (uint8_t)(next() % 4);
        }
        for (uint64_t changes = next() % 4 + 1; changes > 0 && size > 1; changes--) {
            size = mutate(data, size);
        }
        LLVMFuzzerTestOneInput(data, size);
    }
}

static void ring(void)
{
    static uint8_t seed[ROOM];
    size_t size = fuzz_seed(FUZZ_RING, seed, ROOM);

    /* The seed itself gets through, or mutating it would show nothing. */
    LLVMFuzzerTestOneInput(seed, size);
    CHECK_IS(fuzz_ring_records(), 4);
    fuzz(FUZZ_RING, setting("CPC_FUZZ_RUNS", 1) * 3000);
}

static void header(void)
{
    fuzz(FUZZ_HEADER, setting("CPC_FUZZ_RUNS", 1) * 300000);
}

static void hello(void)
{
    fuzz(FUZZ_HELLO, setting("CPC_FUZZ_RUNS", 1) * 1000);
}

static void token(void)
{
    fuzz(FUZZ_TOKEN, setting("CPC_FUZZ_RUNS", 1) * 300);
}

static void any_call(void)
{
    fuzz(FUZZ_CALL, setting("CPC_FUZZ_RUNS", 1) * 3000);
}

static void hints(void)
{
    fuzz(FUZZ_HINTS, setting("CPC_FUZZ_RUNS", 1) * 3000);
}

static void reply(void)
{
    fuzz(FUZZ_REPLY, setting("CPC_FUZZ_RUNS", 1) * 500);
}

static const struct test tests[] = {
    { "ring", ring },     { "header", header },     { "hello", hello },
    { "token", token },   { "any_call", any_call }, { "hints", hints },
    { "reply", reply },
};

int main(int argc, char **argv)
{
    fuzz_begin();
    int status = test_main(argc, argv, tests, ARRAY_SIZE(tests));
    fuzz_end();
    return status;
}
