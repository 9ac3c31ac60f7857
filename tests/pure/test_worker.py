# SPDX-License-Identifier: Apache-2.0
"""The end of a migration on the source: only what was given away is removed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.process import ProcessId
from cpcctl.host.state import Folders
from cpcctl.jobs.store import JobStore
from cpcctl.link.message import Request
from cpcctl.migrate import follow, worker
from cpcctl.migrate.machine import Phase
from cpcctl.ui.context import Context
from cpcctl.ui.output import Output
from cpcctl.vm import lifecycle

NOWHERE = Path("/nonexistent")
SETTINGS = Settings(NOWHERE, NOWHERE, NOWHERE, None, None, None, "host-a", "text", "none")


class Machine:
    """A source whose QEMU may be frozen, running, hanging or dead."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.phase = Phase.FINISHED
        self.asked: list[str] = []
        self.streams = None
        self.side = self
        self.name, self.here, self.gone = "t", "host-a", state == "dead"

    def info(self) -> dict[str, bool]:
        if self.state == "hangs":
            raise CpcError("it does not answer")
        return {"frozen": self.state == "frozen"}

    def ask(self, request: Request[Any]) -> None:
        self.asked.append(request.name)

    def close(self) -> None:
        pass


@pytest.fixture
def discarded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(lifecycle, "discard", lambda _settings, name: names.append(name))
    return names


def leave(source: Any) -> None:
    worker.leave(SETTINGS, source)


@pytest.mark.parametrize("state", ["frozen", "dead"])
def test_what_was_given_away_is_removed(discarded: list[str], state: str) -> None:
    source = Machine(state)
    leave(source)
    assert discarded == ["t"]
    assert source.asked == ["done"]


@pytest.mark.parametrize("state", ["runs", "hangs"])
def test_what_may_run_is_not_removed(discarded: list[str], state: str) -> None:
    source = Machine(state)
    with pytest.raises(CpcError, match="not proven") as error:
        leave(source)
    assert error.value.exit_code is ExitCode.UNPROVEN
    assert discarded == [] and source.asked == []


def test_a_job_is_over_when_its_process_is(tmp_path: Path) -> None:
    """That process holds the VM's lock, and the next command may come at once."""
    settings = Settings(tmp_path, tmp_path, tmp_path, None, None, None, "h", "text", "none")
    job = JobStore(Folders.of(settings).jobs).create("migrate", "t", "h")
    with subprocess.Popen(["sleep", "0.3"]) as child:
        process = ProcessId.of(child.pid)
        assert process is not None
        job.record.pid, job.record.pid_started = process.pid, process.started
        job.finish("done", result={})
        assert process.alive
        assert follow.follow(Context(settings, Output("text")), job.id).state == "done"
        assert not process.alive
