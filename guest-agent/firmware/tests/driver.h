/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side for tests: posts calls, moves ciphertext between rings,
 * keeps it, changes it. Also the few words every test is written in.
 */
#ifndef CPC_TESTS_DRIVER_H
#define CPC_TESTS_DRIVER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpc_abi.h"
#include "machine.h"
#include "migrate.h"

/* A failed check ends the test program and names file, line and values. */
#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);   \
            abort();                                                         \
        }                                                                    \
    } while (0)
#define CHECK_IS(got, want)                                                  \
    do {                                                                     \
        unsigned long long got_ = (got), want_ = (want);                     \
        if (got_ != want_) {                                                 \
            fprintf(stderr, "%s:%d: %s is %llu, not %llu\n", __FILE__,        \
                    __LINE__, #got, got_, want_);                            \
            abort();                                                         \
        }                                                                    \
    } while (0)

struct test {
    const char *name;
    void (*run)(void);
};
/* Runs all, or those named on the command line; prints one line each. */
int test_main(int argc, char **argv, const struct test *tests, size_t count);
#define TEST_MAIN(tests)                                                     \
    int main(int argc, char **argv)                                          \
    {                                                                        \
        return test_main(argc, argv, tests, sizeof(tests) / sizeof((tests)[0])); \
    }

bool all_zero(const void *data, size_t size);
/* The session of that machine holds no key any more. */
void no_keys(struct host_machine *machine);

#define DEADLINE_SECONDS 20.0
double now(void);
/* Give the processor away; ends the program after the deadline. */
void pause_until(double deadline, const char *waiting_for);

/* ---- calls --------------------------------------------------------------- */

struct answer {
    uint32_t status;
    uint32_t size;
    uint64_t result[4];
    uint64_t fault[3];
    uint8_t payload[CPC_PAYLOAD_MAX];
};

void post(struct host_machine *machine, uint32_t hvcpu, uint32_t op,
          const uint64_t arg[6], const void *payload, uint32_t size);
bool answered(struct host_machine *machine, uint32_t hvcpu);
struct answer take_answer(struct host_machine *machine, uint32_t hvcpu);
void cancel(struct host_machine *machine, uint32_t hvcpu);
/* post on hvCPU 0, wait, take. */
struct answer call(struct host_machine *machine, uint32_t op, uint64_t arg0,
                   uint64_t arg1, const void *payload, uint32_t size);

/* ---- ciphertext ---------------------------------------------------------- */

/* What one stream carried, in the host's own memory. */
struct wire {
    uint8_t *bytes;
    size_t size;
    size_t room;
};

void wire_append(struct wire *wire, const void *bytes, size_t size);
void wire_free(struct wire *wire);
/* The n-th record of a type (0: any type), or NULL. */
struct cpc_record *wire_find(const struct wire *wire, uint8_t type, uint32_t n);
size_t wire_record_size(const struct cpc_record *record);
/* Take a whole record out. */
void wire_cut(struct wire *wire, struct cpc_record *record);
/* Put bytes in front of a record. */
void wire_insert(struct wire *wire, const struct cpc_record *before,
                 const void *bytes, size_t size);

/* Run an exporting call and keep what it writes. */
struct answer export_call(struct host_machine *machine, uint32_t hvcpu, uint32_t op,
                          const uint64_t arg[6], struct wire *wire);
/* RECV fed with all of the wire; cancelled when it wants more. */
struct answer import_call(struct host_machine *machine, uint32_t hvcpu,
                          uint32_t stream, const struct wire *wire);
/* Move what is there from an exporting to an importing ring. */
void pump(struct host_machine *from, struct host_machine *to, uint32_t hvcpu);

/* ---- two machines -------------------------------------------------------- */

struct pair {
    struct host_machine *source;
    struct host_machine *destination;
};

extern const struct host_layout standard_layout;

/* Standard layout, or one changed by the test. */
struct pair pair_new(const struct host_layout *source,
                     const struct host_layout *destination);
void pair_free(struct pair *pair);
/* What each end has to show to the other one at CONFIRM. */
struct proofs {
    struct answer source;
    struct answer destination;
};

/* OPEN and ACCEPT on both sides with these suites. */
struct proofs pair_accept(struct pair *pair, uint32_t suites);
struct answer confirm(struct host_machine *machine, const struct answer *proof);
/* OPEN, ACCEPT, CONFIRM on both sides with these suites. */
void pair_open(struct pair *pair, uint32_t suites);
/* Zero pages, content, holes, a shared page; the same for the same seed. */
void fill_guest(struct host_machine *machine, uint32_t seed);
void touch_page(struct host_machine *machine, uint32_t region, uint64_t page,
                uint64_t value);
void mark_dirty(struct host_machine *machine, uint32_t region, uint64_t page);
/* Move the guest's memory into the ring: full round of `streams` streams. */
struct answer send_round(struct host_machine *machine, uint32_t stream,
                         uint32_t streams, uint32_t round, uint64_t flags,
                         struct wire *wire);
/* What the hosts do around the device state. */
void save_devices(struct host_machine *machine, uint8_t byte);
void load_devices(struct host_machine *machine, uint8_t byte);
/* FREEZE, FINAL and STATE of one stream into the wire. */
void finish_source(struct pair *pair, uint32_t round, struct wire *wire);
/* A whole one-stream wire of a filled guest, frozen and sealed. */
void make_wire(struct pair *pair, struct wire *wire);
/* The table of regions as the firmware is shown it. */
struct cpc_region_table *table_of(struct host_machine *machine);
bool same_memory(const struct pair *pair);
uint64_t resident_pages(struct host_machine *machine, uint32_t region);
struct migrate_session *session_of(struct host_machine *machine);
struct cpc_session_info query(struct host_machine *machine);

#endif
