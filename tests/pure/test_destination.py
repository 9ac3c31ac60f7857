# SPDX-License-Identifier: Apache-2.0
"""A destination that is told to give up: what it and its job say then."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host import life
from cpcctl.host.folders import make_folder
from cpcctl.host.process import ProcessId
from cpcctl.host.qmp import QmpGone
from cpcctl.host.state import Folders, VmLock
from cpcctl.jobs.store import JobStore
from cpcctl.migrate import destination, facts, receiving
from cpcctl.migrate.checks import SourceFacts
from cpcctl.migrate.destination import Destination
from cpcctl.migrate.messages import Abort, Prepare
from cpcctl.migrate.network import Network
from cpcctl.migrate.order import Stage
from cpcctl.qemu import watcher
from cpcctl.ui.context import Context
from cpcctl.ui.output import Output
from cpcctl.vm import lifecycle
from cpcctl.vm.spec import VmSpec


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        tmp_path / "s", tmp_path / "r", tmp_path, None, None, None, "host-b", "text", "none"
    )


@pytest.fixture
def arriving(settings: Settings) -> Destination:
    """A VM t from host-a is on its way."""
    job = JobStore(settings.state_dir / "jobs").create("receive", "t", "host-b", source="host-a")
    return Destination(settings, job, cast(Any, None), Network())


def end(settings: Settings, arriving: Destination) -> CpcError:
    """How `receive` ends."""
    context = Context(settings, Output("text", io.StringIO(), io.StringIO()))
    with pytest.raises(CpcError) as caught:
        receiving._report(context, arriving.job, arriving)
    return caught.value


@pytest.mark.parametrize(
    ("told", "code", "state"),
    [
        ({"lost": True}, 7, "lost"),
        ({"lost": False}, 1, "failed"),
        ({}, 1, "failed"),
    ],
)
def test_the_source_gave_up(
    told: dict[str, Any], code: int, state: str, settings: Settings, arriving: Destination
) -> None:
    """Both sides have the same exit code for a guest that is proven lost."""
    arriving.handle(Abort("QEMU on the source has exited", **told))
    assert arriving.finished.is_set()
    error = end(settings, arriving)
    record = arriving.job.record
    assert (error.exit_code, record.exit_code, record.state) == (code, code, state)
    assert (error.host, error.cause) == ("host-a", "QEMU on the source has exited")
    # Nothing had begun here: the name may be that of a VM of this host by now.
    assert ("host-a says that its VM is lost" in error.message) == (code == 7)
    assert (error.hint is not None) == (code == 7)


def qemu_that_ended(settings: Settings, said: str, how: str) -> lifecycle.Vm:
    """A process of ours that is gone, with everything that a VM has on a host."""
    paths = Folders.of(settings).vm("t")
    for folder in (paths.state, paths.run):
        make_folder(folder)
    paths.log.write_text(said)
    paths.definition.write_text("name: t\nmemory: 64M\n")
    with life.lock(paths.life) as fd:
        child = watcher.start([sys.executable, "-c", how], paths.log, (fd,))
    vm = lifecycle.Vm("t", VmSpec("t", 64 << 20), paths, child.qemu, [], "host-b", child.shell)
    assert vm.wait_gone(10)
    return vm


def test_a_vm_started_meanwhile_is_left_alone(
    settings: Settings, arriving: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preflight saw none of this name; then somebody started one."""
    here = qemu_that_ended(settings, "", "")

    def start(*_: object, **__: object) -> None:
        raise CpcError("VM t runs on host-b already", exit_code=ExitCode.REFUSED)

    monkeypatch.setattr(lifecycle, "start", start)
    source = SourceFacts("host-a", "plain", 1, "0.1.0", 1 << 30)
    request = Prepare(here.spec.document(), facts.source_document(source))
    arriving._passed = (request.spec, request.source, time.monotonic())
    with pytest.raises(CpcError, match="runs on host-b already"):
        arriving.handle(request)
    assert arriving.stage is Stage.IDLE
    # A later receive must not take what has this name for the rest of this one.
    assert "launched" not in JobStore(settings.state_dir / "jobs").load(arriving.job.id).data
    assert here.paths.definition.exists()
    assert here.paths.run.exists()
    VmLock.take(Folders.of(settings), "t", "a test").release()


def test_a_verdict_expires(
    settings: Settings, arriving: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found good a minute ago, or of another host, is looked at again."""

    def look(*_: object, **__: object) -> None:
        raise CpcError("looked at again")

    def start(*_: object, **__: object) -> None:
        raise CpcError("started")

    monkeypatch.setattr(facts, "of_destination", look)
    monkeypatch.setattr(lifecycle, "start", start)
    source = facts.source_document(SourceFacts("host-a", "plain", 1, "0.1.0", 1 << 30))
    request = Prepare(VmSpec("t", 64 << 20).document(), source)
    other = {**source, "abi": 2}
    for spec, told, age, words in (
        (request.spec, source, 0, "started"),
        (request.spec, source, destination.PASSED_SECONDS + 1, "looked at again"),
        (request.spec, other, 0, "looked at again"),
        ({**request.spec, "vcpus": 2}, source, 0, "looked at again"),
    ):
        arriving._passed = (spec, told, time.monotonic() - age)
        with pytest.raises(CpcError, match=words):
            arriving.handle(request)


@pytest.mark.parametrize(
    ("said", "how", "cause"),
    [
        ("x: warning: noise\nassertion failed\n", "import os; os.abort()",
         "QEMU crashed (SIGABRT)\nassertion failed"),
        ("", "import os; os.kill(os.getpid(), 9)", "QEMU was killed (SIGKILL)"),
        (f"{'old ' * 2000}\nlast\n", "raise SystemExit(1)", "QEMU ended with exit status 1\n"),
    ],
)
def test_a_dead_qemus_last_words_are_in_the_error(
    said: str, how: str, cause: str, settings: Settings, arriving: Destination
) -> None:
    """Its log is removed with all else of a guest that did not arrive."""
    vm = qemu_that_ended(settings, said, how)
    arriving.side = cast(Any, SimpleNamespace(vm=vm, close=lambda: None))
    arriving.lock = VmLock.take(Folders.of(settings), "t", "a test")
    arriving.handle(Abort("it died"))
    error = end(settings, arriving)
    assert error.message == "QEMU of VM t died on host-b"
    assert error.cause is not None and error.cause.startswith(cause)
    assert len(error.cause) < 1600 and (not said or error.cause.endswith(said.split()[-1]))
    assert error.hint is not None and str(settings.state_dir) not in error.hint
    assert arriving.job.record.error is not None
    assert arriving.job.record.error["cause"] == error.cause
    left = [path for path in settings.state_dir.parent.rglob("*") if path.is_file()]
    assert left == [settings.state_dir / "jobs" / f"{arriving.job.id}.json"]


@pytest.fixture
def silent(
    settings: Settings, arriving: Destination, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[bytes]]:
    """The QEMU of what arrives: it lives and answers nothing."""
    monkeypatch.setattr(destination, "GONE_SECONDS", 0.01)
    vm = qemu_that_ended(settings, "", "")
    child = subprocess.Popen(["sleep", "1000"])
    process = ProcessId.of(child.pid)
    assert process is not None
    vm.process, vm.child = process, None

    def gone() -> bytes:
        raise QmpGone("QEMU of VM t did not answer stop within 60 s", None, "host-b")

    arriving.side = cast(
        Any,
        SimpleNamespace(
            vm=vm, close=lambda: None, settle_calls=lambda: None, abort=gone, query=gone
        ),
    )
    arriving.lock = VmLock.take(Folders.of(settings), "t", "a test")
    yield child
    child.kill()
    child.wait()


@pytest.mark.parametrize(("prepared", "code"), [(True, 5), (False, 7)])
def test_a_qemu_that_lives_and_does_not_answer(
    prepared: bool, code: int, settings: Settings, arriving: Destination,
    silent: subprocess.Popen[bytes],
) -> None:  # fmt: skip
    """After PREPARE it may have had the COMMIT, and then has the only guest."""
    arriving.prepared = prepared
    if prepared:
        with pytest.raises(CpcError, match="cannot abort the incoming") as caught:
            arriving.handle(Abort("it died", lost=True))
        assert caught.value.exit_code == code
        assert silent.poll() is None and Folders.of(settings).vm("t").definition.exists()
    else:
        arriving.handle(Abort("it died", lost=True))
        assert end(settings, arriving).exit_code == code
        assert "host-a says that VM t is lost" in end(settings, arriving).message


@pytest.mark.parametrize(("prepared", "code"), [(True, 5), (False, 143)])
def test_a_receive_that_ends_while_its_qemu_does_not_answer(
    prepared: bool, code: int, settings: Settings, arriving: Destination,
    silent: subprocess.Popen[bytes],
) -> None:  # fmt: skip
    """By a signal or when no source came back."""
    arriving.prepared = prepared
    receiving._settle(arriving, CpcError("terminated", exit_code=ExitCode.TERMINATED))
    assert silent.poll() is None or not prepared
    assert Folders.of(settings).vm("t").definition.exists() == prepared
    error, record = end(settings, arriving), arriving.job.record
    assert (error.exit_code, record.state) == (code, "unproven" if prepared else "cancelled")
    assert prepared == (f"cpcctl job resume {record.id}" in str(error.hint))


def test_a_signal_ends_it_only_when_its_job_says_how(
    settings: Settings, arriving: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one at once, wherever it is then."""
    arriving.listener = cast(Any, SimpleNamespace(close=lambda: None))
    codes: list[Any] = []
    seen: list[Any] = []
    save = JobStore.save

    def noted(self: JobStore, record: Any, **more: Any) -> None:
        if codes:
            seen.append((record.state, codes[-1]()))
        save(self, record, **more)

    def lonely(*_: Any) -> None:
        raise CpcError("no source came", exit_code=ExitCode.TIMED_OUT)

    monkeypatch.setattr("cpcctl.ui.interrupts.end_with", codes.append)
    monkeypatch.setattr(receiving, "_serve", lonely)
    monkeypatch.setattr(JobStore, "save", noted)
    context = Context(settings, Output("text", io.StringIO(), io.StringIO()))
    wishes = receiving.Wishes("127.0.0.1", 0, None, {}, None, 0.1, 0.2)
    with pytest.raises(CpcError, match="no source came"):
        receiving._end(context, arriving.job, arriving, wishes, None)
    assert seen == [("failed", None)] and codes[-1]() == ExitCode.TIMED_OUT


def test_its_job_has_ended_before_a_word_of_it(settings: Settings, arriving: Destination) -> None:
    """Who reads that it runs here, and that the source does not know, may have stalled."""
    arriving.stage = Stage.RUNNING
    states: list[str] = []

    class Reader(io.StringIO):
        def write(self, text: str) -> int:
            states.append(JobStore(settings.state_dir / "jobs").load(arriving.job.id).state)
            return len(text)

    context = Context(settings, Output("text", Reader(), Reader()))
    assert receiving._report(context, arriving.job, arriving) == 0
    assert set(states) == {"done"}
