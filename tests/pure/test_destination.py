# SPDX-License-Identifier: Apache-2.0
"""A destination that is told to give up: what it and its job say then."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest

from cpcctl.cli.context import Context
from cpcctl.cli.output import Output
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError
from cpcctl.jobs.store import JobStore
from cpcctl.migrate import receiving
from cpcctl.migrate.destination import Destination


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        tmp_path / "s", tmp_path / "r", tmp_path, None, None, None, "host-b", "text", "none"
    )


@pytest.fixture
def arriving(settings: Settings) -> Destination:
    """A VM t from host-a is on its way."""
    job = JobStore(settings.state_dir / "jobs").create("receive", "t", "host-b", source="host-a")
    return Destination(settings, job, cast(Any, None), {})


def end(settings: Settings, destination: Destination) -> CpcError:
    """How `receive` ends."""
    context = Context(settings, Output("text", io.StringIO(), io.StringIO()))
    with pytest.raises(CpcError) as caught:
        receiving._report(context, destination.job, destination)
    return caught.value


@pytest.mark.parametrize(
    ("told", "code", "state"),
    [
        ({"lost": True}, 7, "lost"),
        ({"lost": False}, 1, "failed"),
        ({}, 1, "failed"),
        ({"lost": "yes"}, 1, "failed"),
    ],
)
def test_the_source_gave_up(
    told: dict[str, Any], code: int, state: str, settings: Settings, arriving: Destination
) -> None:
    """Both sides have the same exit code for a guest that is proven lost."""
    arriving.handle("abort", {"reason": "QEMU on the source has gone", **told})
    assert arriving.finished.is_set()
    error = end(settings, arriving)
    record = arriving.job.record
    assert (error.exit_code, record.exit_code, record.state) == (code, code, state)
    assert (error.host, error.cause) == ("host-a", "QEMU on the source has gone")
    assert ("VM t is lost" in error.message) == (code == 7)
    assert (error.hint is not None) == (code == 7)
