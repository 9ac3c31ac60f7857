# SPDX-License-Identifier: Apache-2.0
"""Long commands of the set-up: where their output goes, and what a person sees meanwhile."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cpcctl.setup import watched

TOP = Path(__file__).resolve().parents[2]


def test_the_output_goes_to_the_log_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log" / "it.log"
    watched.run("it: working", ["sh", "-c", "echo out; echo err >&2"], log)
    assert log.read_text() == "out\nerr\n"
    assert capfd.readouterr() == ("", "it: working\n")


def test_a_failure_has_the_last_lines_and_the_log(tmp_path: Path) -> None:
    log = tmp_path / "it.log"
    script = "for i in $(seq 100); do echo line $i; done; exit 3"
    with pytest.raises(watched.CommandFailed) as failed:
        watched.run("it", ["sh", "-c", script], log)
    lines = str(failed.value).splitlines()
    assert lines[0] == "line 71" and lines[-2:] == [
        "line 100", f"sh failed; the whole log is {log}"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "last"),
    [
        (b"[1/9] one\n[2/9] Compiling C object a.o\n", "[2/9] Compiling C object a.o"),
        (b"one\n\n \n", "one"),
        (b"10 %\r20 %\r", "20 %"),
        (b"\x1b[1mbold\n", "[1mbold"),
        (b"", ""),
        (b"x\n" * 5000 + b"end", "end"),
    ],
)
def test_the_last_line_is_shown(written: bytes, last: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(written)
    assert watched.last_line(tmp_path / "log") == last


def test_the_line_is_never_wider_than_the_terminal() -> None:
    assert watched.status("it", 7.4, "[2/9] a.o", 80) == "it: 7 s  [2/9] a.o"
    assert len(watched.status("it", 7.4, "x" * 500, 80)) == 79


def test_a_terminal_sees_where_it_is(tmp_path: Path) -> None:
    """The command waits until its own output has been shown."""
    near, far = pty.openpty()
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    script = f"echo '[7/9] Compiling'; cat {fifo}"
    process = subprocess.Popen(
        [sys.executable, TOP / "cpcctl/setup/watched.py", "it", tmp_path / "log", "sh", "-c",
         script],
        stderr=far,
    )  # fmt: skip
    os.close(far)
    shown = b""
    while b"[7/9] Compiling" not in shown:
        shown += os.read(near, 4096)
    fifo.write_text("done\n")
    assert process.wait() == 0
    os.close(near)
    assert (tmp_path / "log").read_text() == "[7/9] Compiling\ndone\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_the_command(tmp_path: Path, number: signal.Signals) -> None:
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [sys.executable, TOP / "cpcctl/setup/watched.py", "it", tmp_path / "log", "sh", "-c",
         f"echo $$ > {fifo}; exec sleep 1000"],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    child = int(fifo.read_text())
    process.send_signal(number)
    assert process.wait() == 128 + number
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
