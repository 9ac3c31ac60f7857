# SPDX-License-Identifier: Apache-2.0
"""Lists of steps that a guest without a kernel follows, and what each has to come to.

The guest is fuzz_guest/steps.c: it reports every step, and all the judging is here. A step
says itself what is expected of it, by the names that Result has; where it says nothing,
that no exception comes and instructions and requests succeed.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path

from cpcctl.snp.definition import DEFAULT_CPU
from tests.patience import patient
from tests.snp import guest_image
from tests.snp.boot import Guest, Parts
from tests.snp.guest_image import MEMORY

SHARED, GHCB, CPUS, VMSA = (MEMORY[n] for n in ("SHARED", "GHCBS", "CPUS", "VMSA"))
LIST_BYTES = 0x1000
# Kinds of requests, and what they are answered with.
AP_CREATION, PSC_REQUEST, MMIO_WRITE = 0x80000013, 0x80000010, 0x80000002
BUFFER, SCRATCH, VALID, USAGE = 0x800, 0x3A8, 0x3F0, 0xFFC
FAILED = 2
PRIVATE, SHARED_PAGE, LARGE = 1 << 52, 2 << 52, 1 << 56
APIC = 0xFEE00000
INIT, SIPI, NMI = 0x4500, 0x4600, 0x4400
VC, GP = 29, 13
# Permissions of RMPADJUST, as in RDX.
READ, WRITE, USER_EXEC, KERNEL_EXEC = 0x100, 0x200, 0x400, 0x800
SAVE_AREA = 1 << 16
FAIL_INPUT, FAIL_PERMISSION, FAIL_INUSE, FAIL_SIZEMISMATCH = 1, 2, 3, 6
# Error codes of #VC: SVM's exit codes.
NPF, NOT_VALIDATED = 0x400, 0x404
# Of the hypervisor, in SW_EXITINFO2.
NOT_REGISTERED, BAD_USAGE, BAD_SCRATCH, MISSING_INPUT, BAD_INPUT, BAD_EVENT = range(1, 7)
# Two words in private memory that nobody needs, and patterns.
SPINS = MEMORY["SPINS"]
FLAG = SPINS + 0x100
FIRST, SECOND = 0x1122334455667788, 0x99AABBCCDDEEFF01
RUN_SECONDS = 60.0
TICKS = 1 << 27  # of the TSC: some 50 ms


class Op(IntEnum):
    """What the guest can do; enum op in steps.c."""

    END = 0
    PVALIDATE = 1
    RMPADJUST = 2
    RMPQUERY = 3
    GRANT = 4
    READ = 5
    WRITE = 6
    CALL = 7
    REQUEST = 8
    PREPARE = 9
    VMGEXIT = 10
    CHANGE = 11
    MSR = 12
    SAVE_AREA = 13
    UNTIL = 14
    PAUSE = 15
    MOVES = 16
    COUNT = 17
    DUMP = 18
    COPY = 19


class Entry(IntEnum):
    """Where the second vCPU starts."""

    STEPS = 0
    SPIN = 1
    HALT = 2


@dataclass(frozen=True)
class Result:
    """What became of a step."""

    value: int
    flags: int
    raised: int
    first: int
    second: int

    def named(self) -> dict[str, int]:
        """The same by the names that tests use."""
        return {
            "value": self.value, "eax": self.value & 0xFFFFFFFF, "cf": self.flags & 1,
            "zf": self.flags >> 6 & 1, "vector": self.raised >> 32 & 0xFF,
            "error": self.raised & 0xFFFFFFFF, "cr2": self.first,
            "info1": self.value, "info2": self.first, "rdx": self.first, "rcx": self.second,
        }  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One thing to do."""

    op: Op
    a: int = 0
    b: int = 0
    c: int = 0
    expected: dict[str, int] = field(default_factory=dict)
    unlike: int | None = None

    def gives(self, **expected: int) -> Step:
        """The same, with this expected and nothing else; but no exception, unless named."""
        return replace(self, expected=expected)

    def other_than(self, value: int) -> Step:
        """The same, where any value but this is right."""
        return replace(self, expected={}, unlike=value)

    def faults(self, error: int, **expected: int) -> Step:
        """The same, which ends with #VC and this error code."""
        return replace(self, expected={"vector": VC, "error": error, **expected})

    def wrong(self, result: Result) -> str:
        """How the result differs from what is right; empty: it does not."""
        named = result.named()
        expected = {"vector": 0, **self.expected}
        differing = [f"{k}={named[k]:#x}, not {v:#x}" for k, v in expected.items() if named[k] != v]
        if self.unlike is not None and self.unlike == result.value:
            differing.append(f"value={self.unlike:#x} after all")
        return "; ".join(differing)

    def __str__(self) -> str:
        return f"{self.op.name}({self.a:#x}, {self.b:#x}, {self.c:#x})"


Steps = list[Step]
OK = {"eax": 0, "zf": 1}


def pvalidate(page: int, size: int = 0, validate: int = 1) -> Step:
    return Step(Op.PVALIDATE, page, size, validate, {**OK, "cf": 0})


def rmpadjust(page: int, attributes: int, size: int = 0) -> Step:
    """attributes: RDX, so target VMPL, permissions << 8, save area << 16."""
    return Step(Op.RMPADJUST, page, size, attributes, OK)


def rmpquery(page: int, vmpl: int) -> Step:
    # What is no size: RCX has to change.
    return Step(Op.RMPQUERY, page, 0x55, vmpl, OK)


def failed(step: Step, code: int) -> Step:
    """An instruction that fails; of CF nothing is said but by PVALIDATE."""
    return step.gives(eax=code, zf=0)


def returns(number: int) -> int:
    """Code: mov $number, %eax; ret."""
    return int.from_bytes(b"\xb8" + number.to_bytes(4, "little") + b"\xc3", "little")


def grant(page: int, pages: int, attributes: int) -> Step:
    """RMPADJUST of pages in a row."""
    return Step(Op.GRANT, page, pages, attributes, {"value": 0})


def read(address: int) -> Step:
    return Step(Op.READ, address)


def write(address: int, value: int) -> Step:
    return Step(Op.WRITE, address, value)


def call(address: int) -> Step:
    """Execute what is there; value is RAX, which was 0."""
    return Step(Op.CALL, address)


def request(code: int, info1: int = 0, info2: int = 0) -> Step:
    """By GHCB page, with RAX = 1, all fields valid and the scratch area in the page."""
    return Step(Op.REQUEST, code, info1, info2, {"info1": 0})


def prepare(code: int, info1: int = 0, info2: int = 0) -> Step:
    """The same, but for the exit."""
    return Step(Op.PREPARE, code, info1, info2)


def change(offset: int, value: int, size: int = 8) -> Step:
    """A field of the GHCB; the request is to be made by vmgexit()."""
    return Step(Op.CHANGE, offset, value, size)


def vmgexit(ghcb: int = 0) -> Step:
    """ghcb: another page than the one that is prepared."""
    return Step(Op.VMGEXIT, ghcb, expected={"info1": 0})


def refused(step: Step, reason: int) -> Step:
    """A request that the hypervisor does not accept, for this reason."""
    return step.gives(info1=FAILED, info2=reason)


def msr(value: int) -> Step:
    """A request by MSR; value is the answer."""
    return Step(Op.MSR, value)


def psc(entry: int) -> Steps:
    """A page state change of one entry: address | PRIVATE or SHARED_PAGE | LARGE."""
    return [
        change(BUFFER, 0), change(BUFFER + 8, entry),
        request(PSC_REQUEST).gives(info1=0, info2=0),
    ]  # fmt: skip


def save_area(page: int, entry: Entry = Entry.STEPS, vmpl: int = 0) -> Step:
    return Step(Op.SAVE_AREA, page, entry, vmpl)


def create(page: int, *, kind: int = 1, vmpl: int = 0) -> Step:
    """kind: 0 at the next INIT, 1 now, 2 destroy."""
    return request(AP_CREATION, kind | vmpl << 16 | 1 << 32, page)


def signal(what: int) -> Steps:
    """An interprocessor interrupt for the second vCPU."""
    return [
        change(BUFFER, 1 << 24), request(MMIO_WRITE, APIC + 0x310, 4),
        change(BUFFER, what), request(MMIO_WRITE, APIC + 0x300, 4),
    ]  # fmt: skip


def until(address: int, value: int) -> Step:
    return Step(Op.UNTIL, address, value)


def pause(ticks: int = TICKS) -> Step:
    return Step(Op.PAUSE, ticks)


def moves(address: int) -> Step:
    """What is there changes, as a vCPU that runs does it; at last."""
    return Step(Op.MOVES, address, 1, 200, {"value": 1})


def rests(address: int) -> Step:
    """What is there comes to rest, soon."""
    return Step(Op.MOVES, address, 0, 50, {"value": 0})


def still(address: int) -> Step:
    """What is there is at rest."""
    return Step(Op.MOVES, address, 0, 1, {"value": 0})


def count(address: int) -> Step:
    """Forever."""
    return Step(Op.COUNT, address)


def dump(address: int, length: int) -> Step:
    """Memory, for Run.memory()."""
    return Step(Op.DUMP, address, length)


def copy(to: int, source: int, length: int) -> Step:
    return Step(Op.COPY, to, source, length)


def _packed(steps: Sequence[Step]) -> bytes:
    out = b"".join(struct.pack("<QQQQ", s.op, s.a, s.b, s.c) for s in [*steps, Step(Op.END)])
    assert len(out) <= LIST_BYTES, "too many steps"
    return out


class Run:
    """A guest that follows one list, and a second vCPU with another."""

    def __init__(
        self,
        parts: Parts,
        launch: Callable[[list[str]], Guest],
        folder: Path,
        first: Steps,
        second: Steps | None = None,
        *,
        patterns: bytes = b"",
        cpu: str = DEFAULT_CPU,
    ) -> None:
        self._steps = (first, second or [])
        self._console = folder / "reports"
        text = guest_image.code("steps", "registers.S")
        firmware = folder / "steps.fd"
        firmware.write_bytes(
            guest_image.image(
                text,
                {
                    MEMORY["LIST0"]: _packed(first),
                    MEMORY["LIST1"]: _packed(self._steps[1]),
                    MEMORY["PATTERNS"]: patterns,
                },
            )
        )
        argv = guest_image.arguments(parts.qemu, parts.qemu_data, firmware)
        argv[argv.index(DEFAULT_CPU)] = cpu
        self.guest = launch([*argv, "-serial", "null", "-debugcon", f"file:{self._console}"])

    def console(self) -> str:
        """What the guest has said so far."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def results(self, vcpu: int = 0) -> list[Result]:
        """Of the steps that a vCPU has done so far."""
        lines = re.findall(r"^> ([0-9a-f ]+)\n", self.console(), re.M)
        rows = [[int(word, 16) for word in line.split()] for line in lines]
        mine = [row for row in rows if row[0] == vcpu]
        assert [row[1] for row in mine] == list(range(len(mine))), "it has started over"
        return [Result(*row[2:]) for row in mine]

    def memory(self) -> list[bytes]:
        """What each dump() showed."""
        dumps: list[bytes] = []
        after = 0
        for line in re.findall(r"^= ([0-9a-f ]+)\n", self.console(), re.M):
            address, *words = (int(word, 16) for word in line.split())
            if address != after:
                dumps.append(b"")
            dumps[-1] += struct.pack("<4Q", *words)
            after = address + 32
        return dumps

    def wait(self, steps: int) -> None:
        """Until the first vCPU has done so many steps."""
        deadline = time.monotonic() + patient(RUN_SECONDS)
        while len(done := self.results()) < steps:
            assert self.guest.ended() is None, f"{self.guest.words()}: {self._where(0)}"
            assert time.monotonic() < deadline, f"it hangs at {self._steps[0][len(done)]}"
            self.guest.console(0.005)  # nothing comes there: a pause between two looks

    def _where(self, vcpu: int) -> str:
        done, steps = len(self.results(vcpu)), self._steps[vcpu]
        return f"vCPU {vcpu} did {done} of {len(steps)} steps"

    def check(self) -> None:
        """All steps came to what they should; fails with those that did not."""
        try:
            self.guest.wait_ended(RUN_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._where(0)}, {self._where(1)}") from error
        wrong = []
        for vcpu, steps in enumerate(self._steps):
            results = self.results(vcpu)
            for number, (step, result) in enumerate(zip(steps, results, strict=False)):
                if differs := step.wrong(result):
                    wrong.append(f"vCPU {vcpu}, step {number}: {step}: {differs}")
            # The last of the second vCPU may have no end.
            endless = bool(steps) and steps[-1].op is Op.COUNT
            if len(results) != len(steps) - endless:
                wrong.append(self._where(vcpu))
        assert not wrong, "\n".join([*wrong, self.guest.words()])


Follow = Callable[..., Run]
