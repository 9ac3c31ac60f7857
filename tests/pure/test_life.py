# SPDX-License-Identifier: Apache-2.0
"""Proof that a QEMU is gone, and why it went: real processes in place of QEMU."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cpcctl.config.load import load
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host import atomic, life
from cpcctl.host.state import Folders
from cpcctl.qemu import watcher
from cpcctl.qemu.descriptors import Descriptors
from cpcctl.vm import ending, lifecycle, spec
from cpcctl.vm.ending import Why
from cpcctl.vm.spec import VmSpec


class Machine:
    """VM t, whose QEMU is a shell that runs a script of ours."""

    def __init__(self, settings: Settings, script: str) -> None:
        self.settings = settings
        self.paths = Folders.of(settings).vm("t")
        self.paths.state.mkdir(parents=True)
        self.paths.run.mkdir(parents=True)
        self.paths.definition.write_text(spec.dump(spec.read({"name": "t", "memory": "64M"})))
        program = settings.state_dir / "qemu"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        with life.lock(self.paths.life) as fd:
            self.child = watcher.start([str(program)], self.paths.log, (fd,))
        document = {
            "pid": self.child.qemu.pid, "started": self.child.qemu.started, "argv": ["qemu"],
        }  # fmt: skip
        self.paths.process.write_text(json.dumps(document))

    def vm(self) -> lifecycle.Vm:
        """As the registry finds it; the status of its shell is taken, as init would."""
        vm = lifecycle.attach(self.settings, "t")
        vm.child = self.child.shell
        return vm

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child.qemu.pid, signal.SIGKILL)
        self.child.shell.wait(10)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("STATE_DIR", "RUN_DIR"):
        folder = tmp_path / name
        folder.mkdir(0o700)
        monkeypatch.setenv(f"CPCCTL_{name}", str(folder))
    return load({})


@pytest.fixture
def machine(settings: Settings) -> Iterator[Machine]:
    machine = Machine(settings, "exec sleep 1000")
    yield machine
    machine.end()


def refused(call: Any) -> CpcError:
    with pytest.raises(CpcError) as caught:
        call()
    assert caught.value.exit_code is ExitCode.UNPROVEN
    return caught.value


def lose(machine: Machine, loss: str) -> None:
    """What became of the files of a machine that lives."""
    paths = machine.paths
    if loss == "process":
        paths.process.unlink()
    elif loss == "process damaged":
        paths.process.write_text("{")
    elif loss == "process of another":
        paths.process.write_text(json.dumps({"pid": 1, "started": 1, "argv": []}))
    elif loss == "definition damaged":
        paths.definition.write_text("name: [")
    elif loss == "state":
        shutil.rmtree(paths.state)
    else:
        paths.definition.unlink()
        if loss == "both":
            paths.process.unlink()


@pytest.mark.parametrize(
    "loss",
    ["process", "process damaged", "process of another", "definition", "definition damaged",
     "both", "state"],
)
def test_a_file_that_is_lost_is_no_proof(
    machine: Machine, settings: Settings, loss: str
) -> None:
    """Neither start nor stop touches anything of a QEMU that lives."""
    definition = spec.load(machine.paths.definition)
    lose(machine, loss)
    machine.paths.ring.touch()
    before = sorted(path for top in (machine.paths.state, machine.paths.run) for path in
                    top.rglob("*"))
    assert Folders.of(settings).vm_names() == ["t"]
    calls: list[Callable[[], object]] = [
        lambda: lifecycle.stop(settings, "t", force=True),
        lambda: lifecycle.forget(settings, "t"),
        lambda: lifecycle.discard(settings, "t"),
    ]
    if loss != "process of another":
        calls += [
            lambda: lifecycle.start(settings, definition),
            lambda: lifecycle.stop(settings, "t", force=False),
            lambda: lifecycle.attach(settings, "t"),
        ]
        assert [vm["state"] for vm in lifecycle.list_all(settings)] == ["unreachable"]
    for call in calls:
        refused(call)
        assert before == sorted(path for top in (machine.paths.state, machine.paths.run)
                                for path in top.rglob("*"))
    assert machine.child.shell.poll() is None


def test_without_a_process_file_the_free_lock_is_proof(
    machine: Machine, settings: Settings
) -> None:
    """As after the host was restarted: the run folder is empty."""
    machine.end()
    machine.paths.process.unlink()
    assert lifecycle.status(settings, "t")["state"] == "stopped"
    assert lifecycle.stop(settings, "t", force=False) is False
    assert not machine.paths.definition.exists()


@pytest.mark.parametrize("loss", ["definition", "definition damaged", "both", "state"])
def test_what_is_left_of_one_that_is_gone_is_removed(
    machine: Machine, settings: Settings, loss: str
) -> None:
    lose(machine, loss)
    machine.end()
    assert lifecycle.stop(settings, "t", force=False) is False
    assert not machine.paths.run.exists() and lifecycle.list_all(settings) == []


def test_with_neither_nothing_is_known(machine: Machine, settings: Settings) -> None:
    machine.end()
    machine.paths.process.unlink()
    machine.paths.life.unlink()
    refused(lambda: lifecycle.stop(settings, "t", force=True))
    assert machine.paths.definition.exists()


def test_a_child_of_qemu_counts(settings: Settings) -> None:
    """Something that QEMU started, and that has its files open, outlives it."""
    machine = Machine(settings, "sleep 1000 & echo $! > \"$0.child\"; exec sleep 1000")
    child = settings.state_dir / "qemu.child"
    deadline = time.monotonic() + 10
    while not child.exists() or not child.read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    vm = machine.vm()
    machine.end()
    assert not vm.process.alive
    assert vm.alive, "its process is gone, and what it started is not"
    refused(lambda: lifecycle.forget(settings, "t"))
    os.kill(int(child.read_text()), signal.SIGKILL)
    assert vm.wait_gone(10)
    lifecycle.forget(settings, "t")


def test_asking_does_not_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert life.held(path) is None
    with life.lock(path):
        assert life.held(path) is True
        assert life.held(path) is True
        with pytest.raises(BlockingIOError), life.lock(path):
            pass
        assert life.held(path) is True
    assert life.held(path) is False
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("kill -9 $$", Why.KILLED),
        ("kill -11 $$", Why.CRASHED),
        ("echo assertion failed >&2; kill -6 $$", Why.CRASHED),
        ("exit 1", Why.CRASHED),
        ("echo qemu_system_shutdown_request reason=6", Why.SHUTDOWN),
        ("echo qemu_system_shutdown_request reason=8 >&2", Why.PANIC),
        ("echo qemu: cpus are not resettable, terminating >&2", Why.RESET),
        ("echo qemu_system_shutdown_request reason=2", Why.ASKED),
        ("echo 'qemu-system-x86_64: terminating on signal 15 from pid 7 (sh)' >&2", Why.KILLED),
        ("echo qemu_system_shutdown_request reason=6; kill -11 $$", Why.CRASHED),
    ],
)
def test_why_it_went_with_nobody_attached(settings: Settings, script: str, why: Why) -> None:
    machine = Machine(settings, f"sleep 0.05; {script}")
    machine.child.shell.wait(10)
    found = lifecycle.status(settings, "t")
    assert (found["state"], found["ended_by"]) == ("stopped", why.value)
    with pytest.raises(CpcError, match="does not run") as caught:
        lifecycle.attach(settings, "t")
    assert caught.value.cause == found["ended"]


TRACE = "qemu_system_shutdown_request reason={}\n"
NOTE = watcher.NOTE + "{}\n"
TERMINATED = "qemu: the guest terminated itself: x (reason set 1, code 2)\n"


@pytest.mark.parametrize(
    ("log", "why", "words"),
    [
        ("", Why.UNKNOWN, "QEMU left no message: it was killed, or the host went down"),
        (TRACE.format(6), Why.SHUTDOWN, "the guest shut down"),
        (TRACE.format(6) + NOTE.format(0), Why.SHUTDOWN, "the guest shut down"),
        (TRACE.format(6) + TRACE.format(8) + NOTE.format(0), Why.PANIC, "the guest panicked"),
        (TERMINATED + TRACE.format(8) + NOTE.format(0), Why.TERMINATED, "PVALIDATE"),
        ("cpus are not resettable, terminating\n" + NOTE.format(0), Why.RESET, "rebooted"),
        (TRACE.format(7), Why.RESET, "the guest reset itself"),
        (TRACE.format(6) + NOTE.format(139), Why.CRASHED, "QEMU crashed (SIGSEGV)"),
        (NOTE.format(137), Why.KILLED, "QEMU was killed (SIGKILL)"),
        (NOTE.format(128 + 99), Why.KILLED, "signal 99"),
        (NOTE.format(1), Why.CRASHED, "QEMU ended with exit status 1"),
        (TRACE.format(99) + NOTE.format(0), Why.CRASHED, "QEMU ended with exit status 0"),
        ("x qemu_system_shutdown_request reason=6\n" + NOTE.format(137), Why.KILLED, "killed"),
    ],
)
def test_what_a_log_says_of_the_end(log: str, why: Why, words: str) -> None:
    found = ending.read("qemu: warning: x\n" + log)
    assert found.why is why
    assert words in found.words
    assert found.by_guest == (why.value.startswith("guest-"))


def test_logs_show_only_what_qemu_says(machine: Machine) -> None:
    text = "qemu: sad\n" + TRACE.format(6) + NOTE.format(0)
    assert ending.without_ours(text) == "qemu: sad"


def test_no_room_for_the_lock_is_not_a_qemu_that_cannot_be_executed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(atomic, "update", full)
    paths = Folders.of(settings).vm("t")
    with Descriptors() as fds, pytest.raises(CpcError) as caught:
        lifecycle._launch(settings, VmSpec("t", 64 << 20), paths, ["qemu"], fds)
    assert caught.value.exit_code is ExitCode.REFUSED
    assert caught.value.message == f"no space left to write {paths.life}"


def test_what_is_no_program_is_not_run(tmp_path: Path) -> None:
    """A shell would take it for a script."""
    path = tmp_path / "qemu"
    path.write_text(f"touch {tmp_path}/done\n")
    path.chmod(0o700)
    for wrong in (path, tmp_path / "missing", tmp_path):
        with pytest.raises(OSError):
            watcher.start([str(wrong)], tmp_path / "log")
    path.write_text("#!/bin/sh\n")
    path.chmod(0o600)
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            watcher.start([str(path)], tmp_path / "log")
    assert not (tmp_path / "done").exists()


def test_a_shell_that_is_killed_leaves_qemu_alone(machine: Machine) -> None:
    vm = machine.vm()
    machine.child.shell.kill()
    machine.child.shell.wait(10)
    assert vm.alive and vm.process.alive
    vm.kill()
    assert vm.wait_gone(0)
    assert vm.ending.why is Why.UNKNOWN
