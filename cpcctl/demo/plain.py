# SPDX-License-Identifier: Apache-2.0
"""QEMU's own, plaintext migration of the same guest: what ours is compared with.

The same binary without the cpc device, the same memory backend, no bandwidth
limit. Used by the demo as proof that its check can fail, and by the bench. With an
OVMF it is an emulated SEV-SNP guest, which nothing migrates.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpcctl.config.patience import patient
from cpcctl.demo.hosts import Host, Place, kill, wait_until
from cpcctl.errors import CpcError
from cpcctl.host.qmp import Qmp
from cpcctl.snp.definition import DEFAULT_CPU
from cpcctl.vm.command import POSITION, accelerator

UNLIMITED = 1 << 40
SOCKET_SECONDS = patient(20.0)


@dataclass(frozen=True)
class PlainGuest:
    """What the guest is; sizes in MiB. ovmf: the firmware of an SEV-SNP guest."""

    qemu: Path
    qemu_data: Path
    kernel: Path
    initrd: Path
    append: str
    memory_mib: int = 256
    vcpus: int = 1
    tap: str | None = "tap1"
    accel: str = "tcg"
    ovmf: Path | None = None

    @property
    def platform(self) -> list[str]:
        """The machine and the processor."""
        machine = "q35,memory-backend=ram0"
        if self.ovmf is None:
            return ["-machine", machine, "-cpu", "max"]
        return [
            "-machine", f"{machine},confidential-guest-support=sev0", "-cpu", DEFAULT_CPU,
            "-object", f"sev-snp-guest,id=sev0,{POSITION}", "-bios", str(self.ovmf),
        ]  # fmt: skip

    @property
    def netdev(self) -> str:
        """A tap, or a user-mode network where there is none."""
        if self.tap is None:
            return "user,id=net0"
        return f"tap,id=net0,ifname={self.tap},script=no,downscript=no"


@dataclass(frozen=True)
class PlainResult:
    """QEMU's own figures, in seconds and bytes, and the wall time seen from here."""

    total_seconds: float
    downtime_seconds: float
    bytes_sent: int


class PlainVm:
    """One QEMU process on one host."""

    def __init__(self, host: Host, guest: PlainGuest, incoming: bool) -> None:
        self.host = host
        self.folder = host.folder / "plain"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console = self.folder / "console.sock"
        self.log = self.folder / "console.log"
        self._qmp_path = self.folder / "qmp.sock"
        for path in (self.console, self.log, self._qmp_path):
            path.unlink(missing_ok=True)
        self._errors = (self.folder / "qemu.log").open("w")
        argv = self._argv(guest, incoming)
        self._process = host.popen(
            argv, stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors
        )
        wait_until(
            f"QEMU on {host.name}",
            lambda: self._qmp_path.exists() or self._process.poll() is not None,
            SOCKET_SECONDS,
        )
        self.qmp = Qmp.connect(self._qmp_path, label="plain QEMU", host=host.name)

    def _argv(self, guest: PlainGuest, incoming: bool) -> list[str]:
        memory = f"memory-backend-memfd,id=ram0,size={guest.memory_mib}M,share=on"
        argv = [
            str(guest.qemu), "-L", str(guest.qemu_data), "-no-user-config", "-nodefaults",
            "-display", "none", "-object", memory, *guest.platform,
            "-accel", accelerator(guest.accel), "-smp", str(guest.vcpus),
            "-m", f"{guest.memory_mib}M",
            "-netdev", guest.netdev,
            "-device", "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:70:6c:61,romfile=",
            "-chardev", f"socket,id=qmp,path={self._qmp_path},server=on,wait=off",
            "-mon", "chardev=qmp,mode=control",
            "-chardev", f"socket,id=console,path={self.console},server=on,wait=off,"
            f"logfile={self.log}",
            "-serial", "chardev:console",
            "-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", guest.append,
        ]  # fmt: skip
        return [*argv, "-incoming", "defer"] if incoming else argv

    def close(self) -> None:
        """End QEMU, whatever state it is in."""
        # One that does not listen is killed below.
        with contextlib.suppress(CpcError):
            self.qmp.execute("quit", _timeout=5)
        self.qmp.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            kill(self._process, 9)
            self._process.wait()
        self._errors.close()


def migrate(
    source: PlainVm,
    destination: PlainVm,
    downtime_ms: int,
    timeout: float,
    via: Callable[[int], int] | None = None,
) -> PlainResult:
    """Run one plaintext migration to its end. Raises RuntimeError with QEMU's words.

    via: given the port QEMU listens on, the port the source shall use instead.
    """
    for vm in (source, destination):
        vm.qmp.execute(
            "migrate-set-parameters", max_bandwidth=UNLIMITED, downtime_limit=downtime_ms
        )
    address = destination.host.address
    destination.qmp.execute("migrate-incoming", uri=f"tcp:{address}:0")
    port = int(destination.qmp.execute("query-migrate")["socket-address"][0]["port"])
    started = time.monotonic()
    source.qmp.execute("migrate", uri=f"tcp:{address}:{via(port) if via else port}")
    info: dict[str, Any] = {}

    def ended() -> bool:
        info.update(source.qmp.execute("query-migrate"))
        return info.get("status") in ("completed", "failed", "cancelled")

    wait_until("plaintext migration", ended, timeout, pause=0.01)
    if info["status"] != "completed":
        raise RuntimeError(f"plaintext migration: {info.get('error-desc', info['status'])}")
    wait_until(
        "the destination runs",
        lambda: destination.qmp.execute("query-status")["status"] == "running",
        timeout,
        pause=0.005,
    )
    return PlainResult(
        total_seconds=time.monotonic() - started,
        downtime_seconds=info["downtime"] / 1000,
        bytes_sent=info["ram"]["transferred"],
    )


def pair(world: Place, guest: PlainGuest) -> tuple[PlainVm, PlainVm]:
    """The guest on host-a, and an empty QEMU waiting for it on host-b."""
    source = PlainVm(world.a, guest, incoming=False)
    try:
        return source, PlainVm(world.b, guest, incoming=True)
    except BaseException:
        source.close()
        raise
