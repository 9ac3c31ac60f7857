# SPDX-License-Identifier: Apache-2.0
"""The life of a VM on this host: start, find again, look at, stop, forget."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from cpcctl.config.patience import patient
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.host import atomic
from cpcctl.host.files import read_all
from cpcctl.host.firmware import Hvcpu
from cpcctl.host.folders import make_folder
from cpcctl.host.process import ProcessId, spawn
from cpcctl.host.qmp import CONNECT_SECONDS, Qmp, QmpGone
from cpcctl.host.shm import RingFile
from cpcctl.host.state import Folders, VmLock, VmPaths, disk_error, remove_tree
from cpcctl.snp import checks as snp_checks
from cpcctl.snp import definition as snp
from cpcctl.ui import hints
from cpcctl.vm import command as commands
from cpcctl.vm import live, protection, ready
from cpcctl.vm import spec as specs
from cpcctl.vm.prepare import Note, command_line, resolve
from cpcctl.vm.spec import VmSpec

START_TIMEOUT = patient(60.0)
FIRMWARE_SECONDS = patient(30.0)
LOOK_SECONDS = patient(5.0)
# QEMU itself, its devices and its translated code.
OVERHEAD = 256 << 20
# The command line is most of it.
PROCESS_MAX = 1 << 20
# Of a log, in an error that the other host shows as well: it takes 2000 characters of it.
WORDS_MAX = 1500


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
        """True while its QEMU runs."""
        if self.child is not None:
            self.child.poll()
        return self.process.alive

    def qmp(self, *, job: bool = False, timeout: float = CONNECT_SECONDS) -> Qmp:
        """A QMP session; jobs have a socket of their own. Raises QmpGone."""
        path = self.paths.qmp_job if job else self.paths.qmp
        return Qmp.connect(path, timeout, label=f"VM {self.name}", host=self.host)

    def rings(self) -> RingFile:
        """Its ring file, mapped. Raises CpcError (4)."""
        return RingFile.open(self.paths.ring)

    def hvcpu(self, qmp: Qmp, rings: RingFile, number: int) -> Hvcpu:
        """One of its hvCPUs, to call."""
        return Hvcpu(qmp, rings, number)

    @property
    def last_words(self) -> str:
        """How a QEMU that is gone ended, as far as that is known, and the end of its log."""
        code = self.child.returncode if self.child is not None else None
        how = "" if code is None else live.ending(code)
        said = live.log_tail(self.paths.log, WORDS_MAX)
        return "\n".join(filter(None, (how, said))) or "it left no word in its log"

    def kill(self) -> None:
        """End its QEMU at once; the guest is gone. Waits until it is."""
        self.process.signal(SIGTERM)
        if not self.process.wait_gone(5.0):
            self.process.signal(SIGKILL)
            self.process.wait_gone(5.0)
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

    Raises CpcError (2) when this host has none, (4) when its QEMU is gone.
    """
    folders = Folders.of(settings)
    paths = folders.vm(name)
    if not paths.definition.exists():
        raise _no_vm(settings, name)
    vm = _recorded(settings, name, paths)
    if vm is None or not vm.alive:
        raise CpcError(
            f"VM {name} does not run",
            exit_code=ExitCode.UNREACHABLE,
            host=settings.host,
            cause=live.log_tail(paths.log),
            hint=f"cpcctl vm start {paths.definition}",
        )
    return vm


def _no_vm(settings: Settings, name: str) -> CpcError:
    return CpcError(
        f"no VM {name} on {settings.host}", exit_code=ExitCode.USAGE, hint="cpcctl vm list"
    )


def _recorded(settings: Settings, name: str, paths: VmPaths) -> Vm | None:
    """What the files say, without looking whether it still runs."""
    try:
        document = json.loads(read_all(paths.process, PROCESS_MAX))
        process = ProcessId(int(document["pid"]), int(document["started"]))
        if not 0 < process.pid < 1 << 31:
            raise ValueError(f"{process.pid} is no process")
        argv = [str(word) for word in document["argv"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError) as error:
        raise CpcError(
            f"{paths.process} is damaged; whether VM {name} runs is not known",
            exit_code=ExitCode.UNPROVEN,
            cause=reason(error),
            hint=f"ps ax | grep guest={name}",
        ) from error
    return Vm(name, specs.load(paths.definition), paths, process, argv, settings.host)


def available_memory() -> int:
    """Bytes the kernel says can be used without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise CpcError("/proc/meminfo does not say how much memory is available")


def start(
    settings: Settings,
    spec: VmSpec,
    *,
    incoming: bool = False,
    lock: VmLock | None = None,
    accel: str | None = None,
    note: Note | None = None,
) -> Vm:
    """Start a VM and add its hvCPUs. Either it runs, or nothing is left of it.

    incoming: stopped, disks inactive, to receive a guest
    lock:     when the caller holds the VM's lock already
    accel, note: as for resolve()
    Raises RunsAlready; CpcError: 3 refused (too little memory, wrong
    QEMU, KVM asked for that does not work, or QEMU refuses to start, with its
    own words), 4 QEMU cannot be executed or does not answer, or the firmware
    did not come up.
    """
    if lock is None:
        with VmLock.take(Folders.of(settings), spec.name, "vm start") as held:
            try:
                return start(
                    settings, spec, incoming=incoming, lock=held, accel=accel, note=note
                )
            except CpcError:
                if not Folders.of(settings).vm(spec.name).state.exists():
                    held.remove()
                raise
    paths = Folders.of(settings).vm(spec.name)
    existing = _recorded(settings, spec.name, paths)
    if existing is not None and existing.alive:
        raise RunsAlready(existing)
    _check_memory(settings, spec)
    ready.check(settings.host, spec)
    spec = resolve(settings, spec, accel, note)
    if spec.platform == snp.PLATFORM:
        snp_checks.check(settings, spec)
    argv = command_line(settings, spec, incoming=incoming)
    known = paths.definition.exists()
    remove_tree(paths.run)
    make_folder(paths.run)
    make_folder(paths.state)
    try:
        return _launch(settings, spec, paths, argv)
    except BaseException:
        remove_tree(paths.run)
        if not known:
            remove_tree(paths.state)
        raise


def memory_needed(spec: VmSpec) -> int:
    """Bytes that a VM takes of a host: guest memory, QEMU and rings."""
    rings = commands.layout(spec).size if commands.has_hvcpus(spec) else 0
    return spec.memory + OVERHEAD + rings


def _check_memory(settings: Settings, spec: VmSpec) -> None:
    need = memory_needed(spec)
    free = available_memory()
    if need > free:
        raise CpcError(
            f"too little memory on {settings.host} for VM {spec.name}",
            exit_code=ExitCode.REFUSED,
            host=settings.host,
            cause=f"{need >> 20} MiB needed, QEMU and rings included; {free >> 20} MiB available",
            hint="cpcctl vm list",
        )


def _launch(settings: Settings, spec: VmSpec, paths: VmPaths, argv: list[str]) -> Vm:
    try:
        atomic.write_atomic(paths.definition, specs.dump(spec).encode())
        paths.log.unlink(missing_ok=True)
        os.close(atomic.create(paths.log))
        if commands.has_hvcpus(spec):
            RingFile.create(paths.ring, commands.layout(spec)).close()
    except OSError as error:
        raise disk_error(paths.state, error) from error
    try:
        child = spawn(argv, paths.log)
    except OSError as error:
        raise CpcError(
            f"QEMU {argv[0]} cannot be executed",
            exit_code=ExitCode.UNREACHABLE,
            host=settings.host,
            cause=reason(error),
            hint="cpcctl doctor",
        ) from error
    process = ProcessId.of(child.pid)
    assert process is not None, "a child stays until it is waited for"
    vm = Vm(spec.name, spec, paths, process, argv, settings.host, child)
    try:
        record = {"pid": process.pid, "started": process.started, "argv": argv}
        try:
            atomic.write_atomic(paths.process, json.dumps(record).encode())
        except OSError as error:
            raise disk_error(paths.process, error) from error
        with _first_contact(vm) as qmp:
            if commands.has_hvcpus(spec):
                _add_hvcpus(vm, qmp)
    except BaseException:
        vm.kill()
        raise
    return vm


def _add_hvcpus(vm: Vm, qmp: Qmp) -> None:
    qmp.require_cpc()
    # One starts by itself in an SEV-SNP guest: the guest's first CPU waits for it.
    there = qmp.execute("query-cpc")["hvcpus"]
    running = {entry["id"] for entry in there if entry["state"] != "inactive"}
    for number in set(range(vm.spec.hvcpus)) - running:
        qmp.execute("cpc-hvcpu-add", id=number)
    if vm.spec.hvcpus:
        with vm.rings() as rings:
            vm.hvcpu(qmp, rings, 0).ping(timeout=FIRMWARE_SECONDS)


def _first_contact(vm: Vm) -> Qmp:
    """Connect to a QEMU that is just starting, as soon as it listens."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        if not vm.alive:
            raise _ended(vm)
        if vm.paths.qmp.is_socket():
            # Between bind and listen a connection is refused: try again.
            with contextlib.suppress(QmpGone):
                return vm.qmp(timeout=max(0.1, deadline - time.monotonic()))
        if time.monotonic() > deadline:
            raise CpcError(
                f"QEMU of VM {vm.name} did not answer within {START_TIMEOUT:g} s",
                exit_code=ExitCode.UNREACHABLE,
                host=vm.host,
                cause=live.log_tail(vm.paths.log),
            )
        time.sleep(0.005)


def _ended(vm: Vm) -> CpcError:
    """The error for a QEMU that ended before it answered."""
    code = vm.child.returncode if vm.child is not None else None
    if code is not None and code < 0:
        return CpcError(
            f"QEMU of VM {vm.name} was killed by signal {-code} while it started",
            exit_code=ExitCode.UNREACHABLE,
            host=vm.host,
            cause=live.log_tail(vm.paths.log),
            hint="cpcctl doctor",
        )
    words = live.log_tail(vm.paths.log)
    return CpcError(
        f"QEMU refuses to start VM {vm.name}",
        exit_code=ExitCode.REFUSED,
        host=vm.host,
        cause=words,
        hint=hints.qemu_refusal(words, vm.argv[0]),
    )


def stop(
    settings: Settings,
    name: str,
    *,
    force: bool,
    timeout: float = 60.0,
    lock: VmLock | None = None,
    waiting: Callable[[], None] | None = None,
) -> bool:
    """Shut a guest down; with force end its QEMU at once. Its logs stay.

    waiting: called when the guest was asked and the wait for it begins
    Returns False when it did not run. Raises CpcError (6) when the guest did
    not shut down in time; it runs on.
    """
    paths = Folders.of(settings).vm(name)
    # Before the lock: a mistyped name leaves no lock file.
    if not paths.state.exists():
        raise _no_vm(settings, name)
    if lock is None:
        with VmLock.take(Folders.of(settings), name, "vm stop") as held:
            return stop(
                settings, name, force=force, timeout=timeout, lock=held, waiting=waiting
            )
    vm = _recorded(settings, name, paths) if paths.definition.exists() else None
    if vm is None or not vm.alive:
        _remove_definition(paths)
        return False
    if force:
        vm.kill()
    else:
        with vm.qmp() as qmp:
            ended = _ask_to_shut_down(vm, qmp)
        if ended:
            vm.kill()
        elif waiting is not None:
            waiting()
        if not vm.process.wait_gone(timeout):
            raise CpcError(
                f"VM {name} did not shut down within {timeout:g} s and runs on",
                exit_code=ExitCode.TIMED_OUT,
                hint=f"cpcctl vm console {name}: what the guest does\n"
                f"cpcctl vm stop --force {name}: end it at once; what it has not written is lost",
            )
    _remove_definition(paths)
    return True


def _ask_to_shut_down(vm: Vm, qmp: Qmp) -> bool:
    """True when the guest has shut down before. Raises CpcError (3) when it cannot hear."""
    state = live.run_state(qmp, vm.spec)
    if state == "shutdown":
        return True
    if state == "running":
        qmp.execute("system_powerdown")
        return False
    hint = hints.run_state(state, vm.name)[1]
    if state != "frozen":
        hint += (
            f"\ncpcctl vm stop --force {vm.name}: end it as it is; what it has not written is lost"
        )
    raise CpcError(
        f"VM {vm.name} stands still and cannot shut down",
        exit_code=ExitCode.REFUSED,
        host=vm.host,
        cause=live.standstill(qmp, state, vm.spec),
        hint=hint,
    )


def _remove_definition(paths: VmPaths) -> None:
    # What is stopped must not stand in the way of a VM of that name arriving.
    paths.definition.unlink(missing_ok=True)
    remove_tree(paths.run)


def discard(settings: Settings, name: str) -> None:
    """End the QEMU of a guest that never ran here and remove its files."""
    vm = _recorded(settings, name, Folders.of(settings).vm(name))
    if vm is not None and vm.alive:
        vm.kill()
    forget(settings, name)


def forget(settings: Settings, name: str) -> None:
    """Remove every file of a VM that does not run here (any more).

    Raises CpcError (5) when it does run.
    """
    paths = Folders.of(settings).vm(name)
    vm = _recorded(settings, name, paths)
    if vm is not None and vm.alive:
        raise CpcError(
            f"VM {name} still runs on {settings.host}", exit_code=ExitCode.UNPROVEN
        )
    remove_tree(paths.run)
    remove_tree(paths.state)


def status(settings: Settings, name: str) -> dict[str, Any]:
    """What is known of a VM, never an error for one that is broken.

    state: stopped, unreachable, frozen, or QEMU's run state (running, paused,
    postmigrate, ...); with it, from a QEMU that answers: hvcpus, gvcpus,
    trusted_bytes, firmware_version, launch_digest; emulated, policy: of an SEV-SNP guest;
    ended: why the guest ended itself, of a stopped one that did. Raises CpcError (2)
    when there is none.
    """
    return look(settings, name)[0]


def look(settings: Settings, name: str) -> tuple[dict[str, Any], CpcError | None]:
    """status(), and why it is unreachable when it is."""
    paths = Folders.of(settings).vm(name)
    if not paths.definition.exists():
        raise _no_vm(settings, name)
    found: dict[str, Any] = {"name": name, "host": settings.host, "state": "stopped"}
    try:
        spec = specs.load(paths.definition)
        vm = _recorded(settings, name, paths)
    except CpcError as error:
        return {**found, "state": "unreachable", "error": error.message}, error
    found |= {"memory": spec.memory, "machine": spec.machine, "accel": spec.accel}
    found |= {"platform": spec.platform, "log": str(paths.log)}
    if spec.console == "serial":
        found["console_log"] = str(paths.console_log)
    if spec.platform == snp.PLATFORM:
        found |= {"emulated": protection.emulated(spec.accel), "policy": f"{spec.snp.policy:#x}"}
    if vm is None or not vm.alive:
        return found | live.ended(spec, paths.log), None
    found["pid"] = vm.process.pid
    try:
        with vm.qmp(timeout=LOOK_SECONDS) as qmp:
            return found | live.look(qmp, spec), None
    except CpcError as error:
        if isinstance(error, QmpGone):
            error.hint = (
                f"cpcctl job list --vm {name}: a job may hold its socket\n"
                f"cpcctl vm status {name}, once more: QEMU may only be slow"
            )
        words = error.cause or error.message
        return {**found, "state": "unreachable", "error": words}, error


def list_all(settings: Settings) -> list[dict[str, Any]]:
    """status() of every VM of this host."""
    found = []
    for name in Folders.of(settings).vm_names():
        # One that disappears while we look is not listed.
        with contextlib.suppress(CpcError):
            found.append(status(settings, name))
    return found
