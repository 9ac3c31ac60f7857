# SPDX-License-Identifier: Apache-2.0
"""Mirror of guest-agent/abi/cpc_abi.h; a test compiles the header and compares.

Names are those of the header without the CPC_ prefix; struct cpc_shm_header
is ShmHeader.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_uint8, c_uint16, c_uint32, c_uint64

ABI_VERSION = 5
PAGE_SHIFT = 12
PAGE_SIZE = 4096
HVCPU_LIMIT = 16
GVCPU_LIMIT = 256
REGION_LIMIT = 32
REGION_NAME = 64
RUN_PAGES = 16
RUN_BYTES = RUN_PAGES * PAGE_SIZE
VMSA_STRIDE = 16384

TRUSTED_BASE = 0x100000
SHM_BASE = 0x2000000000
MMIO_BASE = 0x3000000000
WINDOW_BASE = 0x4000000000
SNP_TRUSTED_GPA = 0x1E00100000
SNP_SHM_GPA = 0x2000000000
SNP_MMIO_GPA = 0x3000000000
MMIO_PARK = 0x00
MMIO_CALL = 0x08

ENTRY_GVCPU = 0x100
IMAGE_MAGIC = 0x57464350
BOOT_MAGIC = 0x54424350
PLATFORM_PLAIN = 1
PLATFORM_SEV_SNP = 2
REGION_PRESENT = 1
REGION_INDIRECT = 2
SNP_BOOT_TABLES = 4
SNP_LAUNCH = 32
CPU_AES = 1
CPU_VAES = 2
CPU_RDSEED = 4
CPU_RDRAND = 8

P_OK = 0
P_BAD_ARGUMENT = 1
P_BAD_STATE = 2
P_NOT_PRESENT = 3
P_FAILED = 4
P_PENDING = 0xFFFFFFFF

PCALL_KINDS = 1
PCALL_ERASE = 2
PCALL_COPY_OUT = 3
PCALL_COPY_IN = 4
PCALL_FREEZE = 5
PCALL_RELEASE = 6
PCALL_VMSA_SAVE = 7
PCALL_VMSA_LOAD = 8
PCALL_DEVICE_DIGEST = 9
PCALL_DISKS_ACTIVE = 10
PCALL_DISKS_INACTIVE = 11
PCALL_FAULT = 12
PCALL_GVCPU = 13
GVCPU_WAITS = 1
KINDS_MAX = 32768


def TABLES_BYTES(max_pages: int, hvcpu_max: int) -> int:
    """Bytes the firmware needs in trusted memory besides its image."""
    return 0x200000 + 0x80000 * hvcpu_max + 4 * max_pages


KIND_ABSENT = 0
KIND_PRIVATE = 1
KIND_SHARED = 2

SHM_MAGIC = 0x4853435043
SHM_MAILBOX = 1 * PAGE_SIZE
SHM_RING = 17 * PAGE_SIZE
SHM_GHCB = 33 * PAGE_SIZE
SHM_PCALL = 49 * PAGE_SIZE
SHM_BOUNCE = 65 * PAGE_SIZE
SHM_HINTS = 81 * PAGE_SIZE
SHM_BITMAP = 0x100000
SHM_ALIGN = 0x200000
RING_MIN = 0x200000
RING_MAX = 0x4000000
SNP_EXTENTS = 64
PAYLOAD_MAX = 3584

STATE_COLD = 0
STATE_PARKED = 1
STATE_RUNNING = 2
STATE_YIELDED = 3

MODULE_CORE, MODULE_MIGRATE = 0, 1


def MAX_PAGES(maxram_bytes: int) -> int:
    """Flat page numbers a machine with that much maximum RAM needs."""
    return (maxram_bytes + 0x20000000) >> PAGE_SHIFT


def OP(module: int, function: int) -> int:
    """Number of a call."""
    return module << 16 | function


OP_PING = OP(0, 1)
OP_SPEED = OP(0, 2)
SPEED_SEAL, SPEED_OPEN, SPEED_RECORDS_MAX = 1, 2, 1024
OP_OPEN = OP(1, 1)
OP_ACCEPT = OP(1, 2)
OP_CONFIRM = OP(1, 3)
OP_SEND = OP(1, 4)
OP_RECV = OP(1, 5)
OP_FREEZE = OP(1, 6)
OP_STATE = OP(1, 7)
OP_PREPARE = OP(1, 8)
OP_COMMIT = OP(1, 9)
OP_RUN = OP(1, 10)
OP_FINISH = OP(1, 11)
OP_ABORT = OP(1, 12)
OP_RESUME = OP(1, 13)
OP_QUERY = OP(1, 14)

ROLE_SOURCE = 1
ROLE_DESTINATION = 2
SEND_FULL = 1
SEND_FINAL = 2

PHASE_NONE = 0
PHASE_OPEN = 1
PHASE_ACCEPTED = 2
PHASE_STREAMING = 3
PHASE_FROZEN = 4
PHASE_MANIFEST = 5
PHASE_PREPARED = 6
PHASE_COMMITTED = 7
PHASE_RUNNING = 8
PHASE_ABORTED = 9
PHASE_FAILED = 10

SUITE_AEGIS128L = 1
SUITE_AEGIS128X2 = 2
SUITE_AES256GCM = 3
SUITE_CHACHA20POLY1305 = 4
TAG_MAX = 32
KEY_MAX = 32


def SUITE_BIT(suite: int) -> int:
    """Bit of a suite in a mask of suites."""
    return 1 << suite


WIRE_VERSION = 1
HELLO_MAGIC = 0x48435043
TOKEN_MAGIC = 0x54435043
TOKEN_PREPARED = 1
TOKEN_COMMIT = 2
TOKEN_RUNNING = 3
TOKEN_ABORT = 4

RECORD_MAGIC = 0x52435043
RECORD_AAD = 64
RECORD_ALIGN = 64
RECORD_PAGES = 1
RECORD_ZERO = 2
RECORD_KIND = 3
RECORD_ROUND = 4
RECORD_VMSA = 5
RECORD_MANIFEST = 6
RECORD_END = 7
EXTENTS_MAX = 2048


def ADDRESS(region: int, page: int) -> int:
    """Address on the wire."""
    return region << 40 | page


def ADDRESS_REGION(address: int) -> int:
    """Region of an address."""
    return address >> 40 & 0xFFFFFFFF


def ADDRESS_PAGE(address: int) -> int:
    """Page of an address."""
    return address & 0xFFFFFFFFFF


S_OK = 0
S_UNKNOWN_OP = 100
S_BAD_ARGUMENT = 101
S_BAD_PAYLOAD = 102
S_CANCELLED = 103
S_BUSY = 104
S_NO_SESSION = 200
S_WRONG_PHASE = 201
S_WRONG_ROLE = 202
S_PEER_WIRE = 203
S_PEER_PLATFORM = 204
S_PEER_REGIONS = 205
S_PEER_GVCPUS = 206
S_NO_SUITE = 207
S_PEER_KEY = 208
S_CONFIRMATION = 209
S_SESSION_FAILED = 210
S_SESSION_EXISTS = 211
S_NO_ENTROPY = 212
S_WIRE_MAGIC = 300
S_WIRE_VERSION = 301
S_WIRE_TYPE = 302
S_WIRE_LENGTH = 303
S_WIRE_SUITE = 304
S_WIRE_STREAM = 305
S_WIRE_DIRECTION = 306
S_WIRE_EPOCH = 307
S_WIRE_SESSION = 308
S_WIRE_SEQUENCE = 309
S_WIRE_TAG = 310
S_WIRE_ADDRESS = 311
S_WIRE_KIND = 312
S_WIRE_PAGE_VERSION = 313
S_WIRE_COUNT = 314
S_WIRE_PADDING = 315
S_WIRE_AFTER_END = 316
S_WIRE_OWNER = 317
S_INCOMPLETE = 400
S_MANIFEST_PAGES = 401
S_MANIFEST_STREAMS = 402
S_MANIFEST_VMSA = 403
S_MANIFEST_DEVICES = 404
S_TOKEN = 405
S_TOKEN_SESSION = 406
S_TOKEN_SIGNATURE = 407
S_COMMITTED = 408
S_DISKS = 409
S_DEVICE_STATE = 410
S_PLATFORM = 500
S_FAULT = 600
S_CRYPTO = 601
S_KNOWN_ANSWER = 602
S_TOO_LARGE = 603
S_RING = 604
S_BOOT_INFO = 605
S_HARDWARE = 606


class ImageHeader(ctypes.LittleEndianStructure):
    _fields_ = (
        ("magic", c_uint32),
        ("abi", c_uint32),
        ("image_size", c_uint32),
        ("memory_size", c_uint32),
        ("entry", c_uint32),
        ("cr3", c_uint32),
        ("version", c_char * 40),
    )


class Region(ctypes.LittleEndianStructure):
    _fields_ = (
        ("id", c_uint32),
        ("flags", c_uint32),
        ("window", c_uint64),
        ("pages", c_uint64),
        ("first_page", c_uint64),
        ("name", c_char * REGION_NAME),
    )


class RegionTable(ctypes.LittleEndianStructure):
    _fields_ = (
        ("generation", c_uint32),
        ("count", c_uint32),
        ("region", Region * REGION_LIMIT),
    )


class SnpRange(ctypes.LittleEndianStructure):
    _fields_ = (
        ("gpa", c_uint64),
        ("pages", c_uint64),
    )


class BootInfo(ctypes.LittleEndianStructure):
    _fields_ = (
        ("magic", c_uint32),
        ("abi", c_uint32),
        ("platform", c_uint32),
        ("hvcpu_max", c_uint32),
        ("gvcpu_max", c_uint32),
        ("vmsa_stride", c_uint32),
        ("trusted_size", c_uint64),
        ("free_base", c_uint64),
        ("shm_size", c_uint64),
        ("ring_size", c_uint64),
        ("bitmap_offset", c_uint64),
        ("max_pages", c_uint64),
        ("region_table", c_uint64),
        ("vmsa_base", c_uint64),
        ("trusted_gpa", c_uint64),
        ("shm_gpa", c_uint64),
        ("mmio_gpa", c_uint64),
        ("c_bit", c_uint64),
        ("cpu_features", c_uint32),
        ("incoming", c_uint32),
        ("ap_reset", c_uint64),
        ("launch_ranges", c_uint32),
        ("pad", c_uint32),
        ("launch", SnpRange * SNP_LAUNCH),
    )


class Pcall(ctypes.LittleEndianStructure):
    _fields_ = (
        ("op", c_uint32),
        ("status", c_uint32),
        ("arg", c_uint64 * 5),
        ("ret", c_uint64),
    )


class Gvcpu(ctypes.LittleEndianStructure):
    _fields_ = (
        ("vmsa_gpa", c_uint64),
        ("apic_id", c_uint32),
        ("flags", c_uint32),
    )


class ShmHeader(ctypes.LittleEndianStructure):
    _fields_ = (
        ("magic", c_uint64),
        ("abi", c_uint32),
        ("hvcpu_max", c_uint32),
        ("ring_size", c_uint64),
        ("bitmap_bytes", c_uint64),
        ("data_offset", c_uint64),
        ("shm_size", c_uint64),
    )


class Ring(ctypes.LittleEndianStructure):
    _fields_ = (
        ("head", c_uint64),
        ("pad0", c_uint8 * 120),
        ("tail", c_uint64),
        ("pad1", c_uint8 * 120),
    )


class SnpExtent(ctypes.LittleEndianStructure):
    _fields_ = (
        ("gpa", c_uint64),
        ("first_page", c_uint64),
        ("pages", c_uint64),
    )


class SnpHints(ctypes.LittleEndianStructure):
    _fields_ = (
        ("incoming", c_uint32),
        ("extents", c_uint32),
        ("extent", SnpExtent * SNP_EXTENTS),
        ("table", RegionTable),
    )


class Mailbox(ctypes.LittleEndianStructure):
    _fields_ = (
        ("request", c_uint32),
        ("op", c_uint32),
        ("arg", c_uint64 * 6),
        ("payload_size", c_uint32),
        ("cancel", c_uint32),
        ("pad0", c_uint8 * 64),
        ("done", c_uint32),
        ("status", c_uint32),
        ("state", c_uint32),
        ("reply_size", c_uint32),
        ("result", c_uint64 * 4),
        ("pages", c_uint64),
        ("zero_pages", c_uint64),
        ("records", c_uint64),
        ("bytes", c_uint64),
        ("fault", c_uint64 * 3),
        ("pad1", c_uint8 * 280),
        ("payload", c_uint8 * PAYLOAD_MAX),
    )


class PingReply(ctypes.LittleEndianStructure):
    _fields_ = (
        ("abi", c_uint32),
        ("hvcpu", c_uint32),
        ("suites", c_uint32),
        ("platform", c_uint32),
        ("calls", c_uint64),
        ("version", c_char * 40),
    )


class SessionInfo(ctypes.LittleEndianStructure):
    _fields_ = (
        ("phase", c_uint32),
        ("role", c_uint32),
        ("suite", c_uint32),
        ("failure", c_uint32),
        ("session", c_uint8 * 16),
    )


class HelloRegion(ctypes.LittleEndianStructure):
    _fields_ = (
        ("name", c_char * REGION_NAME),
        ("pages", c_uint64),
    )


class Hello(ctypes.LittleEndianStructure):
    _fields_ = (
        ("magic", c_uint32),
        ("wire", c_uint32),
        ("role", c_uint32),
        ("suites", c_uint32),
        ("nonce", c_uint8 * 32),
        ("x25519", c_uint8 * 32),
        ("signer", c_uint8 * 97),
        ("pad", c_uint8 * 3),
        ("platform", c_uint32),
        ("gvcpus", c_uint32),
        ("regions", c_uint32),
        ("version", c_char * 40),
        ("pad1", c_uint32),
        ("region", HelloRegion * REGION_LIMIT),
    )


class Token(ctypes.LittleEndianStructure):
    _fields_ = (
        ("magic", c_uint32),
        ("wire", c_uint32),
        ("type", c_uint32),
        ("pad", c_uint32),
        ("session", c_uint8 * 16),
        ("manifest", c_uint8 * 32),
        ("signature", c_uint8 * 96),
    )


class Record(ctypes.LittleEndianStructure):
    _fields_ = (
        ("magic", c_uint32),
        ("wire", c_uint8),
        ("type", c_uint8),
        ("kind", c_uint8),
        ("suite", c_uint8),
        ("stream", c_uint16),
        ("direction", c_uint8),
        ("streams", c_uint8),
        ("epoch", c_uint32),
        ("session", c_uint8 * 16),
        ("sequence", c_uint64),
        ("address", c_uint64),
        ("version", c_uint32),
        ("count", c_uint32),
        ("length", c_uint32),
        ("pad1", c_uint32),
        ("tag", c_uint8 * TAG_MAX),
        ("pad2", c_uint8 * 32),
    )


class Extent(ctypes.LittleEndianStructure):
    _fields_ = (
        ("address", c_uint64),
        ("pages", c_uint32),
        ("pad", c_uint32),
    )


class Manifest(ctypes.LittleEndianStructure):
    _fields_ = (
        ("streams", c_uint32),
        ("regions", c_uint32),
        ("gvcpus", c_uint32),
        ("pad", c_uint32),
        ("records", c_uint64 * HVCPU_LIMIT),
        ("device_digest", c_uint8 * 32),
        ("vmsa_tag", c_uint8 * TAG_MAX),
        ("pages_tag", c_uint8 * TAG_MAX * REGION_LIMIT),
    )
