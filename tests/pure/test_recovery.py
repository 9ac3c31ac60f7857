# SPDX-License-Identifier: Apache-2.0
"""The room for recovery, where no firmware is needed: processes in place of QEMU."""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cpcctl import __main__ as entry
from cpcctl.config.load import load
from cpcctl.config.settings import Settings
from cpcctl.errors import RESTORE, CpcError, ExitCode
from cpcctl.host import life
from cpcctl.host.folders import make_folder
from cpcctl.host.process import ProcessId
from cpcctl.host.state import Folders, VmLock
from cpcctl.jobs import store as jobs
from cpcctl.jobs.store import Job, JobStore, Record
from cpcctl.link import tls
from cpcctl.link.ticket import Ticket
from cpcctl.migrate import receiving
from cpcctl.migrate.machine import Event, Phase, decide
from cpcctl.migrate.options import Options
from cpcctl.migrate.recovery import moved, orphaned, outcome, settle, stale
from cpcctl.migrate.recovery.outcome import Outcome, Place
from cpcctl.qemu import watcher
from cpcctl.ui.context import Context
from cpcctl.ui.output import Output
from cpcctl.vm import lifecycle, spec

# Port 9 of loopback: nothing listens there.
NOWHERE = Ticket("127.0.0.1", 9, bytes(32), bytes(32))
LIVES = "exec sleep 1000"
SHUT_DOWN = "echo qemu_system_shutdown_request reason=6"
PANICKED = "echo qemu_system_shutdown_request reason=8"
KILLED = "kill -9 $$"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("STATE_DIR", "RUN_DIR"):
        folder = tmp_path / name
        folder.mkdir(0o700)
        monkeypatch.setenv(f"CPCCTL_{name}", str(folder))
    monkeypatch.setenv("CPCCTL_HOST", "host-a")
    return load({})


@pytest.fixture
def children() -> Iterator[list[watcher.Child]]:
    started: list[watcher.Child] = []
    yield started
    for child in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.qemu.pid, signal.SIGKILL)
        child.shell.wait(10)


@pytest.fixture
def qemu(settings: Settings, children: list[watcher.Child]) -> Any:
    def start(script: str) -> watcher.Child:
        """VM t, whose QEMU is this script. It has no QMP socket: it cannot be asked."""
        paths = Folders.of(settings).vm("t")
        paths.state.mkdir(parents=True)
        paths.run.mkdir(parents=True)
        paths.definition.write_text(spec.dump(spec.read({"name": "t", "memory": "64M"})))
        program = settings.state_dir / "qemu"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        with life.lock(paths.life) as fd:
            child = watcher.start([str(program)], paths.log, (fd,))
        document = {"pid": child.qemu.pid, "started": child.qemu.started, "argv": ["qemu"]}
        paths.process.write_text(json.dumps(document))
        if script != LIVES:
            child.shell.wait(10)
        children.append(child)
        return child

    return start


def interrupted(settings: Settings, kind: str, phase: str, **data: Any) -> Record:
    """A job whose controller died."""
    job = JobStore(Folders.of(settings).jobs).create(kind, "t", "host-a", **data)
    job.phase(phase)
    job.record.pid, job.record.pid_started = 1, 1
    job.save()
    return job.record


def migration(settings: Settings, phase: str, **data: Any) -> Record:
    options = Options(peer_timeout=0.2).document()
    return interrupted(
        settings, "migrate", phase, ticket=NOWHERE.text(), options=options, **data
    )


@pytest.mark.parametrize("phase", ["copy", "commit"])
def test_a_qemu_that_cannot_be_asked_is_not_dead(
    settings: Settings, qemu: Any, phase: str
) -> None:
    """Its socket is busy, say: the place is not proven, and nothing of the VM is touched."""
    child = qemu(LIVES)
    record = orphaned.recover(settings, migration(settings, phase, prepared="AA==").id)
    assert (record.state, record.exit_code) == ("unproven", ExitCode.UNPROVEN)
    assert record.error is not None and "is not proven gone" in record.error["message"]
    paths = Folders.of(settings).vm("t")
    assert paths.definition.exists() and paths.process.exists()
    assert child.shell.poll() is None
    # The same without its process file, which proves nothing.
    paths.process.unlink()
    record = orphaned.recover(settings, record.id)
    assert record.exit_code == ExitCode.UNPROVEN
    assert paths.definition.exists()


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        (SHUT_DOWN, ExitCode.ENDED,
         "the guest shut down during the copy; VM t is stopped on host-a"),
        (PANICKED, ExitCode.ENDED,
         "the guest panicked during the copy; VM t is stopped on host-a"),
        (KILLED, ExitCode.LOST,
         "died in phase copy; QEMU was killed (SIGKILL); VM t is lost"),
    ],
)
def test_why_qemu_went_decides(
    settings: Settings, qemu: Any, script: str, code: ExitCode, words: str
) -> None:
    qemu(script)
    record = orphaned.recover(settings, migration(settings, "copy").id)
    assert record.exit_code == code
    assert record.error is not None
    assert record.error["message"].endswith(words)
    paths = Folders.of(settings).vm("t")
    if code is ExitCode.ENDED:
        assert record.error["hint"] == f"cpcctl vm start {paths.definition}"
    assert paths.definition.exists(), "a VM that is stopped can be started"


def test_after_the_commit_only_the_destination_can_say(
    settings: Settings, qemu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "RECONNECT_SECONDS", 0.2)
    qemu(KILLED)
    record = orphaned.recover(settings, migration(settings, "commit", prepared="AA==").id)
    assert record.exit_code == ExitCode.UNPROVEN
    assert record.error is not None and "has not been proven" in record.error["message"]
    assert Folders.of(settings).vm("t").definition.exists()


# ---- the destination ------------------------------------------------------------


def test_a_receive_that_cannot_ask_its_qemu_proves_nothing(
    settings: Settings, qemu: Any
) -> None:
    child = qemu(LIVES)
    wishes = receiving.Wishes("127.0.0.1", 0, None, {}, None, 0.1, 0.2)
    record = interrupted(settings, "receive", "receive", launched="t")
    job = JobStore(Folders.of(settings).jobs).adopt(record)
    tls.make_identity(make_folder(Folders.of(settings).jobs / f"{job.id}.link"), "a" * 32)
    job.record.data.update(wishes=asdict(wishes), secret="AAAA")
    context = Context(settings, Output("text", io.StringIO(), io.StringIO()))
    with pytest.raises(CpcError, match="is not proven gone") as caught:
        receiving.resume(context, job)
    assert caught.value.exit_code is ExitCode.UNPROVEN
    assert JobStore(Folders.of(settings).jobs).load(job.id).state == "unproven"
    assert Folders.of(settings).vm("t").definition.exists()
    assert child.shell.poll() is None


def test_a_receive_without_room_for_its_key(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, _: str) -> None:
        (folder / "link.key").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "link.crt"))

    monkeypatch.setattr(tls, "make_identity", full)
    assert entry.main(["receive", "--listen", "127.0.0.1:0", "--wait", "0.01"]) == 3
    assert "no space left to write" in capsys.readouterr().err
    (record,) = JobStore(Folders.of(settings).jobs).list()
    assert record.state == "failed"
    assert [path.suffix for path in Folders.of(settings).jobs.iterdir()] == [".json"]


@pytest.mark.parametrize(("script", "removed"), [(LIVES, False), (KILLED, True)])
def test_what_a_receive_left_is_removed_by_proof_only(
    settings: Settings, qemu: Any, script: str, removed: bool
) -> None:
    qemu(script)
    interrupted(settings, "receive", "receive", launched="t")
    assert stale.removable(settings, "t") is removed
    stale.remove(settings, "t")
    assert Folders.of(settings).vm("t").definition.exists() is not removed


def test_a_removal_that_is_cut_off_is_begun_again(
    settings: Settings, qemu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job with an end has nothing left that somebody would have to look for."""
    qemu(KILLED)
    job = interrupted(settings, "receive", "receive", launched="t")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lifecycle, "discard", cut_off)
        stale.remove(settings, "t")
    store = JobStore(Folders.of(settings).jobs)
    left = store.load(job.id)
    assert left.state == "running"
    left.pid, left.pid_started = 1, 1
    Job(store, left, 0.0).save()
    stale.remove(settings, "t")
    assert store.load(job.id).state == "failed"
    assert not Folders.of(settings).vm("t").definition.exists()


def cut_off(*_: Any) -> None:
    """A second signal."""
    raise KeyboardInterrupt


# ---- outcomes ---------------------------------------------------------------------


def test_lost_by_whose_word() -> None:
    found = outcome.lost(CpcError("it failed"), "t", by_word_of="host-b")
    assert found.place is Place.LOST and found.error is not None
    assert found.error.message == "it failed; VM t is lost by the word of host-b"
    assert str(found.error.hint).startswith("cpcctl vm status t, on host-b: whether that is so\n")
    found = outcome.lost(CpcError("it failed"), "t")
    assert found.error is not None and found.error.message == "it failed; VM t is lost"
    assert found.error.hint == RESTORE


def test_an_outcome_has_an_error_unless_the_guest_moved() -> None:
    with pytest.raises(AssertionError):
        Outcome(Place.DESTINATION, CpcError("x"))
    with pytest.raises(AssertionError):
        Outcome(Place.SOURCE)


@pytest.mark.parametrize("phase", Phase)
def test_a_guest_that_ended_is_not_lost_in_any_phase(phase: Phase) -> None:
    plan = decide(phase, Event.GUEST_ENDED)
    if phase < Phase.COMMIT:
        assert plan.exit_code is ExitCode.ENDED
    else:
        assert plan.exit_code is None
    for place in (Phase.PREFLIGHT, Phase.COPY, Phase.STATE):
        found = outcome.stopped("the guest shut down", place, "t", "host-a", "/vm.yaml")
        assert found.error is not None and found.error.exit_code == 8
        assert found.error.hint == "cpcctl vm start /vm.yaml"


# ---- a VM that moved ----------------------------------------------------------------


def done(settings: Settings, kind: str, **result: Any) -> Record:
    job = JobStore(Folders.of(settings).jobs).create(kind, "t", "host-a")
    job.finish("done", result=result)
    return job.record


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    path = tmp_path / "t.yaml"
    path.write_text("name: t\nmemory: 64M\n")
    return path


def start(definition: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    code = entry.main(["vm", "start", str(definition), *flags])
    return code, capsys.readouterr().err


def test_a_vm_that_moved_is_not_started_here_again(
    settings: Settings, definition: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[str] = []

    def begin(_: Any, wanted: Any, *, check: Any, **__: Any) -> None:
        check()
        begun.append(wanted.name)
        raise CpcError("no QEMU here", exit_code=ExitCode.UNREACHABLE)

    monkeypatch.setattr(lifecycle, "start", begin)
    assert start(definition, capsys)[0] == 4
    done(settings, "migrate", destination="host-b")
    code, said = start(definition, capsys)
    assert code == 3 and "VM t moved to host-b" in said
    assert "cpcctl vm status t, on host-b" in said and f"--force {definition}" in said
    assert start(definition, capsys, "--force")[0] == 4
    moved.note_started(settings, "t")
    assert start(definition, capsys)[0] == 4, "it was started here by somebody who knows"
    done(settings, "migrate", destination="host-c")
    assert "moved to host-c" in start(definition, capsys)[1]
    done(settings, "receive", vm="t")
    assert start(definition, capsys)[0] == 4, "it came back"
    assert begun == ["t"] * 4


@pytest.mark.parametrize("verb", [
    ("vm", "status", "t"), ("vm", "console", "t"), ("vm", "pause", "t"), ("vm", "resume", "t"),
    ("vm", "stop", "t"), ("hvcpu", "list", "t"),
])  # fmt: skip
def test_a_vm_that_is_not_here_any_more(
    verb: tuple[str, ...], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every verb says where it went, as long as the record knows."""
    where = ("--state-dir", str(settings.state_dir), "--run-dir", str(settings.run_dir))
    done(settings, "migrate", destination="host-b")
    assert entry.main([*verb, *where]) == 2
    said = capsys.readouterr().err
    assert "no VM t on" in said and "moved it to host-b" in said
    assert "cpcctl vm status t, on host-b" in said


def test_a_vm_whose_job_is_not_settled_is_not_started(
    settings: Settings, definition: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """--force is for one that moved; giving the guest up has a word of its own."""

    def ready(*_: Any) -> None:
        raise CpcError("no QEMU here", exit_code=ExitCode.UNREACHABLE)

    monkeypatch.setattr(lifecycle, "_check_memory", ready)
    record = migration(settings, "commit", prepared="AA==")
    for flags in ((), ("--force",)):
        code, said = start(definition, capsys, *flags)
        assert code == 75 and f"cpcctl job resume {record.id}" in said
        assert f"cpcctl vm start --unsettled {definition}" in said
    assert start(definition, capsys, "--unsettled")[0] == 4


@pytest.mark.parametrize("kind", ["migrate", "receive"])
def test_a_vm_whose_job_is_not_settled_is_not_stopped(
    settings: Settings, qemu: Any, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    child = qemu(LIVES)
    if kind == "migrate":
        record = migration(settings, "commit", prepared="AA==")
    else:
        record = interrupted(settings, "receive", "receive", launched="t")
    for flags in ((), ("--force",)):
        assert entry.main(["vm", "stop", "t", *flags]) == 75
        said = capsys.readouterr().err
        assert f"cpcctl job resume {record.id}" in said and "stop --force --unsettled t" in said
        assert child.shell.poll() is None
    assert entry.main(["vm", "stop", "t", "--force", "--unsettled"]) == 0
    child.shell.wait(10)


@pytest.mark.parametrize(
    ("verb", "code"), [("vm start", 3), ("vm stop", 75), ("vm pause", 75), ("vm resume", 75),
                       ("migrate", 75)],
)
def test_the_record_is_read_under_the_lock(
    settings: Settings, definition: Path, qemu: Any, monkeypatch: pytest.MonkeyPatch, verb: str,
    code: int,
) -> None:
    """What was at the VM ends while the verb begins."""
    real = VmLock.take
    ended: list[str] = []

    def take(folders: Folders, name: str, purpose: str) -> VmLock:
        lock = real(folders, name, purpose)
        if not ended:
            ended.append(purpose)
            if verb == "vm start":
                done(settings, "migrate", destination="host-b")
            else:
                migration(settings, "commit", prepared="AA==")
        return lock

    monkeypatch.setattr(VmLock, "take", staticmethod(take))
    if verb != "vm start":
        qemu(LIVES)
    argv = {"vm start": [str(definition)], "migrate": ["t", NOWHERE.text()]}.get(verb, ["t"])
    assert entry.main([*verb.split(), *argv]) == code
    assert ended


def test_a_vm_that_was_started_is_started_whatever_can_be_noted(
    settings: Settings, definition: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def begin(_: Any, wanted: Any, **__: Any) -> Any:
        paths = Folders.of(settings).vm("t")
        paths.state.mkdir(parents=True)
        paths.definition.write_text(spec.dump(wanted))
        return lifecycle.Vm("t", wanted, paths, ProcessId.myself(), [], "host-a")

    def full(*_: Any, **__: Any) -> None:
        raise CpcError("cannot write it", exit_code=ExitCode.REFUSED, cause="Read-only file system")

    done(settings, "migrate", destination="host-b")
    monkeypatch.setattr(lifecycle, "start", begin)
    monkeypatch.setattr(JobStore, "save", full)
    code, said = start(definition, capsys, "--force")
    assert code == 0 and "was not noted: Read-only file system" in said, said


def test_what_was_stopped_is_stopped_whatever_can_be_removed(
    settings: Settings, qemu: Any, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    qemu(LIVES)
    monkeypatch.setattr(Path, "unlink", full)
    assert entry.main(["vm", "stop", "t", "--force"]) == 0
    assert "could not be removed; the VM is stopped" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "empty", "another type"])
@pytest.mark.parametrize("verb", ["vm start", "vm stop", "vm pause", "migrate"])
def test_a_damaged_job_file_is_not_the_same_as_none(
    settings: Settings, definition: Path, capsys: pytest.CaptureFixture[str], damage: str,
    verb: str,
) -> None:
    """It may be the one that moved the VM. --force is for who knows."""
    make_folder(Folders.of(settings).vm("t").state)
    record = done(settings, "migrate", destination="host-b")
    file = Folders.of(settings).jobs / f"{record.id}.json"
    text = file.read_text()
    file.write_text({
        "truncated": text[: len(text) // 2], "empty": "", "another type": text.replace("[]", "7"),
    }[damage])  # fmt: skip
    argv = {"vm start": [str(definition)], "migrate": ["t", NOWHERE.text()]}.get(verb, ["t"])
    code = entry.main([*verb.split(), *argv])
    said = capsys.readouterr().err
    assert code == 5 and str(file) in said and f"mv {file}" in said


def test_a_damaged_job_file_of_another_vm_or_of_long_ago(settings: Settings) -> None:
    store = JobStore(Folders.of(settings).jobs)
    record = done(settings, "migrate", destination="host-b")
    (store.folder / f"{record.id}.json").write_text(
        (store.folder / f"{record.id}.json").read_text()[:200]
    )
    orphaned.refuse_orphan(settings, "u")
    assert orphaned.unreadable(settings, "t") is not None
    # It was here later: it was migrated away from here again, or arrived.
    for kind in ("migrate", "receive"):
        later = JobStore(store.folder).create(kind, "t", "host-a")
        (store.folder / f"{later.id}.json").unlink()
        later.record.id = "99990101-000000-aaaa"
        later.finish("done")
        assert orphaned.unreadable(settings, "t") is None
        (store.folder / "99990101-000000-aaaa.json").unlink()
    assert orphaned.unreadable(settings, "t") is not None


def test_any_job_that_is_not_settled_counts(
    settings: Settings, definition: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one with others behind it, in the same second or by a clock that was set back."""

    def begin(_: Any, wanted: Any, *, check: Any, **__: Any) -> None:
        check()
        moved.note_started(settings, wanted.name)
        raise CpcError("no QEMU here", exit_code=ExitCode.UNREACHABLE)

    monkeypatch.setattr(lifecycle, "start", begin)
    record = migration(settings, "commit", prepared="AA==")
    JobStore(Folders.of(settings).jobs).create("migrate", "t", "host-a").finish("failed")
    code, said = start(definition, capsys)
    assert code == 75 and f"cpcctl job resume {record.id}" in said
    assert start(definition, capsys, "--unsettled")[0] == 4
    assert start(definition, capsys)[0] == 4, "it was given up"


def test_the_clock_is_set_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    done(settings, "receive", vm="t")
    monkeypatch.setattr(jobs, "_clock", lambda: datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC))
    away = done(settings, "migrate", destination="host-b")
    found = moved.last(settings, "t")
    assert found is not None and found.id == away.id
    done(settings, "receive", vm="t")
    assert moved.last(settings, "t") is None
