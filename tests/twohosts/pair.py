# SPDX-License-Identifier: Apache-2.0
"""Two hosts that are two state folders on this machine, joined by loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import accel, confined
from tests.lib.fork_server import Command, ForkServer
from tests.patience import patient

TOP = Path(__file__).resolve().parents[2]
HOLD = TOP / "tests/lib/hold"
SECONDS = patient(90.0)
# For a definition: its guest does nothing at all, which costs nothing.
IDLE: dict[str, Any] = dict.fromkeys(("kernel", "initrd", "append"))
# How long a side waits for the other one; tests wait for that to pass.
PEER_SECONDS = f"{patient(3.0):g}"


def until(condition: Any, what: str, seconds: float = SECONDS) -> Any:
    """Wait for a condition with a deadline; its first true value."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.01)


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Forked:
    """A command of the fork server, with as much of a Popen as is needed of one."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self.args, self.pid = command.argv, command.pid
        self._said = command.out.open()

    @property
    def stdout(self) -> Forked:
        """Its output, to be read by lines."""
        return self

    def readline(self) -> str:
        """The next line; what there is of it when the command has ended."""
        line = ""
        while not line.endswith("\n"):
            ended = self.poll() is not None
            line += (more := self._said.readline())
            if ended and not more:
                break
            time.sleep(0 if more else 0.005)
        return line

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        try:
            return self._command.wait(0.001)
        except TimeoutError:
            return None

    @property
    def returncode(self) -> int | None:
        """The same, as far as it has been waited for."""
        return self._command.code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end: the rest of its output, and its errors."""
        try:
            self._command.wait(timeout or SECONDS)
        except TimeoutError:
            raise subprocess.TimeoutExpired(self.args, timeout or SECONDS) from None
        with self._said:
            return self._said.read(), self._command.err.read_text()

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        self._command.kill(signal.Signals(number))

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


Running = subprocess.Popen[str] | Forked


class Host:
    """One state folder. server: starts its commands; None: each is a Python of its own."""

    def __init__(self, name: str, folder: Path, built: Any, server: ForkServer | None) -> None:
        self.name = name
        self._server, self._count = server, 0
        self.folder = folder
        self.state = folder / "s"
        self.inside: list[str] = []  # words before every command here
        self.env = {
            **os.environ,
            "CPCCTL_STATE_DIR": str(self.state),
            "CPCCTL_RUN_DIR": str(folder / "r"),
            "CPCCTL_HOST": name,
            "CPCCTL_QEMU": os.environ.get("CPCCTL_QEMU", str(built.qemu)),
            "CPCCTL_QEMU_DATA": os.environ.get("CPCCTL_QEMU_DATA", str(built.qemu_data)),
            "CPCCTL_FIRMWARE": str(built.firmware),
            "CPCCTL_PROGRESS": "none",
            # The guest that `make setup` builds, and disks in temporary folders.
            "CPCCTL_ALLOW_PATHS": f"{built.vmlinuz.parents[2]}:{tempfile.gettempdir()}",
            "PYTHONPATH": str(TOP),
        }

    def start(self, *argv: str, stop_at: str = "") -> Running:
        """Begin a command here. stop_at: see tests/lib/hold."""
        if self._server and not self.inside and not stop_at:
            self._count += 1
            out, err = (self.folder / f"{self._count}.{kind}" for kind in ("out", "err"))
            self.folder.mkdir(exist_ok=True)
            out.touch()
            return Forked(self._server.start(list(argv), self.env, out, err))
        more = {"CPC_TEST_STOP_AT": stop_at, "PYTHONPATH": f"{HOLD}:{TOP}"} if stop_at else {}
        return subprocess.Popen(
            [*self.inside, sys.executable, "-m", "cpcctl", *argv],
            env={**self.env, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C works for it, also when these tests run in the background,
            # where a shell has SIGINT ignored.
            preexec_fn=_hear_interrupts,
        )

    def run(self, *argv: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end and check its exit code."""
        process = self.start(*argv)
        return finish(process, expect)

    def jobs(self, kind: str) -> list[dict[str, Any]]:
        """Job files of a kind, oldest first, as they are on disk."""
        return job_files(self.state, kind)

    def vm_state(self, name: str) -> str:
        """"absent", or what `vm status` says."""
        done = self.run("vm", "status", name, "--format", "json", expect=None)
        return str(json.loads(done.stdout)["state"]) if done.returncode == 0 else "absent"

    def qemu_pid(self, name: str) -> int:
        """Process of a VM's QEMU."""
        document = json.loads((self.folder / "r" / "vms" / name / "process.json").read_text())
        return int(document["pid"])


def job_files(state: Path, kind: str) -> list[dict[str, Any]]:
    """Job files of a kind in a host's state folder, oldest first."""
    found = []
    for path in sorted((state / "jobs").glob("*.json")):
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if document["kind"] == kind:
            found.append(document)
    return sorted(found, key=lambda entry: entry["created"])


def moves_bytes(jobs: list[dict[str, Any]]) -> bool:
    """The newest of these migrations is in phase copy and has sent something."""
    return bool(jobs and jobs[-1]["phase"] == "copy" and jobs[-1]["progress"].get("bytes_sent"))


def finish(
    process: Running, expect: int | None, seconds: float = SECONDS
) -> subprocess.CompletedProcess[str]:
    """Wait for a command and check its exit code."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{process.args!r} hangs\n{out}\n{err}") from None
    assert process.returncode is not None
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if expect is not None:
        assert done.returncode == expect, f"exit {done.returncode}\n{out}\n{err}"
    return done


class Pair:
    """Two hosts, a and b, and what the tests do with them."""

    def __init__(self, built: Any, server: ForkServer | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cpc-"))
        self.built = built
        self.a = Host("host-a", self.folder / "a", built, server)
        self.b = Host("host-b", self.folder / "b", built, server)
        self.accel: dict[str, str] = {}  # what definitions say, by name

    def vm(self, name: str = "t", **more: Any) -> str:
        """Start a small guest on a and return its name. more: what its definition says, None:
        nothing of that."""
        document = {
            "name": name,
            "memory": "128M",
            "kernel": str(self.built.vmlinuz),
            "initrd": str(self.built.tiny_initrd),
            "append": "console=ttyS0 quiet",
            **more,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))
        self.a.run("vm", "start", str(path))
        self.accel[name] = str(more.get("accel", "auto"))
        accel.check(self.a.qemu_pid(name), self.accel[name])
        confined.check(self.a.qemu_pid(name))
        return name

    def receive(self, *more: str, stop_at: str = "") -> tuple[Running, str]:
        """Start `receive` on b: the process and its ticket."""
        process = self.b.start(
            "receive", "--listen", "127.0.0.1:0", "--grace", PEER_SECONDS,
            "--peer-timeout", PEER_SECONDS, *more, stop_at=stop_at,
        )
        assert process.stdout is not None
        ticket = process.stdout.readline().strip()
        assert ticket.startswith("cpc1:"), finish(process, None).stderr
        return process, ticket

    def migrate(
        self, name: str, ticket: str, *more: str, stop_at: str = ""
    ) -> Running:
        """Start `migrate` on a."""
        file = self.folder / "ticket"
        file.write_text(ticket)
        return self.a.start(
            "migrate", name, "--ticket-file", str(file), "--peer-timeout", PEER_SECONDS, *more,
            stop_at=stop_at,
        )

    def worker(self) -> int:
        """The process that runs the newest migration, once it has taken it over."""

        def found() -> int:
            jobs = self.a.jobs("migrate")
            pid = int(jobs[-1]["pid"]) if jobs else 0
            command = _command(pid)
            return pid if "cpcctl.migrate.worker" in command else 0

        return int(until(found, "the worker"))

    def copying(self) -> bool:
        """The newest migration moves bytes."""
        return moves_bytes(self.a.jobs("migrate"))

    def check_one_side(self, name: str, side: str) -> None:
        """The guest runs on exactly that side."""
        states = {"a": self.a.vm_state(name), "b": self.b.vm_state(name)}
        assert states[side] == "running", states
        assert states["b" if side == "a" else "a"] in ("absent", "stopped"), states
        host = self.a if side == "a" else self.b
        accel.check(host.qemu_pid(name), self.accel.get(name, "auto"))
        confined.check(host.qemu_pid(name))

    def check_next_try(self, name: str) -> None:
        """Nothing blocks another migration, from where the guest is on a."""
        receive, ticket = self.receive()
        finish(self.migrate(name, ticket), 0)
        finish(receive, 0)
        self.check_one_side(name, "b")

    def hopped(self, name: str = "t") -> str:
        """Start a guest that has been migrated once; the host it came from is b now."""
        self.vm(name)
        self.check_next_try(name)
        self.a, self.b = self.b, self.a
        return name

    def close(self) -> None:
        """End every process of ours and remove the folder."""
        for path in self.folder.glob("*/r/vms/*/process.json"):
            _kill(int(json.loads(path.read_text())["pid"]))
        for host in (self.a, self.b):
            for kind in ("migrate", "receive"):
                for job in host.jobs(kind):
                    if re.search("cpcctl|fork_server", _command(int(job["pid"]))):
                        _kill(int(job["pid"]))
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_stopped(pid: int) -> None:
    """Until a process has stopped itself."""
    until(lambda: _state(pid) == "T", f"process {pid} to stop")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    until(lambda: _state(pid) in ("", "Z"), f"process {pid} to end", patient(10))
