# SPDX-License-Identifier: Apache-2.0
"""The rounds of a source whose guest writes as fast as it is copied, on a clock of their own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpcctl.errors import ExitCode
from cpcctl.jobs.store import Job, JobStore
from cpcctl.link.ticket import Ticket
from cpcctl.migrate import report
from cpcctl.migrate.converge import Round
from cpcctl.migrate.machine import Event, Phase, decide
from cpcctl.migrate.options import Options
from cpcctl.migrate.recovery import rollback
from cpcctl.migrate.source import STALL_SECONDS, Source, Stop

ROUND_SECONDS = 7.0
BUSY = 400_000


class Rounds(Source):
    """Every round takes the same time, and leaves what the test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        job = JobStore(folder).create("migrate", "p1", "host-a")
        self.stops: list[str] = []
        self.left: Iterator[int] = itertools.repeat(BUSY)
        side: Any = SimpleNamespace(
            dirty_log=lambda _: None,
            dirty_sync=lambda: next(self.left),
            qmp=SimpleNamespace(execute=self.stops.append),
            vm=SimpleNamespace(name="p1", host="host-a"),
        )
        super().__init__(job, side, Ticket("b", 1, b"", b""), Options(**options))
        self.phase = Phase.COPY

    def send_round(self, flags: int) -> None:
        """Nothing but time."""
        self.now += ROUND_SECONDS
        number = len(self.rounds) + 1
        self.rounds.append(Round(number, BUSY, 0, BUSY * 4096, ROUND_SECONDS))


def note(job: Job) -> Any:
    return job.record.progress["note"]


def test_it_ends_by_itself_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Rounds(tmp_path, monkeypatch)
    begin = source.now
    with pytest.raises(Stop) as stop:
        source.copy()
    assert stop.value.event is Event.STALLED
    assert STALL_SECONDS <= source.now - begin <= STALL_SECONDS + 3 * ROUND_SECONDS
    assert decide(source.phase, stop.value.event).exit_code is ExitCode.TIMED_OUT
    progress = source.job.record.progress
    assert progress["dirty_bytes_per_second"] == progress["copy_bytes_per_second"] > 200e6
    assert "the guest writes 223 MiB/s, 223 are copied" in note(source.job)
    error = rollback._cause(stop.value, source, stop.value.event)
    assert error.message == "the migration made no progress in phase copy"
    assert error.cause == note(source.job)
    assert "--on-timeout pause" in str(error.hint) and "--timeout" in str(error.hint)


def test_a_timeout_says_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Rounds(tmp_path, monkeypatch, timeout=2000.0)
    begin = source.now
    with pytest.raises(Stop) as stop:
        source.copy()
    assert stop.value.event is Event.TIMEOUT
    assert source.now - begin > 2000.0
    assert "no progress for" in note(source.job)


def test_a_job_notes_the_first_and_the_last_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the hundreds that a copy without an end has."""
    source = Rounds(tmp_path, monkeypatch, timeout=2000.0)
    with pytest.raises(Stop):
        source.copy()
    progress = source.job.record.progress
    numbers = [entry["number"] for entry in progress["rounds"]]
    count = len(source.rounds) - 1  # the operator's limit ended it after one more
    assert count > 100
    assert numbers == [*range(1, 11), *range(count - 29, count + 1)]
    assert progress["rounds_left_out"] == count - len(numbers)
    found: Any = report.result(source)
    assert len(found["rounds"]) == 40 and found["rounds_left_out"] == count + 1 - 40


def test_pausing_ends_it_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Rounds(tmp_path, monkeypatch, pause_on_timeout=True)
    source.copy()
    assert source.stops == ["stop"] and source.paused


def test_a_guest_that_calms_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Rounds(tmp_path, monkeypatch)
    source.left = itertools.chain([BUSY] * 20, [BUSY // 2] * 20, [10])
    source.copy()
    assert len(source.rounds) == 41
    assert source.stops == []
