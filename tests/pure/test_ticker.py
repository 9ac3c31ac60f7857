# SPDX-License-Identifier: Apache-2.0
"""The line that shows that something goes on."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest

from cpcctl.ui import ticker
from cpcctl.ui.ticker import Ticker


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "TICK_SECONDS", 0.001)
    monkeypatch.setenv("COLUMNS", "40")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_terminal_sees_time_and_detail_below_what_was_said() -> None:
    screen = Screen()
    with Ticker(screen) as shown:
        shown.doing("filling")
        until(lambda: screen.getvalue().endswith("\r\033[K  0 s"))
        shown.detail("5 of 9 MiB")
        until(lambda: screen.getvalue().endswith("\r\033[K  0 s, 5 of 9 MiB"))
        shown.say("meanwhile")
        assert "\r\033[Kmeanwhile\n" in screen.getvalue()
        shown.doing("the next")
        until(lambda: screen.getvalue().endswith("\r\033[K  0 s"))
    assert screen.getvalue().endswith("\r\033[K")
    kept = [line.split("\033[K")[-1] for line in screen.getvalue().split("\n")]
    assert kept == ["filling", "meanwhile", "the next", ""]


def test_no_line_is_wider_than_the_terminal() -> None:
    screen = Screen()
    with Ticker(screen) as shown:
        shown.doing("it")
        shown.detail("x" * 100)
        until(lambda: "xxx" in screen.getvalue())
    assert max(len(piece) for piece in screen.getvalue().split("\r\033[K")) < 40


def test_it_leaves_the_terminal_to_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, draw, drawn = Screen(), Ticker._draw, [0]

    def counted(self: Ticker) -> None:
        drawn[0] += 1
        draw(self)

    monkeypatch.setattr(Ticker, "_draw", counted)
    with Ticker(screen) as shown:
        shown.doing("it")
        with shown.silent():
            before, count = screen.getvalue(), drawn[0]
            until(lambda: drawn[0] > count + 3)
            assert screen.getvalue() == before
        until(lambda: screen.getvalue() != before)


@pytest.mark.parametrize("progress", ["plain", "none"])
def test_asked_for_nothing_it_draws_nothing(progress: str) -> None:
    screen = Screen()
    with Ticker(screen, progress) as shown:
        shown.doing("it")
        shown.detail("5 of 9")
    assert screen.getvalue() == "it\n"


def test_elsewhere_only_lines_appear() -> None:
    stream = io.StringIO()
    with Ticker(stream) as shown:
        shown.doing("filling")
        shown.detail("5 of 9 MiB")
        shown.say("meanwhile")
    assert stream.getvalue() == "filling\nmeanwhile\n"
