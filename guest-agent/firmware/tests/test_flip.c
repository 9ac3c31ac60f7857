/* SPDX-License-Identifier: Apache-2.0 */
/*
 * No second look at shared bytes: a thread flips bytes of the ring and flips
 * them back while records are sealed into it and opened from it. Whatever
 * verifies must be exactly what was sealed. The last tests show that the check
 * can fail: a suite that does look twice, declared as one that does not.
 */
#include "driver.h"
#include "firmware.h"

#define RECORDS 3000u

static struct host_machine *machine;
static struct call *one_call;
static bool stop_flipping;

static void *flip(void *argument)
{
    volatile uint8_t *ring = argument;
    uint64_t state = 1;

    while (!__atomic_load_n(&stop_flipping, __ATOMIC_ACQUIRE)) {
        /* behind the header, in the page's ciphertext */
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t at = sizeof(struct cpc_record) + (state >> 33) % CPC_PAGE_SIZE;
        ring[at] ^= 0x40;
        for (uint32_t i = 0; i < (state >> 60); i++) {
            __builtin_ia32_pause();
        }
        ring[at] ^= 0x40;
    }
    return NULL;
}

static void begin(void)
{
    machine = host_machine_new(&standard_layout);
    host_machine = machine;
    CHECK_IS(firmware_init(), CPC_S_OK);
    struct runtime *runtime = runtime_get();
    one_call = &runtime->hvcpu[0].call;
    one_call->runtime = runtime;
    one_call->hvcpu = &runtime->hvcpu[0];
    one_call->mailbox = host_mailbox(machine, 0);
    one_call->request = 1;
    touch_page(machine, 0, 0, 4711);
}

static struct channel channel_of(const struct cpc_suite *suite)
{
    struct channel channel = { .suite = suite, .epoch = 1, .streams = 1, .direction = 1 };
    memset(channel.key, 0x5a, sizeof(channel.key));
    return channel;
}

static struct record_body one_page(void)
{
    return (struct record_body){ .type = CPC_RECORD_PAGES, .kind = CPC_KIND_PRIVATE,
                                 .version = 1, .count = 1 };
}

/* Empty the ring and let the next record begin at its first byte again. */
static void rewind_ring(void)
{
    ring_reset(&one_call->hvcpu->ring);
}

struct outcome {
    uint32_t same;
    uint32_t refused;
    uint32_t different;      /* verified, and yet not what was sealed */
};

static struct outcome seal_while_flipping(const struct cpc_suite *suite, uint32_t records)
{
    static uint8_t copy[RECORD_SIZE_MAX];
    struct channel channel = channel_of(suite);
    const struct cpc_region *region = &machine->table.region[0];
    struct outcome outcome = { 0 };
    static uint8_t bounce[CPC_RUN_BYTES];

    for (uint32_t i = 0; i < records && outcome.different == 0; i++) {
        struct record_body body = one_page();
        uint8_t nonce[16];
        rewind_ring();
        record_nonce(nonce, channel.sequence, channel.epoch);
        CHECK_IS(operator_mee(one_call, &channel, &body, region, 0, bounce), CPC_S_OK);
        memcpy(copy, machine->ring[0], record_size(body.length));
        const struct cpc_record *record = (const void *)copy;
        uint8_t *page = copy + sizeof(*record);
        if (suite->open(page, page, body.length, record->tag, copy, CPC_RECORD_AAD,
                        nonce, channel.key) != 0) {
            outcome.refused++;
        } else if (memcmp(page, machine->region[0].memory, CPC_PAGE_SIZE) == 0) {
            outcome.same++;
        } else {
            outcome.different++;
        }
    }
    return outcome;
}

static struct outcome open_while_flipping(const struct cpc_suite *suite, uint32_t records)
{
    struct channel sender = channel_of(suite);
    struct channel receiver = channel_of(suite);
    const struct cpc_region *region = &machine->table.region[0];
    struct outcome outcome = { 0 };
    static uint8_t bounce[CPC_RUN_BYTES];
    static uint8_t sealed[RECORD_SIZE_MAX];
    struct record_body body = one_page();

    rewind_ring();
    CHECK_IS(operator_mee(one_call, &sender, &body, region, 0, bounce), CPC_S_OK);
    memcpy(sealed, machine->ring[0], record_size(body.length));
    for (uint32_t i = 0; i < records && outcome.different == 0; i++) {
        struct cpc_record record;
        rewind_ring();
        receiver.sequence = 0;
        memcpy(machine->ring[0], sealed, record_size(body.length));
        host_ring(machine, 0)->head = record_size(body.length);
        uint32_t status = operator_sdi(one_call, &receiver, &record);
        if (status == CPC_S_WIRE_TAG) {
            outcome.refused++;
        } else {
            CHECK_IS(status, CPC_S_OK);
            bool same = memcmp(one_call->hvcpu->buffer, machine->region[0].memory,
                               CPC_PAGE_SIZE) == 0;
            outcome.same += same;
            outcome.different += !same;
        }
    }
    return outcome;
}

static struct outcome with_flipper(struct outcome (*work)(const struct cpc_suite *,
                                                          uint32_t),
                                   const struct cpc_suite *suite, uint32_t records)
{
    pthread_t flipper;

    stop_flipping = false;
    CHECK(pthread_create(&flipper, NULL, flip, machine->ring[0]) == 0);
    struct outcome outcome = work(suite, records);
    __atomic_store_n(&stop_flipping, true, __ATOMIC_RELEASE);
    pthread_join(flipper, NULL);
    return outcome;
}

/* For every suite, until the flipper has hit records and missed some. */
static void every_suite(struct outcome (*work)(const struct cpc_suite *, uint32_t))
{
    begin();
    for (uint32_t id = 1; id <= CPC_SUITE_CHACHA20POLY1305; id++) {
        const struct cpc_suite *suite = crypto_suite(id);
        if (suite != NULL) {
            struct outcome outcome = { 0 };
            double deadline = now() + DEADLINE_SECONDS;
            while ((outcome.refused == 0 || outcome.same == 0) && now() < deadline) {
                struct outcome more = with_flipper(work, suite, RECORDS);
                outcome.same += more.same;
                outcome.refused += more.refused;
                outcome.different += more.different;
            }
            CHECK_IS(outcome.different, 0);
            CHECK(outcome.same > 0);
            CHECK(outcome.refused > 0);  /* the flipper did hit records */
        }
    }
    host_machine_free(machine);
}

static void flips_while_sealing(void)
{
    every_suite(seal_while_flipping);
}

static void flips_while_opening(void)
{
    every_suite(open_while_flipping);
}

/*
 * A cipher that encrypts in one pass and authenticates what it reads back from
 * its output in a second one.
 */
static int careless_seal(uint8_t *ciphertext, uint8_t *tag, const uint8_t *plaintext,
                         size_t size, const uint8_t *aad, size_t aad_size,
                         const uint8_t nonce[16], const uint8_t *key)
{
    const struct cpc_suite *suite = crypto_suite(CPC_SUITE_AES256GCM);
    static uint8_t first[CPC_PAGE_SIZE], second[CPC_PAGE_SIZE];

    CHECK(suite->seal(first, tag, plaintext, size, aad, aad_size, nonce, key) == 0);
    memcpy(ciphertext, first, size);
    for (size_t i = 0; i < size; i++) {
        second[i] = plaintext[i] ^ first[i] ^ ((volatile uint8_t *)ciphertext)[i];
    }
    return suite->seal(second, tag, second, size, aad, aad_size, nonce, key);
}

/* A cipher that verifies in one pass and decrypts in a second one. */
static int careless_open(uint8_t *plaintext, const uint8_t *ciphertext, size_t size,
                         const uint8_t *tag, const uint8_t *aad, size_t aad_size,
                         const uint8_t nonce[16], const uint8_t *key)
{
    const struct cpc_suite *suite = crypto_suite(CPC_SUITE_AES256GCM);
    static uint8_t first[CPC_PAGE_SIZE], second[CPC_PAGE_SIZE];

    memcpy(first, ciphertext, size);
    memcpy(second, first, size);
    if (suite->open(plaintext, first, size, tag, aad, aad_size, nonce, key) != 0) {
        return -1;
    }
    for (size_t i = 0; i < size; i++) {
        plaintext[i] ^= second[i] ^ ((const volatile uint8_t *)ciphertext)[i];
    }
    return 0;
}

static void find_a_lie(struct outcome (*work)(const struct cpc_suite *, uint32_t),
                       struct cpc_suite careless)
{
    double deadline = now() + DEADLINE_SECONDS;
    uint32_t different = 0;

    careless.single_load = true;     /* the lie */
    while (different == 0) {
        different = with_flipper(work, &careless, RECORDS).different;
        pause_until(deadline, "a forged record");
    }
    host_machine_free(machine);
}

static void the_check_finds_a_seal_that_looks_twice(void)
{
    begin();
    struct cpc_suite careless = *crypto_suite(CPC_SUITE_AES256GCM);
    careless.seal = careless_seal;
    find_a_lie(seal_while_flipping, careless);
}

static void the_check_finds_an_open_that_looks_twice(void)
{
    begin();
    struct cpc_suite careless = *crypto_suite(CPC_SUITE_AES256GCM);
    careless.open = careless_open;
    find_a_lie(open_while_flipping, careless);
}

static const struct test tests[] = {
    { "flips_while_sealing", flips_while_sealing },
    { "flips_while_opening", flips_while_opening },
    { "the_check_finds_a_seal_that_looks_twice",
      the_check_finds_a_seal_that_looks_twice },
    { "the_check_finds_an_open_that_looks_twice",
      the_check_finds_an_open_that_looks_twice },
};
TEST_MAIN(tests)
