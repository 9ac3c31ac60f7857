# SPDX-License-Identifier: Apache-2.0
"""The VMs of this host that cpcctl started: found again, and proven to run or to be gone."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM

from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.host import life
from cpcctl.host.files import read_all
from cpcctl.host.firmware import Hvcpu
from cpcctl.host.process import ProcessId, ends
from cpcctl.host.qmp import CONNECT_SECONDS, Qmp
from cpcctl.host.shm import RingFile
from cpcctl.host.state import Folders, VmPaths
from cpcctl.ui import interrupts
from cpcctl.vm import live
from cpcctl.vm import spec as specs
from cpcctl.vm.ending import Ending
from cpcctl.vm.spec import VmSpec

# Of a log, in an error that the other host shows as well: it takes 2000 characters of it.
WORDS_MAX = 1500
# The command line is most of it.
PROCESS_MAX = 1 << 20


@dataclass
class Vm:
    """A VM whose QEMU runs on this host."""

    name: str
    spec: VmSpec
    paths: VmPaths
    process: ProcessId
    argv: list[str]
    host: str
    # Kept so that a QEMU we started ourselves does not stay a zombie.
    child: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """False once it is proven that its QEMU is gone; how it ended is in the log then.

        Proof is that the recorded process is gone, and that nobody holds the lock that
        QEMU inherited.
        """
        if self.child is not None:
            self.child.poll()
        return self.process.alive or held(self.name, self.paths) is True

    def wait_gone(self, timeout: float) -> bool:
        """True when that is proven within timeout seconds."""
        return ends(lambda: self.alive, timeout)

    @property
    def ending(self) -> Ending:
        """Why its QEMU went, when it is gone."""
        return live.ended(self.paths.log)

    def qmp(self, *, job: bool = False, timeout: float = CONNECT_SECONDS) -> Qmp:
        """A QMP session; jobs have a socket of their own. Raises QmpGone."""
        path = self.paths.qmp_job if job else self.paths.qmp
        return Qmp.connect(path, timeout, label=f"VM {self.name}", host=self.host)

    @contextlib.contextmanager
    def session(self) -> Iterator[Qmp]:
        """The same, for a verb that hears no signal: one ends it while nothing was asked yet.

        :raise KeyboardInterrupt: then. Raises QmpGone.
        """
        with interrupts.heard():
            qmp = self.qmp()
        with qmp:
            yield qmp

    def rings(self) -> RingFile:
        """Its ring file, mapped. Raises CpcError (4)."""
        return RingFile.open(self.paths.ring)

    def hvcpu(self, qmp: Qmp, rings: RingFile, number: int) -> Hvcpu:
        """One of its hvCPUs, to call."""
        return Hvcpu(qmp, rings, number)

    @property
    def last_words(self) -> str:
        """How a QEMU that is gone ended, and the end of its log."""
        said = live.log_tail(self.paths.log, WORDS_MAX)
        return "\n".join(filter(None, (self.ending.words, said)))

    def kill(self) -> None:
        """End its QEMU at once; the guest is gone. Waits until it is."""
        self.process.signal(SIGTERM)
        if not self.wait_gone(5.0):
            self.process.signal(SIGKILL)
            self.wait_gone(5.0)
        if self.child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(1.0)


class RunsAlready(CpcError):
    """A VM that is to be started has the name of one that runs here."""

    def __init__(self, vm: Vm) -> None:
        super().__init__(
            f"VM {vm.name} runs on {vm.host} already",
            exit_code=ExitCode.REFUSED,
            host=vm.host,
            hint=f"cpcctl vm status {vm.name}",
        )
        self.vm = vm


def attach(settings: Settings, name: str) -> Vm:
    """The running VM of that name.

    Raises CpcError (2) when this host has none, (4) when its QEMU is gone, (5) when that
    is not known.
    """
    paths = Folders.of(settings).vm(name)
    vm = recorded(settings, name, paths)
    if vm is None and not paths.definition.exists():
        raise NoVm(settings, name)
    if vm is None or not vm.alive:
        raise CpcError(
            f"VM {name} does not run",
            exit_code=ExitCode.UNREACHABLE,
            host=settings.host,
            cause=live.ended(paths.log).words,
            hint=f"cpcctl vm start {paths.definition}",
        )
    return vm


class NoVm(CpcError):
    """This host has no VM of that name."""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(
            f"no VM {name} on {settings.host}", exit_code=ExitCode.USAGE, hint="cpcctl vm list"
        )
        self.name = name


def recorded(settings: Settings, name: str, paths: VmPaths) -> Vm | None:
    """What the files say, without looking whether it still runs.

    None: a file is missing or damaged, and no QEMU of that name lives. Raises CpcError (5)
    when one lives, or may.
    """
    lost, process = paths.process, None
    try:
        process, argv = _read_process(lost)
        lost = paths.definition
        return Vm(name, specs.load(lost), paths, process, argv, settings.host)
    except (CpcError, OSError, ValueError, OverflowError, RecursionError, KeyError,
            TypeError) as error:
        why = error.__cause__ if isinstance(error, CpcError) and error.__cause__ else error
        missing = isinstance(why, FileNotFoundError)
        # What is lost is no proof of anything: the lock answers, and the process if it is known.
        lives = held(name, paths)
        if process is not None:
            lives = process.alive or lives is True
        if lives is False or (lives is None and missing and not paths.definition.exists()):
            return None
        hint = f"ps ax | grep guest={name}"
        if process is not None and process.alive:
            hint += f"\nkill {process.pid}: end it; then cpcctl vm stop {name}"
        raise CpcError(
            f"{lost} is {'missing' if missing else 'damaged'}; "
            + (f"QEMU of VM {name} lives" if lives else f"whether VM {name} runs is not known"),
            exit_code=ExitCode.UNPROVEN,
            host=settings.host,
            cause=reason(why),
            hint=hint,
        ) from error


def _read_process(path: Path) -> tuple[ProcessId, list[str]]:
    document = json.loads(read_all(path, PROCESS_MAX))
    process = ProcessId(int(document["pid"]), int(document["started"]))
    if not 0 < process.pid < 1 << 31:
        raise ValueError(f"{process.pid} is not a process")
    return process, [str(word) for word in document["argv"]]


def gone(settings: Settings, name: str) -> bool:
    """Whether it is proven that no QEMU of that name lives here."""
    try:
        vm = recorded(settings, name, Folders.of(settings).vm(name))
        return vm is None or not vm.alive
    except CpcError:
        return False


def held(name: str, paths: VmPaths) -> bool | None:
    """As life.held(). Raises CpcError (5) when it cannot be told."""
    try:
        return life.held(paths.life)
    except OSError as error:
        raise CpcError(
            f"{paths.life} cannot be opened; whether VM {name} runs is not known",
            exit_code=ExitCode.UNPROVEN,
            cause=reason(error),
            hint=f"ls -ld {paths.life.parent}",
        ) from error
