# SPDX-License-Identifier: Apache-2.0
"""One side's machine during a migration: its QEMU, rings and hvCPUs."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import Any

from cpcctl import abi
from cpcctl.config.patience import patient
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host import suite_speed
from cpcctl.host.firmware import Hvcpu
from cpcctl.host.qmp import Event, Qmp
from cpcctl.host.shm import CallError, RingFile
from cpcctl.host.state import VmPaths
from cpcctl.link.pump import Port
from cpcctl.migrate import checks, session
from cpcctl.ui.check import refusal
from cpcctl.vm.lifecycle import Vm

EVENT_SECONDS = patient(5.0)


@dataclass
class Side:
    """Made by attach(); close() hangs up and leaves the machine as it is."""

    vm: Vm
    qmp: Qmp
    rings: RingFile
    hvcpus: list[Hvcpu]

    @classmethod
    def attach(cls, vm: Vm) -> Side:
        """Take the VM's QMP socket for jobs.

        :raise CpcError: (4) QEMU or the ring file is gone, (3) no hvCPU to use, or a
        VM that can have none.
        """
        error = refusal([checks.movable(vm.spec, vm.host)])
        if error is not None:
            raise error
        qmp = vm.qmp(job=True)
        try:
            entries = qmp.require_cpc()["hvcpus"]
            rings = vm.rings()
        except BaseException:
            qmp.close()
            raise
        usable = [e["id"] for e in entries if e["state"] in ("parked", "running")]
        side = cls(vm, qmp, rings, [vm.hvcpu(qmp, rings, number) for number in usable])
        if not usable:
            side.close()
            states = ", ".join(
                f"{e['id']} {e['state']}" for e in entries if e["state"] != "inactive"
            )
            dead = [e["id"] for e in entries if e["state"] == "dead"]
            raise CpcError(
                f"VM {vm.name} has no hvCPU that can be called",
                exit_code=ExitCode.REFUSED,
                host=vm.host,
                cause=states or "none was added",
                hint=checks.living_hvcpu(vm.name, dead),
            )
        return side

    def close(self) -> None:
        """Hang up; may be called twice."""
        self.qmp.close()
        self.rings.close()

    @property
    def main(self) -> Hvcpu:
        """The hvCPU of stream 0, which runs every call that is not a stream's."""
        return self.hvcpus[0]

    def speeds(self, direction: int) -> suite_speed.Speeds:
        """Bytes a second of each suite on these hvCPUs. direction: abi.SPEED_*."""
        return suite_speed.remembered(self.vm.paths.suite_speeds, self.main, direction)

    def port(self, stream: int) -> Port:
        """What a pump needs of the hvCPU of a stream."""
        hvcpu = self.hvcpus[stream]
        return Port(
            hvcpu.ring, lambda: hvcpu.mailbox.state == abi.STATE_YIELDED, hvcpu.wake
        )

    def settle_calls(self) -> None:
        """End calls that a controller which died left behind."""
        for hvcpu in self.hvcpus:
            hvcpu.settle()

    def query(self) -> session.SessionInfo:
        """The firmware's session."""
        return session.query(self.main)

    def info(self) -> dict[str, Any]:
        """query-cpc."""
        return self.qmp.require_cpc()

    def dead_hvcpus(self) -> list[int]:
        """Numbers of hvCPUs that a fault stopped."""
        return [e["id"] for e in self.info()["hvcpus"] if e["state"] == "dead"]

    def revive(self) -> None:
        """Have others for dead hvCPUs; the session lives in the firmware, not in them.

        The same one anew where the platform can start it twice; SEV-SNP cannot.
        """
        for number in self.dead_hvcpus():
            self.qmp.execute("cpc-hvcpu-remove", id=number)
            added = self.qmp.execute("cpc-hvcpu-add")["id"]
            self.hvcpus = [
                self.vm.hvcpu(self.qmp, self.rings, added) if hvcpu.number == number else hvcpu
                for hvcpu in self.hvcpus
            ]

    def dirty_log(self, enable: bool) -> None:
        """Start or stop recording dirty pages."""
        self.qmp.execute("cpc-dirty-log", enable=enable)

    def dirty_sync(self) -> int:
        """Bring the dirty hint up to date; pages found dirty."""
        return int(self.qmp.execute("cpc-dirty-sync")["dirty-pages"])

    def disks(self, active: bool) -> None:
        """Take or drop every disk's lock. :raise QmpError: another QEMU holds one."""
        self.qmp.execute("blockdev-set-active", active=active)

    def save_devices(self) -> tuple[bytes, bytes]:
        """Device state of the frozen guest, and its SHA-256."""
        answer = self.qmp.execute("cpc-save-device-state")
        return base64.b64decode(answer["data"]), bytes.fromhex(answer["sha256"])

    def load_devices(self, data: bytes, sha256: str) -> None:
        """Load it into the frozen, incoming guest, if it has that digest.

        By way of a file: QEMU reads a QMP command byte by byte, which for this
        much is a tenth of a second of downtime.
        """
        descriptor = os.memfd_create("device-state", os.MFD_CLOEXEC)
        with open(descriptor, "wb", closefd=True) as stream:
            stream.write(data)
            stream.flush()
            self.qmp.hand_over("device-state", descriptor)
        self.qmp.execute("cpc-load-device-state", fdname="device-state", sha256=sha256)

    def event_time(self, name: str, timeout: float = EVENT_SECONDS) -> float:
        """When QEMU emitted an event, in seconds of its host's clock. :raise TimeoutError: none
        came in so many seconds."""

        def wanted(event: Event) -> bool:
            return bool(event["event"] == name)

        stamp = self.qmp.wait_event(wanted, timeout)["timestamp"]
        return float(stamp["seconds"]) + float(stamp["microseconds"]) / 1e6

    def abort(self) -> bytes:
        """Give up for ever; the token, or b"" when no session was ever opened."""
        try:
            return session.abort(self.main)
        except CallError as error:
            if error.status == abi.S_NO_SESSION:
                return b""
            raise

    def resume(self, token: bytes = b"") -> None:
        """Let the source's guest run; no session of ours as source means that it does."""
        try:
            session.resume(self.main, token)
        except CallError as error:
            if error.status not in (abi.S_NO_SESSION, abi.S_WRONG_ROLE):
                raise
            found = self.query()
            # A guest that arrived here runs with the session it arrived in.
            arrived = (found.role, found.phase) == (abi.ROLE_DESTINATION, abi.PHASE_RUNNING)
            if found.phase != abi.PHASE_NONE and not arrived:
                raise


@dataclass(frozen=True)
class Absent:
    """In place of a machine that cannot be had. gone: that is proven; trouble: why not."""

    paths: VmPaths
    gone: bool
    trouble: CpcError
