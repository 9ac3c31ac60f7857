# SPDX-License-Identifier: Apache-2.0
"""Recovery where a job's file cannot be written, and what stands frozen when a guest is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cpcctl import __main__ as entry
from cpcctl.config.settings import Settings
from cpcctl.errors import RESTORE, CpcError, ExitCode
from cpcctl.host.atomic import write_atomic
from cpcctl.host.state import Folders
from cpcctl.jobs.store import JobStore
from cpcctl.migrate.recovery import orphaned, outcome
from tests.pure import test_recovery as recovery
from tests.pure.test_recovery import KILLED, LIVES, interrupted, migration

settings, children, qemu = recovery.settings, recovery.children, recovery.qemu


@pytest.mark.parametrize("verb", ["resume", "cancel"])
@pytest.mark.parametrize(
    ("kind", "data"), [("migrate", {}), ("receive", {"launched": "t", "secret": "AAAA"})]
)
def test_a_job_whose_file_cannot_be_written_says_nothing_of_the_guest(
    settings: Settings, qemu: Any, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], verb: str, kind: str, data: dict[str, Any],
) -> None:  # fmt: skip
    child = qemu(LIVES)
    record = migration(settings, "copy") if kind == "migrate" else interrupted(
        settings, kind, "receive", **data
    )

    def read_only(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("cpcctl.jobs.store.write_atomic", read_only)
    assert entry.main(["job", verb, record.id]) == 5
    said = capsys.readouterr().err
    if (kind, verb) != ("receive", "cancel"):  # that one looks first, and does not come so far
        assert "where VM t is was not looked at" in said
        assert "cannot write" in said and "Read-only file system" in said
        assert f"  try: findmnt -T {settings.state_dir}/jobs\n" in said
        assert f"  try: cpcctl job resume {record.id}, when that can be written\n" in said
    assert child.shell.poll() is None and Folders.of(settings).vm("t").definition.exists()


def test_a_file_that_cannot_be_written_from_then_on_hides_nothing(
    settings: Settings, qemu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job was taken over, and settled: its end is said though its file does not have it."""
    qemu(KILLED)
    calls: list[Path] = []

    def once(path: Path, *more: Any, **named: Any) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        write_atomic(path, *more, **named)

    job = migration(settings, "copy")
    monkeypatch.setattr("cpcctl.jobs.store.write_atomic", once)
    record = orphaned.recover(settings, job.id)
    assert (record.state, record.exit_code) == ("lost", 7)


def test_what_is_left_of_a_guest_that_is_lost() -> None:
    """Named where it stands, and only where it does."""
    found = outcome.lost(CpcError("it failed"), "t", by_word_of="host-b", frozen_on="host-a")
    assert found.error is not None
    assert str(found.error.hint).splitlines()[1:] == [
        RESTORE, "cpcctl vm stop --force t, on host-a: what is left of it can never run"
    ]


@pytest.mark.parametrize(
    ("ends", "names"),
    [
        ([("migrate", 7)], True),
        ([("migrate", 8)], True),
        ([("migrate", 5)], False),
        ([("migrate", 1)], False),
        ([("migrate", 0)], False),
        ([("receive", 7)], False),
        ([("migrate", None)], False),
        ([("migrate", 7), ("migrate", None)], False),
        ([("migrate", 7), ("receive", 0)], False),
        ([], False),
    ],
)
def test_what_stands_frozen_is_of_no_use_by_its_newest_job_only(
    settings: Settings, ends: list[tuple[str, int | None]], names: bool
) -> None:
    for kind, code in ends:
        if code is None:
            interrupted(settings, kind, "commit")
            continue
        job = JobStore(Folders.of(settings).jobs).create(kind, "t", "host-a")
        error = CpcError("x", exit_code=ExitCode(code)) if code else None
        job.finish("failed" if code else "done", error=error)
    assert (orphaned.remains(settings, "t") is not None) is names


def lost_here(settings: Settings) -> None:
    job = JobStore(Folders.of(settings).jobs).create("migrate", "t", "host-a")
    job.finish("lost", error=CpcError("x", exit_code=ExitCode.LOST))


def test_what_stands_frozen_may_be_a_guest_that_arrives(settings: Settings) -> None:
    """By a receive that has waited since before the VM of that name was lost here."""
    arriving = JobStore(Folders.of(settings).jobs).create("receive", "t", "host-a")
    lost_here(settings)
    assert orphaned.remains(settings, "t") is None
    arriving.finish("failed", error=CpcError("x"))
    assert orphaned.remains(settings, "t") is None


def test_what_stands_frozen_may_be_of_a_job_that_cannot_be_read(settings: Settings) -> None:
    lost_here(settings)
    assert orphaned.remains(settings, "t") is not None
    record = migration(settings, "commit")
    (Folders.of(settings).jobs / f"{record.id}.json").write_text("{")
    assert orphaned.remains(settings, "t") is None
