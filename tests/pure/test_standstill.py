# SPDX-License-Identifier: Apache-2.0
"""A source that has the ticket and does no more than to live."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from cpcctl import __main__ as entry
from cpcctl.errors import CpcError
from cpcctl.link import rpc, tls
from cpcctl.link import ticket as tickets
from cpcctl.migrate import converge, messages, standstill
from cpcctl.migrate.order import Stage
from cpcctl.migrate.standstill import LONGEST_SECONDS, Standstill


class Clock:
    """Stands in for time.monotonic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_no_honest_source_is_that_slow() -> None:
    assert LONGEST_SECONDS > 2 * converge.STALL_SECONDS


@pytest.mark.parametrize("stage", Stage)
def test_signs_of_life_alone_end(clock: Clock, stage: Stage) -> None:
    still = Standstill()
    still.look(stage, 7, works=False)
    clock.now += LONGEST_SECONDS
    still.look(stage, 7, works=False)
    clock.now += 1.0
    with pytest.raises(CpcError, match="is connected and has done nothing for 601 s") as caught:
        still.look(stage, 7, works=False)
    assert caught.value.exit_code == (6 if stage is Stage.IDLE else 1)
    assert stage.value in str(caught.value.cause)


def test_a_byte_or_a_step_is_progress_and_so_is_our_own_work(clock: Clock) -> None:
    still, moved = Standstill(), 0
    for stage in (Stage.IDLE, Stage.LAUNCHED, Stage.RECEIVING, Stage.PREPARED):
        still.look(stage, moved, works=False)
        for works in (False, True, False):
            clock.now += 0.9 * LONGEST_SECONDS
            moved += not works
            still.look(stage, moved, works=works)
        clock.now += 0.9 * LONGEST_SECONDS


def test_the_time_of_all_connections_counts_and_none_between(clock: Clock) -> None:
    still = Standstill()
    still.look(Stage.RECEIVING, 0, works=False)
    for _ in range(4):
        clock.now += 10 * LONGEST_SECONDS
        still.connected()
        clock.now += LONGEST_SECONDS / 4
        still.look(Stage.RECEIVING, 0, works=False)
    still.connected()
    clock.now += 1.0
    with pytest.raises(CpcError):
        still.look(Stage.RECEIVING, 0, works=False)


def test_receive_gives_up_a_source_that_only_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It asks for the time again and again, which is no progress."""
    for name in ("STATE_DIR", "RUN_DIR"):
        monkeypatch.setenv(f"CPCCTL_{name}", str(tmp_path / name.lower()))
    monkeypatch.setattr(standstill, "LONGEST_SECONDS", 1.5)
    reading, writing = os.pipe()
    asked = 0
    ended: list[Exception] = []

    def live() -> None:
        nonlocal asked
        with open(reading) as events:
            ticket = tickets.parse(json.loads(events.readline())["ticket"])
        client = rpc.Client(tls.connect(ticket, 20.0, "a" * 32), "b", 20.0)
        try:
            while True:
                client.ask(messages.Clock())
                asked += 1
                threading.Event().wait(0.05)
        except rpc.LinkLost as lost:
            ended.append(lost)
        finally:
            client.close()

    source = threading.Thread(target=live)
    source.start()
    argv = ["receive", "--listen", "127.0.0.1:0", "--wait", "30", "--grace", "30"]
    assert entry.main([*argv, "--events-fd", str(writing)]) == 6
    source.join(20)
    assert asked > 3 and ended
    told = capsys.readouterr().err
    assert "error: the source is connected and has done nothing for" in told
    assert "  try: run `cpcctl receive` again" in told
