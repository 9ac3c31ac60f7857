# SPDX-License-Identifier: Apache-2.0
"""The life of a VM on this host: start, find again, look at, stop, forget."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpcctl.config.patience import patient
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.host import atomic, life
from cpcctl.host.files import open_regular
from cpcctl.host.folders import make_folder
from cpcctl.host.qmp import Qmp, QmpGone
from cpcctl.host.shm import RingFile
from cpcctl.host.state import Folders, VmLock, VmPaths, disk_error, remove_tree
from cpcctl.qemu import sandbox, watcher
from cpcctl.qemu.descriptors import Descriptors
from cpcctl.snp import checks as snp_checks
from cpcctl.snp import definition as snp
from cpcctl.ui import hints, interrupts
from cpcctl.vm import command as commands
from cpcctl.vm import live, protection, ready, registry
from cpcctl.vm import spec as specs
from cpcctl.vm.files import Files, bypass_cache, open_files, refuse
from cpcctl.vm.prepare import Note, command_line, resolve
from cpcctl.vm.registry import RunsAlready as RunsAlready
from cpcctl.vm.registry import Vm as Vm
from cpcctl.vm.registry import attach as attach
from cpcctl.vm.spec import VmSpec

START_TIMEOUT = patient(60.0)
FIRMWARE_SECONDS = patient(30.0)
LOOK_SECONDS = patient(5.0)
Check = Callable[[], None]
# QEMU itself, its devices and its translated code.
OVERHEAD = 256 << 20


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
    files: Files | None = None,
    check: Check | None = None,
) -> Vm:
    """Start a VM and add its hvCPUs. Either it runs, or nothing is left of it.

    So a signal may come at any time, if the caller hears none, see interrupts.without():
    it is heard where that can be undone, and KeyboardInterrupt means that it does not run.

    incoming: stopped, disks inactive, to receive a guest
    files:    when the caller has opened them already; it closes them
    lock:     when the caller holds the VM's lock already
    check:    called under the VM's lock, before anything is done; it raises what stands in the way
    accel, note: as for resolve()
    Raises RunsAlready; CpcError: 3 refused (too little memory, wrong
    QEMU, KVM asked for that does not work, or QEMU refuses to start, with its
    own words), 4 QEMU cannot be executed or does not answer, or the firmware
    did not come up.
    """
    if lock is None:
        with VmLock.take(Folders.of(settings), spec.name, "vm start") as held:
            try:
                if check is not None:
                    check()
                return start(
                    settings, spec, incoming=incoming, lock=held, accel=accel, note=note,
                    files=files,
                )  # fmt: skip
            except (CpcError, KeyboardInterrupt):
                if not Folders.of(settings).vm(spec.name).state.exists():
                    held.remove()
                raise
    paths = Folders.of(settings).vm(spec.name)
    existing = registry.recorded(settings, spec.name, paths)
    if existing is not None and existing.alive:
        raise RunsAlready(existing)
    with interrupts.heard():
        _check_memory(settings, spec)
        ready.check(settings.host, spec)
        spec = resolve(settings, spec, accel, note)
        if spec.platform == snp.PLATFORM:
            snp_checks.check(settings, spec)
    with Descriptors() as fds, contextlib.ExitStack() as ours:
        if files is None:
            files = ours.enter_context(open_files(spec, open_regular))
        refuse(settings.host, spec, files, files.problems)
        confined = sandbox.of(spec.name)
        known = paths.definition.exists()
        remove_tree(paths.run)
        make_folder(paths.run)
        make_folder(paths.state)
        try:
            _make_files(spec, paths)
            try:
                argv = command_line(settings, spec, files, fds, incoming=incoming)
                bypass_cache(spec, files)
            except OSError as error:
                raise disk_error(Path(error.filename or paths.run), error) from error
            return _launch(settings, spec, paths, [*argv, *confined.argv], fds)
        except BaseException as error:
            if registry.held(spec.name, paths):
                raise _lives(settings, spec.name) from error
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


def _make_files(spec: VmSpec, paths: VmPaths) -> None:
    try:
        atomic.write_atomic(paths.definition, specs.dump(spec).encode())
        paths.log.unlink(missing_ok=True)
        os.close(atomic.create(paths.log))
        if commands.has_hvcpus(spec):
            RingFile.create(paths.ring, commands.layout(spec)).close()
    except OSError as error:
        raise disk_error(paths.state, error) from error


def _launch(
    settings: Settings, spec: VmSpec, paths: VmPaths, argv: list[str], fds: Descriptors
) -> Vm:
    try:
        with life.lock(paths.life) as held:
            inherited = (held, *fds.pass_fds)
            try:
                child = watcher.start(
                    argv, paths.log, inherited, sandbox.environment(os.environ), sandbox.limits()
                )
            except OSError as error:
                raise _not_executed(settings.host, argv, reason(error)) from error
        # A socket that QEMU alone has ends with it, and so does a connection to it.
        fds.close()
    except OSError as error:
        raise disk_error(paths.life, error) from error
    process = child.qemu
    vm = Vm(spec.name, spec, paths, process, argv, settings.host, child.shell)
    try:
        record = {"pid": process.pid, "started": process.started, "argv": argv}
        try:
            atomic.write_atomic(paths.process, json.dumps(record).encode())
        except OSError as error:
            raise disk_error(paths.process, error) from error
        with interrupts.heard(), _first_contact(vm) as qmp:
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
    """Connect to a QEMU that is just starting."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        if not vm.alive:
            raise _ended(vm)
        # One that ends hangs up.
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


def _not_executed(host: str, argv: list[str], why: str | None) -> CpcError:
    return CpcError(
        f"QEMU {argv[0]} cannot be executed",
        exit_code=ExitCode.UNREACHABLE,
        host=host,
        cause=why,
        hint="cpcctl doctor",
    )


def _ended(vm: Vm) -> CpcError:
    """The error for a QEMU that ended before it answered."""
    code = vm.child.returncode if vm.child is not None else None
    if code in (watcher.NOT_FOUND, watcher.NOT_EXECUTABLE):
        return _not_executed(vm.host, vm.argv, live.log_tail(vm.paths.log))
    if code is not None and code > watcher.SIGNALLED:
        return CpcError(
            f"QEMU of VM {vm.name} ended while it started",
            exit_code=ExitCode.UNREACHABLE,
            host=vm.host,
            cause=vm.last_words,
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
    check: Check | None = None,
) -> bool:
    """Shut a guest down; with force end its QEMU at once. Its logs stay.

    waiting: called when the guest was asked and the wait for it begins
    check: as for start()
    Returns False when it did not run. Raises CpcError (6) when the guest did
    not shut down in time; it runs on.
    """
    paths = Folders.of(settings).vm(name)
    # Before the lock: a mistyped name leaves no lock file.
    if not paths.state.exists() and not paths.run.exists():
        raise registry.NoVm(settings, name)
    if lock is None:
        with VmLock.take(Folders.of(settings), name, "vm stop") as held:
            if check is not None:
                check()
            return stop(
                settings, name, force=force, timeout=timeout, lock=held, waiting=waiting
            )
    vm = registry.recorded(settings, name, paths)
    if vm is None or not vm.alive:
        _remove_definition(paths)
        return False
    if force:
        vm.kill()
    else:
        with vm.session() as qmp:
            ended = _ask_to_shut_down(vm, qmp)
        if ended:
            vm.kill()
        elif waiting is not None:
            waiting()
        if not _wait_gone(vm, timeout):
            raise CpcError(
                f"VM {name} did not shut down within {timeout:g} s and runs on",
                exit_code=ExitCode.TIMED_OUT,
                hint=f"cpcctl vm console {name}: what the guest does\n"
                f"cpcctl vm stop --force {name}: end it at once; what it has not written is lost",
            )
    if not vm.wait_gone(0):
        raise _lives(settings, name)
    _remove_definition(paths)
    return True


def _wait_gone(vm: Vm, timeout: float) -> bool:
    """Whether the guest that was asked to shut down has; a signal ends the wait alone."""
    try:
        with interrupts.heard():
            return vm.wait_gone(timeout)
    except KeyboardInterrupt as stop:
        if vm.wait_gone(0):
            return True
        raise CpcError(
            f"VM {vm.name} was asked to shut down, and was not waited for; it runs still",
            exit_code=interrupts.exit_code(stop),
            hint=f"cpcctl vm status {vm.name}",
        ) from stop


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
        f"the guest of VM {vm.name} is stopped and cannot shut down",
        exit_code=ExitCode.REFUSED,
        host=vm.host,
        cause=live.standstill(qmp, state, vm.spec),
        hint=hint,
    )


def _remove_definition(paths: VmPaths) -> None:
    # What is stopped must not stand in the way of a VM of that name arriving.
    # That they cannot be removed makes nothing run.
    with contextlib.suppress(OSError):
        paths.definition.unlink(missing_ok=True)
    remove_tree(paths.run)


def discard(settings: Settings, name: str) -> None:
    """End the QEMU of a guest that never ran here and remove its files."""
    vm = registry.recorded(settings, name, Folders.of(settings).vm(name))
    if vm is not None and vm.alive:
        vm.kill()
    forget(settings, name)


def forget(settings: Settings, name: str) -> None:
    """Remove every file of a VM that does not run here (any more).

    Raises CpcError (5) when it does run.
    """
    paths = Folders.of(settings).vm(name)
    vm = registry.recorded(settings, name, paths)
    if vm is not None and vm.alive:
        raise _lives(settings, name)
    remove_tree(paths.run)
    remove_tree(paths.state)


def _lives(settings: Settings, name: str) -> CpcError:
    return CpcError(
        f"VM {name} still runs on {settings.host}",
        exit_code=ExitCode.UNPROVEN,
        host=settings.host,
        cause="its process, or one that it started, could not be ended",
        hint=f"cpcctl vm status {name}; ps ax | grep guest={name}",
    )


def status(settings: Settings, name: str) -> dict[str, Any]:
    """What is known of a VM, never an error for one that is broken.

    state: stopped, unreachable, frozen, or QEMU's run state (running, paused,
    postmigrate, ...); with it, from a QEMU that answers: hvcpus, gvcpus,
    trusted_bytes, firmware_version, launch_digest; emulated, policy: of an SEV-SNP guest;
    ended: why QEMU of a stopped one went, ended_by: the same as ending.Why.
    Raises CpcError (2) when there is none.
    """
    return look(settings, name)[0]


def look(settings: Settings, name: str) -> tuple[dict[str, Any], CpcError | None]:
    """status(), and why it is unreachable when it is."""
    paths = Folders.of(settings).vm(name)
    found: dict[str, Any] = {"name": name, "host": settings.host, "state": "stopped"}
    try:
        vm = registry.recorded(settings, name, paths)
        if vm is not None:
            spec = vm.spec
        elif paths.definition.exists():
            spec = specs.load(paths.definition)
        else:
            spec = None
    except CpcError as error:
        return {**found, "state": "unreachable", "error": error.message}, error
    if spec is None:
        raise registry.NoVm(settings, name)
    found |= {"memory": spec.memory, "machine": spec.machine, "accel": spec.accel}
    found |= {"platform": spec.platform, "log": str(paths.log)}
    if spec.console == "serial":
        found["console_log"] = str(paths.console_log)
    if spec.platform == snp.PLATFORM:
        found |= {"emulated": protection.emulated(spec.accel), "policy": f"{spec.snp.policy:#x}"}
    if vm is None or not vm.alive:
        end = live.ended(paths.log)
        return found | {"ended": end.words, "ended_by": end.why.value}, None
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
