# SPDX-License-Identifier: Apache-2.0
"""Patterns for every register of a vCPU, as they are loaded, kept in a save area, and stored.

The guest's side is fuzz_guest/registers.S. Offsets in the save area: AMD64 Architecture
Programmer's Manual, volume 2, appendix B, table B-4.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from tests.snp.guest_image import MEMORY

SIZE = 0x670
# By number, RSP included.
GENERAL = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
MSRS = {
    "star": 0xC0000081, "lstar": 0xC0000082, "cstar": 0xC0000083, "sfmask": 0xC0000084,
    "fs.base": 0xC0000100, "gs.base": 0xC0000101, "kernel_gs_base": 0xC0000102,
    "tsc_aux": 0xC0000103, "sysenter_cs": 0x174, "sysenter_esp": 0x175, "sysenter_eip": 0x176,
    "g_pat": 0x277,
}  # fmt: skip
# Where a field is, and how long; all that has a pattern here.
FIELDS = {
    "fs.base": (0x48, 8), "gs.base": (0x58, 8), "dr6": (0x168, 8), "rflags": (0x170, 8),
    **{f"dr{n}": (0x180 + 8 * n, 8) for n in range(4)},
    "rsp": (0x1D8, 8), "rax": (0x1F8, 8), "star": (0x200, 8), "lstar": (0x208, 8),
    "cstar": (0x210, 8), "sfmask": (0x218, 8), "kernel_gs_base": (0x220, 8),
    "sysenter_cs": (0x228, 8), "sysenter_esp": (0x230, 8), "sysenter_eip": (0x238, 8),
    "cr2": (0x240, 8), "g_pat": (0x268, 8), "pkru": (0x2E8, 4), "tsc_aux": (0x2EC, 4),
    "rcx": (0x308, 8), "rdx": (0x310, 8), "rbx": (0x318, 8), "rbp": (0x328, 8),
    "rsi": (0x330, 8), "rdi": (0x338, 8),
    **{f"r{n}": (0x340 + 8 * (n - 8), 8) for n in range(8, 16)},
    "x87_dp": (0x400, 8), "mxcsr": (0x408, 4), "x87_fsw": (0x40E, 2), "x87_fcw": (0x410, 2),
    **{f"st{n}": (0x420 + 10 * n, 10) for n in range(8)},
    **{f"xmm{n}": (0x470 + 16 * n, 16) for n in range(16)},
    **{f"ymm{n}": (0x570 + 16 * n, 16) for n in range(16)},  # the upper halves
}  # fmt: skip
# The tag word: two bits a physical register, 3 for empty. Of the others the processor may
# say valid, zero or special.
TAGS = 0x40C
# Set in the save area before the vCPU starts: all that the patterns need switched on, and
# what it cannot write itself (DR7 is intercepted).
SWITCHES = {
    "efer": (0xD0, 0x1501), "cr4": (0x148, 0x440620), "cr0": (0x158, 0x80000033),
    "dr7": (0x160, 0x700), "xcr0": (0x3E8, 0x7),
}  # fmt: skip
STACK = MEMORY["STACK1"] - 8
# Offsets of what registers.S loads from and stores to.
FXSAVE, YMM, MSR_LIST, DEBUG, PUSHED = 0x80, 0x280, 0x480, 0x560, 0x5A0
TOP = 11  # of the x87 stack, in FSW


@dataclass
class Patterns:
    """One value for each field; empty: the physical x87 registers that are."""

    values: dict[str, int]
    empty: set[int]

    @classmethod
    def random(cls, seed: int, top: int, empty: set[int]) -> Patterns:
        """With ones of every kind that the processor accepts."""
        dice = random.Random(seed)
        values = {name: dice.getrandbits(8 * size) for name, (_, size) in FIELDS.items()}
        for name in ("lstar", "cstar", "kernel_gs_base", "fs.base", "gs.base", "cr2",
                     "sysenter_esp", "sysenter_eip", "dr0", "dr1", "dr2", "dr3"):  # fmt: skip
            values[name] &= 0x7FFFFFFFFFFF  # canonical
            if dice.getrandbits(1):
                values[name] |= 0xFFFF800000000000
        for n in range(8):  # normal numbers: the integer bit is set
            values[f"st{n}"] = values[f"st{n}"] & ~(0x7FFF << 64) | 0x3FFF + n << 64 | 1 << 63
        values["sfmask"] &= 0xFFFFFFFF
        values["sysenter_cs"] &= 0xFFFF
        values["g_pat"] = sum(dice.choice((0, 1, 4, 5, 6, 7)) << 8 * n for n in range(8))
        values["dr6"] = 0xFFFF0FF0 | dice.getrandbits(4) | dice.getrandbits(2) << 13
        # CF, PF, AF, ZF, SF, DF, OF, AC, ID
        values["rflags"] = 2 | dice.getrandbits(22) & 0x240CD5
        values["mxcsr"] = 0x1F80 | dice.getrandbits(6) | dice.getrandbits(3) << 13
        values["x87_fcw"] = 0x37F | dice.getrandbits(2) << 10
        # C0, C2 and C3 (a push clears C1); masked exceptions.
        values["x87_fsw"] = dice.getrandbits(15) & 0x4521 | top << TOP
        values["x87_dp"] = MEMORY["PATTERNS"] + PUSHED
        values["rsp"] = STACK
        return cls(values, empty)

    @property
    def top(self) -> int:
        return self.values["x87_fsw"] >> TOP & 7

    def to_load(self) -> bytes:
        """As registers.S loads them: all of x87 but what FLD pushes at last, ST(0)."""
        v, out = self.values, bytearray(0x800)
        for number, name in enumerate(GENERAL):
            struct.pack_into("<Q", out, number * 8, v[name])
        before = v["x87_fsw"] & ~(7 << TOP) | ((self.top + 1) & 7) << TOP
        tags = sum(1 << n for n in range(8) if n not in self.empty and n != self.top)
        struct.pack_into("<HHB", out, FXSAVE, v["x87_fcw"], before, tags)
        struct.pack_into("<I", out, FXSAVE + 24, v["mxcsr"])
        for n in range(8):  # ST(7) is where FLD pushes
            value = v[f"st{n + 1}"] if n < 7 else 0
            struct.pack_into("<10s", out, FXSAVE + 32 + 16 * n, value.to_bytes(10, "little"))
        for n in range(16):
            struct.pack_into("<16s16s", out, YMM + 32 * n, *(
                v[f"{kind}{n}"].to_bytes(16, "little") for kind in ("xmm", "ymm")))  # fmt: skip
        for n, (name, number) in enumerate(MSRS.items()):
            struct.pack_into("<QQ", out, MSR_LIST + 16 * n, number, v[name])
        struct.pack_into("<8Q", out, DEBUG, *(v[f"dr{n}"] for n in range(4)), v["dr6"], v["cr2"],
                         v["pkru"], v["rflags"])  # fmt: skip
        struct.pack_into("<10s", out, PUSHED, v["st0"].to_bytes(10, "little"))
        return bytes(out)

    def save_area(self) -> bytes:
        """What more privileged software may put there; RIP and segments are left out."""
        out = bytearray(SIZE)
        for name, (offset, size) in FIELDS.items():
            out[offset : offset + size] = self.values[name].to_bytes(size, "little")
        for offset, value in SWITCHES.values():
            struct.pack_into("<Q", out, offset, value)
        struct.pack_into("<H", out, TAGS, sum(3 << 2 * n for n in self.empty))
        struct.pack_into("<Q", out, 0x150, MEMORY["TABLES"])
        struct.pack_into("<Q", out, 0x3B0, 1)
        return bytes(out)

    def differs_in_save_area(self, dump: bytes) -> list[str]:
        """Fields that are not there as they should be, and anything where nothing should be."""
        wrong = []
        rest = bytearray(dump[:SIZE])
        for name, (offset, size) in FIELDS.items():
            found = int.from_bytes(dump[offset : offset + size], "little")
            if found != self.values[name]:
                wrong.append(f"{name} at {offset:#x} is {found:#x}, not {self.values[name]:#x}")
            rest[offset : offset + size] = bytes(size)
        for name, (offset, value) in SWITCHES.items():
            found = int.from_bytes(dump[offset : offset + 8], "little")
            if found != value:
                wrong.append(f"{name} at {offset:#x} is {found:#x}, not {value:#x}")
            rest[offset : offset + 8] = bytes(8)
        tags = int.from_bytes(dump[TAGS : TAGS + 2], "little")
        empty = {n for n in range(8) if tags >> 2 * n & 3 == 3}
        if empty != self.empty:
            wrong.append(f"x87 registers {empty} are empty, not {self.empty}: {tags:#x}")
        # Where its code is, only the guest knows; see the tests.
        for offset, size in ((0, 0xA0), (0x150, 8), (0x178, 8), (TAGS, 2), (0x412, 14), (0x3B0, 8)):
            rest[offset : offset + size] = bytes(size)
        wrong += [f"{rest[n]:#x} at {n:#x}, where nothing is" for n in range(SIZE) if rest[n]]
        return wrong

    def differs_in_stored(self, dump: bytes) -> list[str]:
        """The same of what registers.S found in the registers."""
        v = self.values
        found = dict(zip(GENERAL, struct.unpack_from("<16Q", dump), strict=True))
        found["rsp"] = v["rsp"]  # not stored
        fcw, fsw, tags = struct.unpack_from("<HHB", dump, FXSAVE)
        found |= {"x87_fcw": fcw, "x87_fsw": fsw}
        (found["mxcsr"],) = struct.unpack_from("<I", dump, FXSAVE + 24)
        for n in range(8):
            found[f"st{n}"] = int.from_bytes(dump[FXSAVE + 32 + 16 * n :][:10], "little")
        for n in range(16):
            found[f"xmm{n}"] = int.from_bytes(dump[YMM + 32 * n :][:16], "little")
            found[f"ymm{n}"] = int.from_bytes(dump[YMM + 32 * n + 16 :][:16], "little")
        for n, name in enumerate(MSRS):
            found[name] = int.from_bytes(dump[MSR_LIST + 16 * n + 8 :][:8], "little")
        names = ("dr0", "dr1", "dr2", "dr3", "dr6", "cr2", "pkru", "rflags")
        found |= dict(zip(names, struct.unpack_from("<8Q", dump, DEBUG), strict=True))
        # FNSTENV has the lower half of the address.
        (found["x87_dp"],) = struct.unpack_from("<I", dump, PUSHED + 20)
        wrong = [
            f"{name} was {found[name]:#x}, not {v[name]:#x}" for name in FIELDS
            if found[name] != (v[name] & 0xFFFFFFFF if name == "x87_dp" else v[name])
        ]  # fmt: skip
        empty = {n for n in range(8) if not tags >> n & 1}
        if empty != self.empty:
            wrong.append(f"x87 registers {empty} were empty, not {self.empty}")
        return wrong
