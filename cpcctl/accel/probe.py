# SPDX-License-Identifier: Apache-2.0
"""Runs the probe guest and an hvCPU on a throw-away VM, with a deadline.

That /dev/kvm opens proves little. So this starts a VM as `vm start` does, with
a guest that does what every kernel does early, and then calls an hvCPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from cpcctl.accel import answer
from cpcctl.accel.verdict import HVCPU, PARTS, WORKS, Verdict
from cpcctl.config.patience import patient
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, reason, shown
from cpcctl.host import find
from cpcctl.host.firmware import Hvcpu, HvcpuDead
from cpcctl.host.process import spawn
from cpcctl.host.qmp import Qmp, QmpGone
from cpcctl.host.shm import RingFile
from cpcctl.host.state import SOCKET_PATH_MAX
from cpcctl.qemu.sandbox import Sandbox
from cpcctl.vm.command import Launch, command, layout
from cpcctl.vm.files import unopened
from cpcctl.vm.spec import VmSpec

SECONDS = patient(10.0)
MEMORY = 64 << 20
# What the guest begins with.
MULTIBOOT = (0x1BADB002).to_bytes(4, "little")
LOOK_EVERY = 0.01
LONGEST_LOG = 4096
# A kernel that hangs a guest may be slow to let go of it, too.
END_SECONDS = 5.0


def spec(guest: Path, accel: str, cpu: str) -> VmSpec:
    """The VM that the probe guest needs, as small as one can be."""
    return VmSpec(
        "kvm-probe", MEMORY, accel=accel, cpu=cpu, vcpus=2, max_vcpus=2, max_memory=MEMORY,
        hvcpu_max=1, hvcpus=0, ring_size=2 << 20, kernel=str(guest),
    )  # fmt: skip


def run(settings: Settings, seconds: float, accel: str = "kvm", cpu: str = "max") -> Verdict:
    """Whether guests and hvCPUs run, found out within seconds and a little.

    accel: tcg is the control: it must work everywhere.
    """
    try:
        binary = find.qemu_binary(settings)
        guest, firmware = find.probe_guest(settings), find.firmware_image(settings)
        find.firmware_version(firmware)
    except CpcError as error:
        return Verdict(PARTS, _words(error), error.hint)
    vm = spec(guest, accel, cpu)
    try:
        with guest.open("rb") as file:
            if file.read(len(MULTIBOOT)) != MULTIBOOT:
                return Verdict(PARTS, f"{guest} is not a probe guest", "make firmware")
        with tempfile.TemporaryDirectory(prefix="cpc-kvm-") as name:
            folder, data = Path(name), find.qemu_data(settings, binary)
            if len(os.fsencode(folder / "qmp-job.sock")) > SOCKET_PATH_MAX:
                return Verdict(PARTS, f"{folder} is too long for sockets", "unset TMPDIR")
            launch = Launch(binary, data, firmware, folder, folder, files=unopened(vm))
            argv = command(vm, launch)
            RingFile.create(folder / "ring", layout(vm)).close()
            return _watched([*argv, *Sandbox(None).argv, "-no-reboot"], folder, seconds, accel)
    except OSError as error:
        return Verdict(PARTS, f"no VM can be started: {reason(error)}", "cpcctl doctor")
    except CpcError as error:
        return Verdict(PARTS, _words(error), error.hint or "cpcctl doctor")


def _words(error: CpcError) -> str:
    text = error.message + (f": {error.cause}" if error.cause else "")
    return shown(" ".join(text.split()), answer.WORDS_MAX)


def _watched(argv: list[str], folder: Path, seconds: float, accel: str) -> Verdict:
    # Ended by another process, should this one be killed meanwhile.
    limit = ["timeout", "-s", "KILL", f"{seconds + 2 * END_SECONDS:.0f}"]
    child = spawn([*limit, *argv], folder / "log")
    watch = _Watch(child, folder, seconds, accel)
    try:
        return watch.verdict()
    finally:
        # In this order: who hangs says no goodbye.
        _end(child)
        watch.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    # It leads a group of its own, with QEMU in it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    # One that the kernel does not let go of is not waited for.
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(END_SECONDS)


class _Watch:
    """Looks at one run until there is a verdict."""

    def __init__(
        self, child: subprocess.Popen[bytes], folder: Path, seconds: float, accel: str
    ) -> None:
        self.child = child
        self.folder = folder
        self.seconds = seconds
        self.accel = accel
        self.begin = time.monotonic()
        self.qmp: Qmp | None = None

    def close(self) -> None:
        """Hang up."""
        if self.qmp is not None:
            self.qmp.close()

    def verdict(self) -> Verdict:
        """The verdict, at the deadline at the latest."""
        listened = False
        while self._left() > 0:
            code = self.child.poll()
            said = self._text("console.log")
            if code is not None:
                return answer.ended(code, self._text("log"), said, listened)
            if answer.fault(said):
                return answer.crashed(said, "met a fault that is none")
            listened = listened or (self.folder / "qmp.sock").is_socket()
            if self.qmp is None and listened:
                self.qmp = self._connect()
            if self.qmp is not None and answer.done(said):
                return self._call(self.qmp)
            if self.qmp is not None and self._stopped(self.qmp):
                return answer.crashed(said, "was stopped by the kernel (KVM internal error)")
            time.sleep(LOOK_EVERY)
        return answer.hang(self._text("console.log"), self.seconds, self.qmp is not None)

    def _text(self, name: str) -> str:
        try:
            with (self.folder / name).open("rb") as file:
                return file.read(LONGEST_LOG).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return ""

    def _left(self) -> float:
        return self.seconds - (time.monotonic() - self.begin)

    def _connect(self) -> Qmp | None:
        try:
            return Qmp.connect(self.folder / "qmp.sock", self._left(), label="the KVM probe")
        except QmpGone:
            return None  # between bind and listen, or QEMU ends, or it hangs

    def _stopped(self, qmp: Qmp) -> bool:
        try:
            status = qmp.execute("query-status", _timeout=self._left())
        except QmpGone:
            return False  # the loop sees how it ended
        return bool(status["status"] == "internal-error")

    def _call(self, qmp: Qmp) -> Verdict:
        """Guests run; so must hvCPUs."""
        try:
            info = qmp.require_cpc()
            if info["accelerator"] != self.accel:
                return Verdict(HVCPU, f"its hvCPUs run with {info['accelerator']}", "make qemu")
            qmp.execute("cpc-hvcpu-add", id=0, _timeout=max(0.1, self._left()))
            with RingFile.open(self.folder / "ring") as rings:
                # No grace: nobody calls it again.
                Hvcpu(qmp, rings, 0, grace=0.0).ping(timeout=max(0.1, self._left()))
        except CpcError as error:
            # Of one that died QEMU knows; of one that is late nobody knows anything.
            if self._left() <= 0 and not isinstance(error, HvcpuDead):
                return answer.hvcpu_hang(self.seconds)
            return Verdict(
                HVCPU, f"guests run, but no hvCPU: {_words(error)}", "make qemu firmware"
            )
        taken = time.monotonic() - self.begin
        return Verdict(WORKS, f"a guest and an hvCPU answered within {taken:.1f} s")
