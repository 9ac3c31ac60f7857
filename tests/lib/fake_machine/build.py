# SPDX-License-Identifier: Apache-2.0
"""Builds the fake machine: the firmware for a plain process and machine.c, one library.

Kept in the store under a digest of its sources, so that a run of the tests without changes
there compiles nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cpcctl import abi
from cpcctl.setup import firmware, store

HERE = Path(__file__).parent
TOP = HERE.parents[2]
SOURCES = [HERE / "machine.c", Path(__file__)]
FLAGS = ["-std=c11", "-O2", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fPIC"]
# What the archive has and the machine does not need would want parts that are not built.
LINK = ["-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", "-Wl,-z,defs", "-lpthread"]
LIBRARY = "libcpc-fake.so"
# The program that cpcctl is told is QEMU. Isolated: the machine of one checkout, and quick.
PROGRAM = """#!/usr/bin/python3 -IS
import sys
sys.path.insert(0, {top!r})
from tests.lib.fake_machine import qemu
qemu.main({library!r}, {stage!r})
"""


def library() -> Path:
    """The library, built if need be. Raises CalledProcessError, OSError."""
    key = store.key([firmware.recipe_key(), *FLAGS, *LINK], SOURCES)
    return store.provide("fake-machine", key, _build) / LIBRARY


def _build(out: Path) -> None:
    objects = out / "objects"
    env = {name: v for name, v in os.environ.items() if name not in firmware.OUTER_MAKE}
    archive = objects / "libcpc-host.a"
    subprocess.run(
        ["make", "-s", "-j2", "-C", str(firmware.SOURCE), "HOST_CFLAGS=-fPIC",
         f"O={objects}", str(archive)],
        check=True, stdout=sys.stderr, env=env | {"CPC_CACHE": str(store.root())},
    )  # fmt: skip
    include = [firmware.SOURCE / "arch/host", firmware.SOURCE.parent / "abi"]
    subprocess.run(
        ["gcc", *FLAGS, "-shared", *(f"-I{path}" for path in include), "-o", out / LIBRARY,
         HERE / "machine.c", archive, *LINK],
        check=True,
    )  # fmt: skip
    subprocess.run(["rm", "-rf", objects], check=True)


def program(folder: Path, stage: Path) -> Path:
    """A QEMU for cpcctl, in `folder`; what it plays on is the stage, see stage.py."""
    path = folder / "qemu-system-x86_64"
    text = PROGRAM.format(top=str(TOP), library=str(library()), stage=str(stage))
    path.write_text(text)
    path.chmod(0o755)
    return path


def image(folder: Path) -> Path:
    """A firmware image as far as cpcctl looks at it: the header, with the real version."""
    version = (firmware.SOURCE / "core/version.h").read_text().split('"')[1]
    header = abi.ImageHeader(
        magic=abi.IMAGE_MAGIC, abi=abi.ABI_VERSION, image_size=4096, memory_size=4096,
        entry=64, cr3=0, version=version.encode(),
    )  # fmt: skip
    path = folder / "cpc-firmware.bin"
    path.write_bytes(bytes(header).ljust(4096, b"\0"))
    return path
