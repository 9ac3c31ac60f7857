# SPDX-License-Identifier: Apache-2.0
"""Two hosts whose VMs are fake machines, and what is done to them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cpcctl.host.process import ProcessId
from cpcctl.link import ticket as tickets
from tests.lib.fake_machine import build
from tests.lib.fake_machine.stage import Stage
from tests.lib.fork_server import Command, ForkServer
from tests.patience import patient
from tests.recovery.relay import Relay

SECONDS = patient(60.0)
VM = "t"
# How long a side waits for the other one.
PEER_SECONDS, GRACE_SECONDS = patient(2.0), patient(1.0)
# A factor, see Host.impatient().
IMPATIENT = f"{patient(0.2):g}"
T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = SECONDS) -> T:
    """Wait for a condition with a deadline; its first true value."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.005)


class Host:
    """One state folder with a fake QEMU."""

    def __init__(self, name: str, folder: Path, stage: Stage, server: ForkServer) -> None:
        self.name = name
        self.folder = folder
        self.stage = stage
        self._server = server
        self._patient = server
        self._count = 0
        folder.mkdir()
        keep = ("PATH", "HOME", "TMPDIR", "PYTHONPATH", "CPC_TEST_RUN", "CPCCTL_PATIENCE")
        self.env = {
            **{key: os.environ[key] for key in keep if key in os.environ},
            "CPCCTL_STATE_DIR": str(folder / "s"),
            "CPCCTL_RUN_DIR": str(folder / "r"),
            "CPCCTL_HOST": name,
            "CPCCTL_QEMU": str(build.program(folder, stage.folder)),
            "CPCCTL_FIRMWARE": str(build.image(folder)),
            "CPCCTL_ACCEL": "tcg",
            "CPCCTL_PROGRESS": "none",
            "CPCCTL_ALLOW_PATHS": str(folder.parent),
        }

    def impatient(self, server: ForkServer | None) -> None:
        """From now on commands here wait a fifth as long for what does not come, by that server;
        None: as long as ever."""
        self._server = server or self._patient
        if server is None:
            self.env.pop("CPCCTL_PATIENCE", None)
            if "CPCCTL_PATIENCE" in os.environ:
                self.env["CPCCTL_PATIENCE"] = os.environ["CPCCTL_PATIENCE"]
        else:
            self.env["CPCCTL_PATIENCE"] = IMPATIENT

    def start(self, *argv: str, out: Path | None = None) -> Command:
        """Begin a command here."""
        self._count += 1
        place = self.folder / f"{self._count}"
        return self._server.start(
            list(argv), self.env, out or place.with_suffix(".out"), place.with_suffix(".err")
        )

    def run(self, *argv: str, expect: int | None = 0) -> Command:
        """Run a command here to its end and check its exit code."""
        command = self.start(*argv)
        code = finish(command)
        assert expect is None or code == expect, told(command)
        return command

    def json(self, *argv: str) -> Any:
        """What a command prints as JSON; None when it fails."""
        command = self.run(*argv, "--format", "json", expect=None)
        return json.loads(command.out.read_text()) if command.code == 0 else None

    def job(self, kind: str) -> dict[str, Any]:
        """The newest job file of a kind as it is on disk; empty when there is none."""
        found = []
        for path in (self.folder / "s" / "jobs").glob("*.json"):
            try:
                found.append(json.loads(path.read_text()))
            except (OSError, ValueError):
                continue
        found = [entry for entry in found if entry["kind"] == kind]
        return max(found, key=lambda entry: entry["created"], default={})

    def state(self) -> str:
        """"absent", or what `vm status` says of the VM."""
        found = self.json("vm", "status", VM)
        return "absent" if found is None else str(found["state"])

    def check_nothing_left(self) -> None:
        """No file of the VM is here, and no QEMU that was ever started."""
        for folder in ("s/vms", "r/vms", "r/locks"):
            assert not (self.folder / folder / VM).exists(), f"{folder}/{VM} on {self.name}"
        for line in self.stage.lines():
            name, pid, *_ = line.split()
            assert name != self.name or ProcessId.of(int(pid)) is None, line
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes()
                assert self.env["CPCCTL_QEMU"].encode() not in command, process

    def process(self, kind: str) -> ProcessId:
        """The controller of the newest job of a kind."""
        job = self.job(kind)
        return ProcessId(job["pid"], job["pid_started"])

    def qemu(self) -> ProcessId | None:
        """The process of its QEMU, as the file says; None: it has none."""
        try:
            document = json.loads((self.folder / "r/vms" / VM / "process.json").read_text())
        except FileNotFoundError:
            return None
        return ProcessId(document["pid"], document["started"])


def finish(command: Command, seconds: float = SECONDS) -> int:
    """Wait for a command; its exit code."""
    try:
        return command.wait(seconds)
    except TimeoutError:
        raise AssertionError(f"hangs: {told(command)}") from None


def told(command: Command) -> str:
    """What a command said, for a failure's text."""
    said = command.out.read_text() + command.err.read_text()
    return f"{' '.join(command.argv)[:100]}: exit {command.code}\n{said}"


class Scene:
    """Hosts a and b, a cable between them, one guest on a."""

    def __init__(self, server: ForkServer) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cpc-"))
        self.stage = Stage(self.folder / "stage")
        self.stage.folder.mkdir()
        self.a = Host("host-a", self.folder / "a", self.stage, server)
        self.b = Host("host-b", self.folder / "b", self.stage, server)
        self._cable: Relay | None = None

    @property
    def cable(self) -> Relay:
        """Between them, once `receive` has run."""
        assert self._cable is not None
        return self._cable

    def vm(self) -> None:
        """Start the guest on a, with a disk that both hosts see."""
        disk = self.folder / "disk"
        disk.write_bytes(bytes(1 << 20))
        document = {
            "name": VM, "memory": "32M", "ring_size": "2M", "hvcpu_max": 1,
            "disks": [{"path": str(disk), "format": "raw", "cache": "writeback"}],
        }  # fmt: skip
        path = self.folder / f"{VM}.yaml"
        path.write_text(json.dumps(document))
        self.a.run("vm", "start", str(path))

    def receive(self, *more: str, grace: float = GRACE_SECONDS) -> tuple[Command, str]:
        """Start `receive` on b; a ticket that leads there by the cable."""
        command = self.b.start(
            "receive", "--listen", "127.0.0.1:0", "--grace", f"{grace:g}",
            "--peer-timeout", f"{PEER_SECONDS:g}", *more,
        )  # fmt: skip

        def line() -> str:
            text = command.out.read_text() if command.out.exists() else ""
            return text.partition("\n")[0] if "\n" in text else ""

        ticket = tickets.parse(until(line, "a ticket"))
        if self._cable is not None:
            self._cable.close()
        self._cable = Relay(ticket.port)
        return command, replace(ticket, port=self.cable.port).text()

    def migrate(self, ticket: str, *more: str) -> Command:
        """Start `migrate` on a."""
        return self.a.start("migrate", VM, ticket, "--peer-timeout", f"{PEER_SECONDS:g}", *more)

    def moving(
        self, host: Host, at: str, *, grace: float = GRACE_SECONDS, start: bool = True
    ) -> tuple[Command, Command]:
        """Start a guest, unless one runs, and its migration, until that host's machine is at
        a point: `migrate` and `receive`."""
        if start:
            self.vm()
        receive, ticket = self.receive(grace=grace)
        self.stage.hold(host.name, at)
        migrate = self.migrate(ticket)
        self.wait_held(host)
        return migrate, receive

    def wait_held(self, host: Host) -> None:
        """Until a machine stands at the point where it is to be held."""
        until(lambda: self.stage.held(host.name), f"{host.name} to be held")

    def worker(self) -> ProcessId:
        """The process that runs the newest migration."""
        return self.a.process("migrate")

    def close(self) -> None:
        """End every process of ours and remove the folder."""
        for host in (self.a, self.b):
            for kind in ("migrate", "receive"):
                job = host.job(kind)
                if job:
                    kill(ProcessId(job["pid"], job["pid_started"]))
            qemu = host.qemu()
            if qemu is not None:
                kill(qemu)
        if self._cable is not None:
            self._cable.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def kill(process: ProcessId, number: signal.Signals = signal.SIGKILL) -> None:
    """End a process of ours, and wait until it is gone."""
    process.signal(number)
    assert process.wait_gone(patient(10.0)), f"process {process.pid} does not end"
