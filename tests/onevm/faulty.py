# SPDX-License-Identifier: Apache-2.0
"""A stopped guest whose hvCPUs run a module that misbehaves on request."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cpcctl import abi
from cpcctl.host.firmware import Hvcpu
from cpcctl.host.qmp import Qmp
from cpcctl.host.shm import CallError, Layout, RingFile, doorbell
from tests import accel
from tests.patience import patient

MEMORY = 256 << 20
RING = 0x200000
# Functions of fault_module.c.
TOUCH, JUMP, RECURSE, DIVIDE, OUTSIDE, SEAL, SWEEP, ABSORB, ASK, REQUEST = (
    1 << 16 | n for n in range(1, 11)
)


@dataclass
class Machine:
    """A stopped guest with two hvCPUs that run the misbehaving module."""

    qmp: Qmp
    rings: RingFile
    symbols: dict[str, int]
    trusted: int
    process: subprocess.Popen[bytes]
    port: Path

    def state(self, number: int) -> str:
        """What QEMU says about an hvCPU."""
        found: str = self.qmp.execute("query-cpc")["hvcpus"][number]["state"]
        return found

    def add(self, number: int) -> Hvcpu:
        """Add an hvCPU and wait until it has started."""
        self.qmp.execute("cpc-hvcpu-add", id=number)
        wait_for(lambda: self.state(number) == "parked", f"hvCPU {number} parks")
        return Hvcpu(self.qmp, self.rings, number)

    def out(self, port: int, value: int, size: str) -> None:
        """A write to an I/O port as a gvCPU does it. size: b or l."""
        with socket.socket(socket.AF_UNIX) as test:
            test.settimeout(patient(20))
            test.connect(str(self.port))
            test.sendall(f"out{size} {port:#x} {value:#x}\n".encode())
            assert test.recv(64) == b"OK\n"


def wait_for(true: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Look until it is so."""
    end = time.monotonic() + patient(seconds)
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def listens(path: Path) -> bool:
    """Somebody takes connections there: the file alone may be there before that."""
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.connect(str(path))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def started(built: Any, image: Path, folder: Path) -> Iterator[Machine]:
    """One QEMU. image: a folder as images.faults() makes it."""
    layout = Layout.of(2, RING, 2 * MEMORY)
    rings = RingFile.create(folder / "ring", layout)
    command = [str(built.qemu), "-L", str(built.qemu_data), "-nodefaults", "-display", "none"]
    command += ["-M", "pc,hvcpu-max=2,memory-backend=ram", "-m", "256,slots=1,maxmem=512M", "-S"]
    command += ["-accel", accel.argument(), "-cpu", "max"]
    command += ["-object", "memory-backend-memfd,id=ram,size=256M"]
    command += [
        "-object",
        f"memory-backend-file,id=ring,share=on,size={layout.size},mem-path={rings.path}",
    ]
    command += ["-chardev", f"pipe,id=bell,path={doorbell(rings.path)}"]
    device = f"cpc,firmware={image / 'cpc-firmware.bin'},shm=ring,ring-size=2M,doorbell=bell"
    command += ["-device", device]
    command += ["-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"]
    port = folder / "port"
    command += ["-qtest", f"unix:{port},server=on,wait=off", "-qtest-log", "none"]
    listing = (image / "symbols").read_text()
    symbols = {f[2]: int(f[0], 16) for f in map(str.split, listing.splitlines()) if len(f) == 3}
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(lambda: listens(folder / "qmp") or process.poll() is not None, "QMP")
            assert process.poll() is None, (folder / "log").read_text()
            with Qmp.connect(folder / "qmp") as qmp:
                accel.check(process.pid)
                trusted = qmp.execute("query-cpc")["trusted-bytes"]
                yield Machine(qmp, rings, symbols, trusted, process, port)
        finally:
            process.kill()
            process.wait()
            rings.close()


def status(hvcpu: Hvcpu, op: int, *args: int) -> int:
    """The status of a call."""
    try:
        hvcpu.call(op, args)
    except CallError as error:
        return error.reply.status
    return abi.S_OK


def fault(hvcpu: Hvcpu, op: int, *args: int) -> tuple[int, int]:
    """Vector and address of the fault that ends this call."""
    with pytest.raises(CallError) as caught:
        hvcpu.call(op, args)
    reply = caught.value.reply
    assert reply.status == abi.S_FAULT
    return reply.fault[0], reply.fault[2]
