# SPDX-License-Identifier: Apache-2.0
"""What receive tells, where, and in which form."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cpcctl import __main__ as entry
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.jobs.store import JobStore
from cpcctl.migrate import receiving
from cpcctl.migrate.destination import Destination
from cpcctl.migrate.events import Events
from cpcctl.migrate.messages import Abort
from cpcctl.migrate.network import Network
from cpcctl.migrate.order import Stage
from cpcctl.ui.context import Context
from cpcctl.ui.output import Output


class Told:
    """A receive of a format, and what it has written."""

    def __init__(self, folder: Path, fmt: str, stream: io.StringIO | None = None) -> None:
        settings = Settings(
            folder / "s", folder / "r", folder, None, None, None, "host-b", fmt, "plain"
        )
        self.out, self.err = io.StringIO(), io.StringIO()
        self.ctx = Context(settings, Output(fmt, self.out, self.err))
        self.events = Events(self.ctx, stream)
        job = JobStore(settings.state_dir / "jobs").create("receive", "t", "host-b")
        self.destination = Destination(settings, job, cast(Any, None), Network())
        self.stream = stream or self.err

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.stream.getvalue()
            time.sleep(0.01)

    def go(self) -> None:
        """A source comes, is refused once, then sends."""
        self.events.waiting("cpc1:x", "job-1", "[::1]:5")
        with self.events.following(self.destination):
            self.destination.job.record.data.update(source="host-a", peer="192.0.2.1")
            self.until(lambda: "192.0.2.1" in self.stream.getvalue())
            self.destination.failure = CpcError("no room", cause="1 MiB", host="host-b")
            self.until(lambda: "no room" in self.stream.getvalue())
            self.destination.job.record.phase = "receive"
            self.destination.streams = cast(Any, SimpleNamespace(bytes_taken=5 << 20))
            self.until(lambda: "5.0 MiB" in self.stream.getvalue()
                       or "5242880" in self.stream.getvalue())


def test_words_for_people(tmp_path: Path) -> None:
    told = Told(tmp_path, "text")
    told.go()
    assert told.out.getvalue() == "cpc1:x\n"
    lines = told.err.getvalue().splitlines()
    assert lines[0] == "waiting for a source on [::1]:5; Ctrl-C gives up"
    assert lines[1] == "source host-a has come from 192.0.2.1"
    assert lines[2:4] == ["error: no room", "  cause (host-b): 1 MiB"]
    assert "phase receive: 5.0 MiB, received" in lines


@pytest.mark.parametrize("own", [False, True])
def test_events_in_json(own: bool, tmp_path: Path) -> None:
    told = Told(tmp_path, "json", io.StringIO() if own else None)
    told.go()
    assert told.out.getvalue() == ""
    assert (told.err.getvalue() == "") is own
    events = [json.loads(line) for line in told.stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == [
        "waiting", "source", "failure", "phase", "progress",
    ]
    assert events[0] == {"event": "waiting", "ticket": "cpc1:x", "job": "job-1",
                         "address": "[::1]:5"}
    assert events[2]["error"]["cause"] == "1 MiB"
    assert events[4]["bytes"] == 5 << 20


def test_the_result_is_one_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(tmp_path, "json")
    told.go()
    told.destination.stage = Stage.RUNNING
    monkeypatch.setattr(told.destination, "ended_since", lambda: None)
    assert receiving._report(told.ctx, told.destination.job, told.destination) == 0
    assert json.loads(told.out.getvalue()) == {"vm": "t", "host": "host-b", "state": "running"}


def test_a_descriptor_for_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("STATE", "RUN"):
        monkeypatch.setenv(f"CPCCTL_{name}_DIR", str(tmp_path / name))
    reading, writing = os.pipe()
    argv = ["receive", "--listen", "127.0.0.1:0", "--wait", "0.01", "--events-fd", str(writing)]
    assert entry.main(argv) == int(ExitCode.TIMED_OUT)
    with os.fdopen(reading) as file:
        assert json.loads(file.readline())["event"] == "waiting"
    shown = capsys.readouterr()
    assert shown.out.startswith("cpc1:")
    assert shown.err.startswith("error: no source came")


def test_what_cannot_be_got_ready_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A source that comes is told then; the ticket is good until that."""
    for name in ("STATE", "RUN"):
        monkeypatch.setenv(f"CPCCTL_{name}_DIR", str(tmp_path / name))

    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("cpcctl.host.find.qemu_binary", full)
    argv = ["receive", "--listen", "127.0.0.1:0", "--wait", "0.01"]
    assert entry.main(argv) == int(ExitCode.TIMED_OUT)
    assert "error: no source came" in capsys.readouterr().err


def test_the_destination_names_its_own_failure(tmp_path: Path) -> None:
    """And not that of which the source says that it was told."""
    told = Told(tmp_path, "text")
    told.destination.job.record.data["source"] = "host-a"
    told.destination.failure = CpcError(
        "QEMU refuses to start VM t", cause="no slot", hint="leave out a disk"
    )
    told.destination._abort(Abort("the source gave up: error of the peer", False))
    with pytest.raises(CpcError) as caught:
        receiving._report(told.ctx, told.destination.job, told.destination)
    assert caught.value.render() == (
        "error: the incoming migration failed on host-b\n"
        "  cause (host-b): QEMU refuses to start VM t\n"
        "    no slot\n"
        "  try: leave out a disk"
    )
    other = Told(tmp_path / "2", "text")
    other.destination._abort(Abort("an operator", False))
    assert other.destination.error is not None
    assert other.destination.error.message == "the source gave the migration up"
