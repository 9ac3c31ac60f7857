# SPDX-License-Identifier: Apache-2.0
"""Results, tables and progress."""

from __future__ import annotations

import io
import json
import os

import pytest

from cpcctl.accel import choose
from cpcctl.accel.verdict import Verdict
from cpcctl.errors import CpcError
from cpcctl.ui import progress
from cpcctl.ui.output import Output, number, pairs, size, table


def test_results_go_to_stdout_and_notes_do_not() -> None:
    out, err = io.StringIO(), io.StringIO()
    output = Output("text", out, err)
    output.note("remark")
    output.result({"a": 1}, "words")
    assert (out.getvalue(), err.getvalue()) == ("words\n", "remark\n")


def test_json_results_are_one_value() -> None:
    out = io.StringIO()
    Output("json", out, io.StringIO()).result([{"a": None}], "words")
    assert json.loads(out.getvalue()) == [{"a": None}]


def test_tables() -> None:
    assert table(("A", "LONG"), [("xyz", 1), ("", 22)]) == "A    LONG\nxyz  1\n     22"
    assert table(("A",), []) == "A"
    assert pairs([("a", 1), ("long", "")]) == "a:     1\nlong:"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"),
     (3 << 29, "1.5 GiB"), (1 << 40, "1.0 TiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("done", "total", "share"),
    [(0, None, None), (0, 0, None), (0, 10, 0), (5, 10, 50), (10, 10, 99), (20, 10, 99)],
)
def test_it_is_never_finished_before_it_is(done: int, total: int | None, share: int | None) -> None:
    assert progress.percent(done, total) == share


def test_the_bar_and_its_words_fit_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.StringIO()
    bar = progress.BarProgress(stream, color=False)
    bar.phase("copy")
    bar.update(1023 << 20, 2047 << 20, "round 12, 1023.9 MiB sent")
    bar._bar.refresh()
    bar.finish(False)
    assert "1023.0 MiB of 2.0 GiB, 49 %, round 12, 1023.9 MiB sent" in stream.getvalue()


def test_plural_forms() -> None:
    assert [number(n, "gvCPU") for n in (0, 1, 2)] == ["0 gvCPUs", "1 gvCPU", "2 gvCPUs"]


def test_plain_progress_says_a_line_a_second() -> None:
    now = 0.0
    stream = io.StringIO()
    shown = progress.PlainProgress(stream, lambda: now)
    shown.phase("precopy")
    for step in range(100):
        now = step / 20
        shown.update(step << 20, 100 << 20, "round 1")
    shown.finish(True)
    assert stream.getvalue().splitlines() == [
        "phase precopy",
        "phase precopy: 20.0 MiB of 100.0 MiB, 20 %, round 1",
        "phase precopy: 40.0 MiB of 100.0 MiB, 40 %, round 1",
        "phase precopy: 60.0 MiB of 100.0 MiB, 60 %, round 1",
        "phase precopy: 80.0 MiB of 100.0 MiB, 80 %, round 1",
        "phase done",
    ]


def test_a_failed_job_is_not_done() -> None:
    stream = io.StringIO()
    shown = progress.make("plain", stream)
    shown.phase("precopy")
    shown.finish(False)
    assert "done" not in stream.getvalue()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_auto_is_a_bar_only_on_a_terminal() -> None:
    assert isinstance(progress.make("auto", io.StringIO(), {}), progress.PlainProgress)
    assert isinstance(progress.make("auto", Terminal(), {}), progress.PlainProgress)
    bar = progress.make("auto", Terminal(), {"TERM": "xterm"})
    assert isinstance(bar, progress.BarProgress)
    bar.finish(False)
    assert isinstance(progress.make("none", Terminal()), progress.NoProgress)


def test_the_bar_shows_phase_and_bytes_and_no_colour_when_asked() -> None:
    stream = Terminal()
    bar = progress.make("bar", stream, {"NO_COLOR": "", "TERM": "xterm"})
    bar.phase("precopy")
    bar.update(50 << 20, 100 << 20, "round 2")
    bar.finish(True)
    text = stream.getvalue()
    assert "precopy" in text
    assert "50.0 MiB of 100.0 MiB, 50 %, round 2" in text
    assert "\x1b[3" not in text


def test_no_progress_is_silent() -> None:
    stream = io.StringIO()
    shown = progress.make("none", stream)
    shown.phase("a")
    shown.update(1, 2)
    shown.finish(True)
    assert stream.getvalue() == ""


def test_a_note_cannot_steer_the_terminal() -> None:
    stream = io.StringIO()
    Output("text", stream, stream).note("one \x1b[2J\ntwo\u202e")
    assert stream.getvalue() == "one \\x1b[2J\ntwo\\u202e\n"


def test_a_stream_that_takes_nothing_stops_no_work() -> None:
    with open("/dev/full", "w") as full:
        shown = progress.make("plain", full)
        shown.phase("precopy")
        shown.finish(True)
        Output("text", io.StringIO(), full).note("remark")
        with pytest.raises(CpcError, match="cannot write to stdout: No space left on device"):
            Output("json", full, io.StringIO()).result([], "")
        # What is left in the buffer could not be written at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


LONG = "QEMU fails with KVM: ioctl(KVM_CREATE_VM) failed: 12 Cannot allocate memory"


def test_a_refusal_is_one_short_line() -> None:
    for reason in (LONG, "x" * 900, "there is no /dev/kvm"):
        verdict = Verdict("qemu", reason, "dmesg; else use another host")
        line = choose.decide("auto", verdict).why or ""
        assert len(line) <= 80
        assert ("cpcctl doctor" in line) is (len(reason) > 44)
        with pytest.raises(CpcError) as caught:
            choose.decide("kvm", verdict)
        assert len(caught.value.cause or "") <= 44
        assert caught.value.hint == "dmesg\nuse another host\n--accel tcg"
    assert choose.decide("auto", Verdict("qemu", LONG)).why == (
        "KVM does not work here: QEMU fails with KVM ... (cpcctl doctor); using TCG"
    )
