# SPDX-License-Identifier: Apache-2.0
"""What the host can read of a guest through QEMU: knocks at doors, and says what came.

A guest makes a secret that no host program ever wrote: the digest of a number. Then QEMU is
asked for the guest's memory, and the file is searched for it. QEMU's own doors are what an
emulated SEV-SNP can shut; the memory of QEMU's process is open to root.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import secrets
from pathlib import Path
from typing import Any

from cpcctl.config.patience import patient
from cpcctl.demo.console import Console, ConsoleError
from cpcctl.demo.hosts import Host
from cpcctl.demo.plain import PlainGuest, PlainVm
from cpcctl.demo.report import NOTHING, REFUSED, SCRAMBLED, SECRET, Reading
from cpcctl.host.qmp import Qmp, QmpError

DOORS = ("pmemsave", "dump-guest-memory")
READ_SECONDS = patient(120.0)


def plant(console: Console) -> bytes:
    """Have the guest make a secret in its memory; the secret. Raises ConsoleError."""
    number = secrets.token_hex(16)
    secret = hashlib.md5(f"{number}\n".encode(), usedforsecurity=False).hexdigest()
    console.run(f"echo {number} | md5sum > /data/made-here")
    # Its own digest shows that it is there, without a word of it on the console.
    shown = console.run("md5sum /data/made-here")
    if hashlib.md5(f"{secret}  -\n".encode(), usedforsecurity=False).hexdigest() not in shown:
        raise ConsoleError("the guest did not make the secret")
    return secret.encode()


def knock(qmp: Qmp, guest: str, folder: Path, size: int, secret: bytes) -> list[Reading]:
    """Ask every door for the whole memory. size: of the memory, in bytes. folder: for the
    files, removed again. Raises QmpGone."""
    return [
        Reading(guest, door, _answer(qmp, door, folder / "memory", size, secret))
        for door in DOORS
    ]


def _answer(qmp: Qmp, door: str, image: Path, size: int, secret: bytes) -> str:
    before = _scrambled(qmp)
    if door == "pmemsave":
        words: dict[str, Any] = {"val": 0, "size": size, "filename": str(image)}
    else:
        words = {"paging": False, "protocol": f"file:{image}"}
    try:
        qmp.execute(door, _timeout=READ_SECONDS, **words)
        if _holds(image, secret):
            return SECRET
        return SCRAMBLED if _scrambled(qmp) > before else NOTHING
    except QmpError:
        return REFUSED
    finally:
        image.unlink(missing_ok=True)


def _holds(image: Path, secret: bytes) -> bool:
    with (
        image.open("rb") as stream,
        contextlib.closing(mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)) as memory,
    ):
        return memory.find(secret) >= 0


def _scrambled(qmp: Qmp) -> int:
    """How many of the host's reads the emulated processor has scrambled so far."""
    try:
        return int(qmp.execute("query-sev-emulation")["reads-scrambled"])
    except QmpError:  # no such guest
        return 0


def small(host: Host, guest: PlainGuest, name: str, seconds: float) -> list[Reading]:
    """Start a small guest, read it, end it. seconds: how long it may boot."""
    vm = PlainVm(host, guest, incoming=False)
    try:
        with Console(vm.console) as console:
            console.wait_ready(vm.log, seconds)
            secret = plant(console)
        return knock(vm.qmp, name, vm.folder, guest.memory_mib << 20, secret)
    finally:
        vm.close()


def moved(host: Host, vm: str, name: str, memory_mib: int, secret: bytes) -> list[Reading]:
    """The same of a VM of cpcctl on a host. secret: something that is in its memory."""
    qmp = Qmp.connect(host.folder / "run" / "vms" / vm / "qmp.sock", label=vm, host=host.name)
    try:
        return knock(qmp, name, host.folder, memory_mib << 20, secret)
    finally:
        qmp.close()
