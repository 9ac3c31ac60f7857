/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-or-later */
/*
 * cpc_abi.h: the one definition of everything that the host, the patched QEMU
 * and the firmware share.
 *
 * Three borders meet here, and a field belongs to exactly one of them:
 *
 *   image      what QEMU reads from the firmware file before it starts it
 *   platform   what the firmware asks of the hardware. On the plain platform
 *              the cpc device plays the hardware; the calls live in trusted
 *              memory and on an MMIO page that only an hvCPU can see. On
 *              SEV-SNP the processor does most of it; what is left is asked of
 *              the host through shared memory, and its answers are hints
 *   shared     the ring file, mapped by the host; everything read from it is
 *              hostile and is copied once before it is looked at
 *
 * All integers are little-endian. Sizes are in bytes unless a name says pages.
 * The Python mirror is cpcctl/abi.py; tests/pure/test_abi.py compiles this
 * header and compares every constant, size and offset.
 */
#ifndef CPC_ABI_H
#define CPC_ABI_H

#include <stdint.h>

#define CPC_ABI_VERSION        5u
#define CPC_PAGE_SHIFT         12
#define CPC_PAGE_SIZE          4096u
#define CPC_HVCPU_LIMIT        16u     /* hvCPUs a machine may have */
#define CPC_GVCPU_LIMIT        256u    /* gvCPUs a migration can carry */
#define CPC_REGION_LIMIT       32u     /* migratable RAM blocks */
#define CPC_REGION_NAME        64u     /* a RAM block's name, with its NUL */
#define CPC_RUN_PAGES          16u     /* pages in one PAGES record, 64 KiB */
#define CPC_RUN_BYTES          (CPC_RUN_PAGES * CPC_PAGE_SIZE)
#define CPC_VMSA_STRIDE        16384u  /* room for one gvCPU's saved state */

/* ---- the hvCPU's address space (second-stage view) ---------------------- */

/*
 * The firmware's virtual addresses. On the plain platform the view is laid out
 * the same way, and all of it lies below 512 GiB for guests of up to 256 GiB:
 * under KVM it has to fit what the CPU can address, and client CPUs have 39
 * bits. On SEV-SNP hvCPUs have the guest's own physical addresses; boot_info
 * says where in them these things are.
 */
#define CPC_TRUSTED_BASE       0x0000000000100000ull  /* firmware, its tables */
#define CPC_SHM_BASE           0x0000002000000000ull  /* the ring file */
#define CPC_MMIO_BASE          0x0000003000000000ull  /* one page of registers */
#define CPC_WINDOW_BASE        0x0000004000000000ull  /* guest RAM, flat */

/* SEV-SNP: the same in guest-physical addresses, above all of the guest's own
   memory, which may reach up to CPC_SNP_TRUSTED_GPA. That is congruent to
   CPC_TRUSTED_BASE modulo 2 MiB, so that large pages map it. */
#define CPC_SNP_TRUSTED_GPA    0x0000001e00100000ull
#define CPC_SNP_SHM_GPA        0x0000002000000000ull
#define CPC_SNP_MMIO_GPA       0x0000003000000000ull

/* Registers on the MMIO page: 64-bit writes, anything else is ignored. */
#define CPC_MMIO_PARK          0x00u  /* any value: sleep until woken */
#define CPC_MMIO_CALL          0x08u  /* address of a struct cpc_pcall */

/* ---- image: the firmware file ------------------------------------------- */

#define CPC_IMAGE_MAGIC        0x57464350u            /* "PCFW" */

/*
 * First bytes of the flat firmware image. QEMU copies image_size bytes to
 * CPC_TRUSTED_BASE, clears up to memory_size and starts every hvCPU at
 * CPC_TRUSTED_BASE + entry in 64-bit mode with CR3 = CPC_TRUSTED_BASE + cr3,
 * interrupts off, RDI = hvCPU number, RSI = address of struct cpc_boot_info.
 *
 * On SEV-SNP the image is at boot_info.trusted_gpa, RIP and RSI are the same
 * virtual addresses as on the plain platform, CR3 points to tables that the
 * launch put behind struct cpc_boot_info (below), and EFER, CR0, CR4 and XCR0
 * are final. Every gvCPU starts there too, with RDI = CPC_ENTRY_GVCPU, and
 * waits (AP reset hold) for an hvCPU to create it anew.
 */
#define CPC_ENTRY_GVCPU        0x100u

struct cpc_image_header {
    uint32_t magic;          /* CPC_IMAGE_MAGIC */
    uint32_t abi;            /* CPC_ABI_VERSION */
    uint32_t image_size;     /* bytes in the file */
    uint32_t memory_size;    /* image plus bss and stacks, page aligned */
    uint32_t entry;          /* offset of the first instruction */
    uint32_t cr3;            /* offset of the boot page tables */
    char     version[40];    /* printable, NUL terminated */
};

/* ---- platform: what the hardware tells the firmware --------------------- */

#define CPC_BOOT_MAGIC         0x54424350u            /* "PCBT" */
#define CPC_PLATFORM_PLAIN     1u
#define CPC_PLATFORM_SEV_SNP   2u

/* One migratable RAM block. */
struct cpc_region {
    uint32_t id;             /* index in the table, stable while it exists */
    uint32_t flags;          /* CPC_REGION_* */
    uint64_t window;         /* where its first byte is in the hvCPU's view */
    uint64_t pages;
    uint64_t first_page;     /* its first page in flat numbering: the index
                                into the dirty bitmap and the version table;
                                a multiple of 64 */
    char     name[CPC_REGION_NAME];   /* same on both ends of a migration */
};

#define CPC_REGION_PRESENT     1u
#define CPC_REGION_INDIRECT    2u  /* ROM or flash: window is 0, only
                                      CPC_PCALL_COPY_OUT / _IN reach it */

/* Bytes the firmware needs from free_base on: its state, the buffers of every
   hvCPU and 4 bytes a page. The platform sizes trusted memory with it. */
#define CPC_TABLES_BYTES(max_pages, hvcpu_max) \
    (0x200000ull + 0x80000ull * (hvcpu_max) + 4ull * (max_pages))

struct cpc_region_table {
    uint32_t generation;     /* changes whenever an entry does */
    uint32_t count;
    struct cpc_region region[CPC_REGION_LIMIT];
};

/* Guest physical memory, whole pages. */
struct cpc_snp_range {
    uint64_t gpa;
    uint64_t pages;
};

#define CPC_SNP_LAUNCH         32u

/* Written by the platform before the first hvCPU starts; never changes. */
struct cpc_boot_info {
    uint32_t magic;          /* CPC_BOOT_MAGIC */
    uint32_t abi;
    uint32_t platform;       /* CPC_PLATFORM_* */
    uint32_t hvcpu_max;
    uint32_t gvcpu_max;      /* hotplug slots included */
    uint32_t vmsa_stride;    /* CPC_VMSA_STRIDE */
    uint64_t trusted_size;   /* from CPC_TRUSTED_BASE */
    uint64_t free_base;      /* first byte the firmware may use for tables */
    uint64_t shm_size;       /* the whole ring file */
    uint64_t ring_size;      /* bytes of one data ring, a power of two */
    uint64_t bitmap_offset;  /* of the dirty hint in the ring file */
    uint64_t max_pages;      /* upper bound of the flat page numbering */
    uint64_t region_table;   /* address of struct cpc_region_table */
    uint64_t vmsa_base;      /* address of gvCPU 0's VMSA */
    uint64_t trusted_gpa;    /* physical address of CPC_TRUSTED_BASE, ... */
    uint64_t shm_gpa;        /* ... of CPC_SHM_BASE and ... */
    uint64_t mmio_gpa;       /* ... of CPC_MMIO_BASE */
    uint64_t c_bit;          /* SEV-SNP: page table bit of private pages */
    uint32_t cpu_features;   /* SEV-SNP: CPC_CPU_*, in place of CPUID */
    uint32_t incoming;       /* 1: launched to receive; frozen from the start,
                                the only launch that may be a destination. On
                                SEV-SNP 0 here, because this is measured: the
                                hints say it */
    uint64_t ap_reset;       /* SEV-SNP: where gvCPUs but the first start in
                                real mode, as OVMF asks: CS base in bits 31:16,
                                IP in bits 15:0 */
    uint32_t launch_ranges;  /* SEV-SNP: <= CPC_SNP_LAUNCH */
    uint32_t pad;            /* 0 */
    /* Guest memory that the launch validates: OVMF itself, then what its
       metadata asks for, in that order. No page twice. */
    struct cpc_snp_range launch[CPC_SNP_LAUNCH];
};

/*
 * On SEV-SNP all of trusted memory is measured with the launch: the image,
 * cleared up to memory_size; struct cpc_boot_info in the page behind it; the
 * boot page tables in the CPC_SNP_BOOT_TABLES pages behind that: level 4,
 * level 3, level 2, level 1. They map from CPC_TRUSTED_BASE to its end, rounded
 * up to 2 MiB, private and writable: 4 KiB pages up to 2 MiB, then large ones.
 * The rest up to trusted_size is zero.
 */
#define CPC_SNP_BOOT_TABLES    4u

#define CPC_CPU_AES            1u  /* AES-NI, PCLMUL, SSE4.1, AVX, enabled */
#define CPC_CPU_VAES           2u  /* and AVX2 */
#define CPC_CPU_RDSEED         4u
#define CPC_CPU_RDRAND         8u

/*
 * A call to the platform. Lives in trusted memory, one an hvCPU. The firmware
 * sets status to CPC_P_PENDING, writes the address to CPC_MMIO_CALL and waits,
 * re-reading status, until it is something else: FREEZE and RELEASE are done
 * by another thread, and instructions after the write may run meanwhile.
 */
struct cpc_pcall {
    uint32_t op;             /* CPC_PCALL_* */
    uint32_t status;         /* CPC_P_*, written by the platform */
    uint64_t arg[5];
    uint64_t ret;
};

#define CPC_P_OK               0u
#define CPC_P_BAD_ARGUMENT     1u
#define CPC_P_BAD_STATE        2u   /* not frozen, already frozen, ... */
#define CPC_P_NOT_PRESENT      3u   /* no such gvCPU; VMSA_SAVE says so before
                                       it says BAD_STATE, so the firmware can
                                       count gvCPUs while the guest runs */
#define CPC_P_FAILED           4u   /* the platform tried and could not */
#define CPC_P_PENDING          0xffffffffu  /* not answered yet */

/* region, first page, pages (<= CPC_KINDS_MAX), address of a byte a page */
#define CPC_PCALL_KINDS        1u
/* region, first page, pages: content gone, pages absent */
#define CPC_PCALL_ERASE        2u
/* region, first page, pages (<= CPC_RUN_PAGES), address: region -> address */
#define CPC_PCALL_COPY_OUT     3u
/* same arguments: address -> region */
#define CPC_PCALL_COPY_IN      4u
/* stop every gvCPU; from now on only a release lets them run */
#define CPC_PCALL_FREEZE       5u
/* let them run: source that resumes, destination after its commit */
#define CPC_PCALL_RELEASE      6u
/* gvCPU: its registers into its VMSA; ret = bytes */
#define CPC_PCALL_VMSA_SAVE    7u
/* gvCPU, bytes: the other way round */
#define CPC_PCALL_VMSA_LOAD    8u
/* address of 32 bytes: SHA-256 of the device state saved or loaded last
   since the gvCPUs were frozen; BAD_STATE when there is none */
#define CPC_PCALL_DEVICE_DIGEST 9u
/* OK when every disk is active (locks held) here, else BAD_STATE */
#define CPC_PCALL_DISKS_ACTIVE 10u
/* OK when every disk is inactive (locks dropped) here, else BAD_STATE */
#define CPC_PCALL_DISKS_INACTIVE 11u
/* vector, instruction address, fault address: for the event and the log */
#define CPC_PCALL_FAULT        12u

/* gvCPU: struct cpc_gvcpu; NOT_PRESENT when there is no such gvCPU. SEV-SNP
   only, in place of VMSA_SAVE and VMSA_LOAD */
#define CPC_PCALL_GVCPU        13u

#define CPC_KINDS_MAX          32768u

/*
 * On SEV-SNP the call is struct cpc_pcall at the start of the hvCPU's page at
 * CPC_SHM_PCALL; what would be an address is its page at CPC_SHM_BOUNCE, so
 * KINDS takes at most CPC_PAGE_SIZE pages and COPY_OUT and COPY_IN one. The
 * firmware writes any value to mmio_gpa + CPC_MMIO_CALL by an MMIO request
 * (GHCB exit 0x80000002), and parks the same way. Every answer is the host's:
 * checked for sense, never believed about what is private.
 */
struct cpc_gvcpu {
    uint64_t vmsa_gpa;       /* the page it runs from, or will after INIT; 0:
                                its launch save area */
    uint32_t apic_id;
    uint32_t flags;          /* CPC_GVCPU_* */
};

#define CPC_GVCPU_WAITS        1u  /* destination: nobody had started it at the
                                      source, create it for the next INIT */

/* ---- page kinds --------------------------------------------------------- */

#define CPC_KIND_ABSENT        0u
#define CPC_KIND_PRIVATE       1u
#define CPC_KIND_SHARED        2u

/* ---- shared: the ring file ---------------------------------------------- */

/*
 * Layout, in pages:
 *   0                  struct cpc_shm_header (for the host; firmware ignores it)
 *   1 .. 16            struct cpc_mailbox of hvCPU 0 .. 15
 *   17 .. 32           struct cpc_ring of hvCPU 0 .. 15
 *   33 .. 48           GHCB of hvCPU 0 .. 15           (these on SEV-SNP only)
 *   49 .. 64           struct cpc_pcall of hvCPU 0 .. 15
 *   65 .. 80           bounce page of hvCPU 0 .. 15
 *   81 .. 82           struct cpc_snp_hints
 *   256 .. (1 MiB)     dirty hint, one bit a page in flat numbering
 *   CPC_SHM_DATA(..)   data rings, ring_size each, 2 MiB aligned
 */
#define CPC_SHM_MAGIC          0x4853435043ull        /* "CPCSH" */
#define CPC_SHM_MAILBOX        (1u * CPC_PAGE_SIZE)
#define CPC_SHM_RING           (17u * CPC_PAGE_SIZE)
#define CPC_SHM_GHCB           (33u * CPC_PAGE_SIZE)
#define CPC_SHM_PCALL          (49u * CPC_PAGE_SIZE)
#define CPC_SHM_BOUNCE         (65u * CPC_PAGE_SIZE)
#define CPC_SHM_HINTS          (81u * CPC_PAGE_SIZE)
#define CPC_SHM_BITMAP         0x100000u
#define CPC_SHM_ALIGN          0x200000u
/* Flat page numbers a machine needs, from its maximum RAM (hotplug included):
   512 MiB cover video RAM, ROMs and flash. The ring file then has
   data_offset = align_up(CPC_SHM_BITMAP + max_pages / 8, CPC_SHM_ALIGN) and
   shm_size = data_offset + hvcpu_max * ring_size. */
#define CPC_MAX_PAGES(maxram_bytes) (((maxram_bytes) + 0x20000000ull) >> CPC_PAGE_SHIFT)
#define CPC_RING_MIN           0x200000u
#define CPC_RING_MAX           0x4000000u

struct cpc_shm_header {
    uint64_t magic;
    uint32_t abi;
    uint32_t hvcpu_max;
    uint64_t ring_size;
    uint64_t bitmap_bytes;
    uint64_t data_offset;    /* of hvCPU 0's data ring */
    uint64_t shm_size;
};

/*
 * A byte ring with one producer and one consumer. head and tail count bytes
 * since the ring was reset and never wrap; the byte at position p lies at
 * p % ring_size. Export: the firmware moves head. Import: the host does.
 * A successful OPEN sets every ring's head and tail to 0; the host leaves the
 * rings alone from its OPEN request until the reply.
 */
struct cpc_ring {
    uint64_t head;           /* bytes ever produced */
    uint8_t  pad0[120];
    uint64_t tail;           /* bytes ever consumed */
    uint8_t  pad1[120];
};

/*
 * What the host tells an SEV-SNP guest's firmware; it may lie. Regions have
 * window 0: the firmware maps flat page p at CPC_WINDOW_BASE + p * 4096, from
 * the extents, which must lie in regions that are not indirect, not overlap in
 * either numbering, and leave out all that is the firmware's.
 */
struct cpc_snp_extent {
    uint64_t gpa;
    uint64_t first_page;     /* in flat numbering */
    uint64_t pages;
};
#define CPC_SNP_EXTENTS        64u

struct cpc_snp_hints {
    uint32_t incoming;       /* 1: start no gvCPU, wait to receive */
    uint32_t extents;
    struct cpc_snp_extent extent[CPC_SNP_EXTENTS];
    struct cpc_region_table table;
};

#define CPC_PAYLOAD_MAX        3584u

/*
 * One call at a time. The host fills op, arg and payload, then increments
 * request, then wakes the hvCPU. The firmware copies the page once, runs the
 * call, writes status, result and payload, then sets done = request. A wake
 * with done == request means nothing and parks again. While the call runs the
 * host may set cancel = request.
 */
struct cpc_mailbox {
    /* host to firmware */
    uint32_t request;
    uint32_t op;             /* CPC_OP_* */
    uint64_t arg[6];
    uint32_t payload_size;
    uint32_t cancel;
    uint8_t  pad0[64];
    /* firmware to host */
    uint32_t done;
    uint32_t status;         /* CPC_S_* */
    uint32_t state;          /* CPC_STATE_* */
    uint32_t reply_size;
    uint64_t result[4];
    /* progress of the running call; only ever grows while it runs */
    uint64_t pages;          /* pages sealed or inserted with content */
    uint64_t zero_pages;
    uint64_t records;
    uint64_t bytes;          /* on the wire */
    /* after CPC_S_FAULT: vector, instruction address, fault address */
    uint64_t fault[3];
    uint8_t  pad1[280];
    uint8_t  payload[CPC_PAYLOAD_MAX];
};

#define CPC_STATE_COLD         0u
#define CPC_STATE_PARKED       1u
#define CPC_STATE_RUNNING      2u
#define CPC_STATE_YIELDED      3u   /* parked inside a call: ring full / empty */

/* ---- calls: CPC_OP(module, function) ------------------------------------ */

#define CPC_OP(module, function)  (((module) << 16) | (function))
#define CPC_MODULE_CORE        0u
#define CPC_MODULE_MIGRATE     1u

/* core */
#define CPC_OP_PING            CPC_OP(0u, 1u)  /* reply: struct cpc_ping_reply */
/* suite, CPC_SPEED_*, records: seal or open so many records of CPC_RUN_BYTES
   within trusted memory. No reply: the host times the call and has only
   itself to deceive. The firmware has no clock to do it with: TCG's TSC
   stands still while gvCPUs are stopped, as a destination's are, and
   elsewhere the host sets its rate. */
#define CPC_OP_SPEED           CPC_OP(0u, 2u)
#define CPC_SPEED_SEAL         1u
#define CPC_SPEED_OPEN         2u
#define CPC_SPEED_RECORDS_MAX  1024u

struct cpc_ping_reply {
    uint32_t abi;
    uint32_t hvcpu;
    uint32_t suites;         /* bit n: CPC_SUITE n passed its known answers */
    uint32_t platform;
    uint64_t calls;          /* calls this hvCPU has finished */
    char     version[40];
};

/*
 * migrate. One session at a time. A session is OPENed, its HELLO exchanged,
 * CONFIRMed by both sides, and from the first error on it only answers ABORT
 * (destination) or RESUME (source) and QUERY.
 *
 * OPEN as source: the guest must be released here and no session be open. OPEN
 * as destination: only once, on a machine launched as incoming. A destination
 * that reached RUNNING may OPEN as source. RECV returns when the stream's END
 * (stream 0: the MANIFEST) has been taken; it yields while the ring is empty,
 * as SEND and STATE do while it is full. SEND's round grows by at least one a
 * call; stream s of n owns the pages whose number in their region / 512 mod n
 * is s (flat numbers may differ between the two ends).
 *
 *  op        side  args                      payload -> reply
 *  OPEN      both  role, suites allowed      -          -> struct cpc_hello
 *  ACCEPT    both  -                         peer hello -> confirmation (32 B)
 *  CONFIRM   both  -                         peer confirmation -> -
 *  SEND      src   stream, streams, round,   -          -> -   ring: records
 *                  flags CPC_SEND_*
 *  RECV      dst   stream                    -          -> -   ring: records
 *  FREEZE    src   -                         -          -> -
 *  STATE     src   streams                   -          -> -   ring of stream 0:
 *                                            VMSA records, MANIFEST
 *  PREPARE   dst   -                         -          -> token PREPARED
 *  COMMIT    src   -                         PREPARED   -> token COMMIT
 *  RUN       dst   -                         COMMIT     -> token RUNNING
 *  FINISH    src   -                         RUNNING    -> -
 *  ABORT     dst   -                         -          -> token ABORT
 *  RESUME    src   -                         ABORT (needed after COMMIT) -> -
 *  QUERY     both  -                         -          -> struct cpc_session_info
 */
#define CPC_OP_OPEN            CPC_OP(1u, 1u)
#define CPC_OP_ACCEPT          CPC_OP(1u, 2u)
#define CPC_OP_CONFIRM         CPC_OP(1u, 3u)
#define CPC_OP_SEND            CPC_OP(1u, 4u)
#define CPC_OP_RECV            CPC_OP(1u, 5u)
#define CPC_OP_FREEZE          CPC_OP(1u, 6u)
#define CPC_OP_STATE           CPC_OP(1u, 7u)
#define CPC_OP_PREPARE         CPC_OP(1u, 8u)
#define CPC_OP_COMMIT          CPC_OP(1u, 9u)
#define CPC_OP_RUN             CPC_OP(1u, 10u)
#define CPC_OP_FINISH          CPC_OP(1u, 11u)
#define CPC_OP_ABORT           CPC_OP(1u, 12u)
#define CPC_OP_RESUME          CPC_OP(1u, 13u)
#define CPC_OP_QUERY           CPC_OP(1u, 14u)

#define CPC_ROLE_SOURCE        1u
#define CPC_ROLE_DESTINATION   2u

#define CPC_SEND_FULL          1u   /* every page that is not absent */
#define CPC_SEND_FINAL         2u   /* after FREEZE: dirty hint, changed kinds,
                                       then the stream's END record */

/* phase of the session, as QUERY reports it */
#define CPC_PHASE_NONE         0u
#define CPC_PHASE_OPEN         1u   /* hello made */
#define CPC_PHASE_ACCEPTED     2u   /* peer hello taken, keys derived */
#define CPC_PHASE_STREAMING    3u   /* confirmed by both */
#define CPC_PHASE_FROZEN       4u   /* source only */
#define CPC_PHASE_MANIFEST     5u   /* manifest sealed / received */
#define CPC_PHASE_PREPARED     6u   /* destination: token signed */
#define CPC_PHASE_COMMITTED    7u   /* source: never runs again by itself */
#define CPC_PHASE_RUNNING      8u   /* destination released / source told so */
#define CPC_PHASE_ABORTED      9u   /* given up for ever */
#define CPC_PHASE_FAILED       10u

struct cpc_session_info {
    uint32_t phase;
    uint32_t role;
    uint32_t suite;
    uint32_t failure;        /* CPC_S_* that ended the session, or 0 */
    uint8_t  session[16];
};

/* ---- suites ------------------------------------------------------------- */

#define CPC_SUITE_AEGIS128L    1u   /* 256-bit tag, 128-bit key and nonce */
#define CPC_SUITE_AEGIS128X2   2u   /* the same, two lanes, VAES */
#define CPC_SUITE_AES256GCM    3u   /* 128-bit tag, 96-bit nonce */
#define CPC_SUITE_CHACHA20POLY1305 4u
#define CPC_SUITE_BIT(s)       (1u << (s))
#define CPC_TAG_MAX            32u
#define CPC_KEY_MAX            32u

/* ---- wire: hello and tokens --------------------------------------------- */

#define CPC_WIRE_VERSION       1u
#define CPC_HELLO_MAGIC        0x48435043u            /* "CPCH" */

struct cpc_hello_region {
    char     name[CPC_REGION_NAME];
    uint64_t pages;
};

/* What each firmware tells the other; both are hashed into every key. */
struct cpc_hello {
    uint32_t magic;
    uint32_t wire;           /* CPC_WIRE_VERSION */
    uint32_t role;
    uint32_t suites;         /* acceptable suites, bit mask */
    uint8_t  nonce[32];
    uint8_t  x25519[32];     /* ephemeral public key */
    uint8_t  signer[97];     /* ephemeral P-384 public key, uncompressed */
    uint8_t  pad[3];
    uint32_t platform;
    uint32_t gvcpus;         /* highest gvCPU number present, plus one */
    uint32_t regions;
    char     version[40];
    uint32_t pad1;
    struct cpc_hello_region region[CPC_REGION_LIMIT];
};

#define CPC_TOKEN_MAGIC        0x54435043u            /* "CPCT" */
#define CPC_TOKEN_PREPARED     1u   /* signed by the destination */
#define CPC_TOKEN_COMMIT       2u   /* signed by the source */
#define CPC_TOKEN_RUNNING      3u   /* signed by the destination */
#define CPC_TOKEN_ABORT        4u   /* signed by the destination */

struct cpc_token {
    uint32_t magic;
    uint32_t wire;
    uint32_t type;           /* CPC_TOKEN_* */
    uint32_t pad;
    uint8_t  session[16];
    uint8_t  manifest[32];   /* digest of the manifest; zero in ABORT */
    uint8_t  signature[96];  /* ECDSA P-384, r then s, over all bytes before */
};

/* ---- wire: records ------------------------------------------------------ */

#define CPC_RECORD_MAGIC       0x52435043u            /* "CPCR" */

/*
 * On the ring and on the network a record is this header, then length bytes
 * of ciphertext, then zero padding to a multiple of 64. The first
 * CPC_RECORD_AAD bytes are the additional authenticated data. docs/
 * stream-format.md has the meaning of address and count for every type.
 */
struct cpc_record {
    uint32_t magic;
    uint8_t  wire;           /* CPC_WIRE_VERSION */
    uint8_t  type;           /* CPC_RECORD_* */
    uint8_t  kind;           /* CPC_KIND_* of the pages */
    uint8_t  suite;
    uint16_t stream;
    uint8_t  direction;      /* CPC_ROLE_* of the sender */
    uint8_t  streams;        /* streams of this migration, the same in every
                                record: it decides who owns a page */
    uint32_t epoch;
    uint8_t  session[16];
    uint64_t sequence;       /* from 0, per stream and direction, no gaps */
    uint64_t address;        /* CPC_ADDRESS(region, page), gvCPU, ... */
    uint32_t version;        /* round in which the pages were sealed, from 1 */
    uint32_t count;          /* pages, extents, ... */
    uint32_t length;         /* bytes of ciphertext */
    uint32_t pad1;
    uint8_t  tag[CPC_TAG_MAX];   /* unused bytes zero */
    uint8_t  pad2[32];           /* zero */
};

#define CPC_RECORD_AAD         64u   /* up to the tag */
#define CPC_RECORD_ALIGN       64u
#define CPC_ADDRESS(region, page)  (((uint64_t)(region) << 40) | (page))
#define CPC_ADDRESS_REGION(a)  ((uint32_t)((a) >> 40))
#define CPC_ADDRESS_PAGE(a)    ((a) & 0xffffffffffull)

#define CPC_RECORD_PAGES       1u   /* count pages from address */
#define CPC_RECORD_ZERO        2u   /* count extents of zero pages */
#define CPC_RECORD_KIND        3u   /* count extents that became absent */
#define CPC_RECORD_ROUND       4u   /* a round of this stream is complete */
#define CPC_RECORD_VMSA        5u   /* address = gvCPU number */
#define CPC_RECORD_MANIFEST    6u   /* struct cpc_manifest */
#define CPC_RECORD_END         7u   /* nothing follows but VMSA and MANIFEST,
                                       and those on stream 0 only */

/* Payload of ZERO and KIND. */
struct cpc_extent {
    uint64_t address;
    uint32_t pages;
    uint32_t pad;
};
#define CPC_EXTENTS_MAX        2048u

/* Payload of MANIFEST: what the destination must have, all of it. */
struct cpc_manifest {
    uint32_t streams;
    uint32_t regions;
    uint32_t gvcpus;         /* VMSA records sent */
    uint32_t pad;
    uint64_t records[CPC_HVCPU_LIMIT];      /* per stream, up to its END */
    uint8_t  device_digest[32];             /* SHA-256 of the device state */
    uint8_t  vmsa_tag[CPC_TAG_MAX];         /* over every VMSA record's tag */
    uint8_t  pages_tag[CPC_REGION_LIMIT][CPC_TAG_MAX];
        /* per region of the source's table: keyed tag over one uint32 a page:
           kind << 30 | version */
};

/* ---- status ------------------------------------------------------------- */

/* 0, then blocks of 100: call, session, wire, handover, platform, internal. */
#define CPC_S_OK               0u
/* the call */
#define CPC_S_UNKNOWN_OP       100u
#define CPC_S_BAD_ARGUMENT     101u
#define CPC_S_BAD_PAYLOAD      102u  /* size or content of the mailbox payload */
#define CPC_S_CANCELLED        103u
#define CPC_S_BUSY             104u  /* another hvCPU is in that call */
/* the session */
#define CPC_S_NO_SESSION       200u
#define CPC_S_WRONG_PHASE      201u
#define CPC_S_WRONG_ROLE       202u
#define CPC_S_PEER_WIRE        203u  /* peer speaks another wire version */
#define CPC_S_PEER_PLATFORM    204u
#define CPC_S_PEER_REGIONS     205u  /* RAM blocks differ */
#define CPC_S_PEER_GVCPUS      206u
#define CPC_S_NO_SUITE         207u  /* no suite both sides allow */
#define CPC_S_PEER_KEY         208u  /* peer key invalid */
#define CPC_S_CONFIRMATION     209u  /* keys differ: someone in between */
#define CPC_S_SESSION_FAILED   210u  /* an earlier error ended the session */
#define CPC_S_SESSION_EXISTS   211u  /* abort or resume the open one first */
#define CPC_S_NO_ENTROPY       212u
/* the wire: each names what is wrong with the stream */
#define CPC_S_WIRE_MAGIC       300u
#define CPC_S_WIRE_VERSION     301u
#define CPC_S_WIRE_TYPE        302u
#define CPC_S_WIRE_LENGTH      303u
#define CPC_S_WIRE_SUITE       304u
#define CPC_S_WIRE_STREAM      305u
#define CPC_S_WIRE_DIRECTION   306u
#define CPC_S_WIRE_EPOCH       307u
#define CPC_S_WIRE_SESSION     308u  /* a record of another session */
#define CPC_S_WIRE_SEQUENCE    309u  /* replayed, reordered or missing */
#define CPC_S_WIRE_TAG         310u  /* altered */
#define CPC_S_WIRE_ADDRESS     311u
#define CPC_S_WIRE_KIND        312u
#define CPC_S_WIRE_PAGE_VERSION 313u /* not newer than what is there */
#define CPC_S_WIRE_COUNT       314u
#define CPC_S_WIRE_PADDING     315u
#define CPC_S_WIRE_AFTER_END   316u
#define CPC_S_WIRE_OWNER       317u  /* address belongs to another stream */
/* the handover */
#define CPC_S_INCOMPLETE       400u  /* a stream has not ended */
#define CPC_S_MANIFEST_PAGES   401u  /* a page is missing, stale or too many */
#define CPC_S_MANIFEST_STREAMS 402u
#define CPC_S_MANIFEST_VMSA    403u
#define CPC_S_MANIFEST_DEVICES 404u  /* device state loaded is not the one sent */
#define CPC_S_TOKEN            405u  /* malformed, or of the wrong type */
#define CPC_S_TOKEN_SESSION    406u
#define CPC_S_TOKEN_SIGNATURE  407u
#define CPC_S_COMMITTED        408u  /* source: needs the destination's ABORT */
#define CPC_S_DISKS            409u  /* disks in the wrong state for this step */
#define CPC_S_DEVICE_STATE     410u  /* none saved / loaded since the freeze */
/* the platform refused */
#define CPC_S_PLATFORM         500u  /* result[0] = pcall op, [1] = CPC_P_* */
/* inside */
#define CPC_S_FAULT            600u  /* exception; see fault[] */
#define CPC_S_CRYPTO           601u
#define CPC_S_KNOWN_ANSWER     602u  /* no usable suite on this CPU */
#define CPC_S_TOO_LARGE        603u  /* guest larger than trusted memory allows */
#define CPC_S_RING             604u  /* host moved head or tail absurdly */
#define CPC_S_BOOT_INFO        605u
#define CPC_S_HARDWARE         606u  /* SEV-SNP: PVALIDATE, RMPADJUST or a
                                        VMGEXIT failed where it must not */

#endif /* CPC_ABI_H */
