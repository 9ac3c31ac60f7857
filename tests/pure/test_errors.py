# SPDX-License-Identifier: Apache-2.0
"""Errors: their text and their exit codes."""

from __future__ import annotations

import json

import pytest

from cpcctl import __main__ as entry
from cpcctl.errors import CpcError, ExitCode
from cpcctl.ui.interrupts import Interrupted


def test_everything_is_rendered_in_order() -> None:
    error = CpcError("it failed", host="b", cause="first\nsecond\n", hint="cpcctl vm list")
    assert error.render() == (
        "error: it failed\n  cause (b): first\n    second\n  try: cpcctl vm list"
    )


def test_what_is_absent_is_not_rendered() -> None:
    assert CpcError("it failed").render() == "error: it failed"
    assert CpcError("it failed", cause="why").render() == "error: it failed\n  cause: why"


def test_nothing_steers_the_terminal() -> None:
    nasty = "a\x1b[2Jb\tc\u202ed"
    error = CpcError(nasty, host=nasty, cause=f"{nasty}\n{nasty}", hint=nasty)
    text = error.render()
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.count("a\\x1b[2Jb\\tc\\u202ed") == 5


def test_exit_codes_are_the_documented_ones() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "FAILED": 1, "USAGE": 2, "REFUSED": 3, "UNREACHABLE": 4, "UNPROVEN": 5,
        "TIMED_OUT": 6, "LOST": 7, "ENDED": 8, "DEFECT": 70, "BUSY": 75, "HUNG_UP": 129,
        "INTERRUPTED": 130, "TERMINATED": 143,
    }


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (CpcError("no", exit_code=ExitCode.BUSY), 75),
        (KeyboardInterrupt(), 130),
        (Interrupted(15), 143),
        (Interrupted(1), 129),
        (ZeroDivisionError("boom"), 70),
    ],
)
def test_main_turns_exceptions_into_exit_codes(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> int:
        raise raised

    monkeypatch.setattr("cpcctl.cli.version.run", fail)
    assert entry.main(["version"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    if code == 70:
        assert "error: internal error in cpcctl\n  cause: ZeroDivisionError: boom" in shown.err


def test_json_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> int:
        raise CpcError("no", host="b", cause="why", hint="x", exit_code=ExitCode.REFUSED)

    monkeypatch.setattr("cpcctl.cli.version.run", fail)
    assert entry.main(["version", "--format", "json"]) == 3
    assert json.loads(capsys.readouterr().err) == {
        "error": {"message": "no", "exit_code": 3, "host": "b", "cause": "why", "hint": "x"}
    }
