# SPDX-License-Identifier: Apache-2.0
"""What the tests run in or under a VM besides the real things; built once, into the store.

A machine with a compiler builds them: the Debian guest of tests/nested has none
and is given what is there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cpcctl import abi
from cpcctl.setup import store

HERE = Path(__file__).parent
AGENT = HERE.parents[1] / "guest-agent"
KNOWN = 0x0123456789ABCDEF
RAM = 0x800000  # a page that the probe fills with KNOWN
MAGIC_PAGE = 0x900000  # a page it makes look like a firmware image
PCALL = 0xA00000  # a platform call that it forges in its own memory
PENDING = 0xFFFFFFFF
HPET = 0xFED00000  # a device that the guest does have
NOWHERE = 0x6000000000
LEAK = 0x7000000000  # where the negative control has trusted memory
MEMORY = 64 << 20
UD2, LOOP = b"\x0f\x0b", b"\xeb\xfe"
PARK, CALL = abi.MMIO_BASE + abi.MMIO_PARK, abi.MMIO_BASE + abi.MMIO_CALL

PROBES = [
    ("w", RAM, KNOWN),
    ("r", RAM, 0),
    ("r", HPET, 0),
    ("r", NOWHERE, 0),
    ("r", LEAK, 0),
    ("r", abi.TRUSTED_BASE, 0),
    ("r", abi.SHM_BASE, 0),
    ("w", abi.SHM_BASE, KNOWN),
    ("r", abi.SHM_BASE, 0),
    ("r", abi.WINDOW_BASE + RAM, 0),
    ("r", PARK, 0),
    ("r", CALL, 0),
    ("w", PCALL, PENDING << 32 | 1),
    ("w", PARK, 0),
    ("w", CALL, 0),
    ("w", CALL, PCALL),
    ("w", CALL, abi.TRUSTED_BASE),
    ("r", PCALL, 0),
    ("w", MAGIC_PAGE, abi.IMAGE_MAGIC),
    ("s", MEMORY, abi.IMAGE_MAGIC),
]


def entry(firmware: Path) -> int:
    """Where in the firmware an hvCPU begins."""
    return int(abi.ImageHeader.from_buffer_copy(firmware.read_bytes()).entry)


def probes(firmware: Path) -> list[tuple[str, int, int]]:
    """PROBES, and at the end invalid instructions to where an hvCPU begins: at its own
    address, where the guest has RAM, and at that of the negative control."""
    code = int.from_bytes(UD2 * 4, "little")
    there = [base + entry(firmware) for base in (abi.TRUSTED_BASE, LEAK)]
    return [*PROBES, *((op, at, code) for op in "wr" for at in there)]


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.stderr}"
    return done.stdout


def probe(firmware: Path) -> Path:
    """The kernel that tries every address of probes()."""
    source = HERE / "probe.S"
    table = "".join(
        f"DO('{op}',{address:#x},{value:#x})" for op, address, value in probes(firmware)
    )

    def build(folder: Path) -> None:
        made = str(folder / "o")
        _run(["gcc", "-c", f"-DPROBES={table}", "-o", made, str(source)])
        _run(["ld", "-Ttext=0x400000", "--oformat=binary", "-e", "start",
              "-o", str(folder / "kernel"), made])  # fmt: skip

    return store.provide("test-probe", store.key([table], [source]), build) / "kernel"


def faults() -> Path:
    """A folder with cpc-firmware.bin, whose module misbehaves, and its symbols."""
    module = HERE / "fault_module.c"
    files = sorted(p for p in AGENT.rglob("*") if p.is_file())

    def build(folder: Path) -> None:
        top = folder / "source"
        shutil.copytree(AGENT, top)
        shutil.copy(module, top / "firmware/modules/table.c")
        out = folder / "out"
        _run(["make", "-s", "-j2", "-C", str(top / "firmware"), "image", f"O={out}"])
        (out / "cpc-firmware.bin").rename(folder / "cpc-firmware.bin")
        (folder / "symbols").write_text(_run(["nm", str(out / "cpc-firmware.elf")]))
        for rest in (top, out):
            shutil.rmtree(rest)

    key = store.key([str(p.relative_to(AGENT)) for p in files], [*files, module])
    return store.provide("test-faults", key, build)


def damaged(firmware: Path, folder: Path, code: bytes = UD2) -> Path:
    """The real image in a folder, but with other first instructions: an hvCPU dies, or
    with LOOP says nothing. Beside it what the probe for KVM runs, as beside the real one."""
    image, at = bytearray(firmware.read_bytes()), entry(firmware)
    image[at : at + len(code)] = code
    path = folder / "damaged.bin"
    path.write_bytes(image)
    shutil.copy(firmware.with_name("kvm-probe.bin"), folder)
    return path


def refusal() -> Path:
    """A library for LD_PRELOAD, with which KVM refuses registers: see its source."""
    source = HERE.parent / "twohosts" / "refuse.c"

    def build(folder: Path) -> None:
        _run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror",
              "-o", str(folder / "refuse.so"), str(source)])  # fmt: skip

    return store.provide("test-refusal", store.key([], [source]), build) / "refuse.so"
