# SPDX-License-Identifier: Apache-2.0
"""The exit code says what became of the VM, whatever becomes of stdout and stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpcctl.cli.verbs import ACTING, VERBS

TOP = Path(__file__).resolve().parents[2]
# Lets a verb's run() be replaced: it prints, notes, and returns a code of its own.
STUB = """
import importlib, sys
from cpcctl import __main__ as entry
from cpcctl.cli.verbs import VERBS
path, argv = sys.argv[1], sys.argv[2:]
verb = next(verb for verb in VERBS if verb.path == path)
module = importlib.import_module(verb.module)
def run(args, ctx):
    ctx.out.note("a remark")
    with_progress = ctx.progress()
    with_progress.phase("copy")
    with_progress.finish(True)
    ctx.out.result({"a": 1}, "the result")
    return 6
setattr(module, verb.run, run)
sys.exit(entry.main(argv))
"""
SHELLS = {
    "full": "{} >/dev/full",
    "both full": "{} >/dev/full 2>/dev/full",
    "stderr full": "{} 2>/dev/full",
    "gone": "({}; echo $? >&3) 3>&1 >/dev/null | cat",
    "closed": "{} >&- 2>&-",
    "stderr closed": "{} 2>&-",
}
ARGUMENTS = {
    "vm start": ["x.yaml"], "vm stop": ["t"], "vm pause": ["t"], "vm resume": ["t"],
    "hvcpu add": ["t"], "hvcpu remove": ["t", "0"], "migrate": ["t", "-"], "receive": [],
    "job wait": ["20260101-000000-0000"], "job cancel": ["20260101-000000-0000"],
    "job resume": ["20260101-000000-0000"],
}


def shell(command: str, shape: str) -> int:
    done = subprocess.run(
        ["/bin/sh", "-c", SHELLS[shape].format(command)],
        cwd=TOP, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    return int(done.stdout) if shape == "gone" else done.returncode


def test_every_verb_that_acts_is_tried() -> None:
    assert set(ARGUMENTS) == set(ACTING) <= {verb.path for verb in VERBS}


@pytest.mark.parametrize("shape", ["both full", "stderr closed"])
@pytest.mark.parametrize("path", ACTING)
def test_the_code_is_that_of_the_verb(path: str, shape: str, tmp_path: Path) -> None:
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    words = " ".join([path, *ARGUMENTS[path]])
    environment = f"CPCCTL_STATE_DIR={tmp_path} CPCCTL_RUN_DIR={tmp_path} PYTHONPATH={TOP}"
    command = f"{environment} {sys.executable} {stub} '{path}' {words}"
    assert shell(command, shape) == 6


@pytest.mark.parametrize("shape", SHELLS)
def test_every_way_in_which_output_is_lost(shape: str, tmp_path: Path) -> None:
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    environment = f"CPCCTL_STATE_DIR={tmp_path} CPCCTL_RUN_DIR={tmp_path} PYTHONPATH={TOP}"
    assert shell(f"{environment} {sys.executable} {stub} migrate migrate t -", shape) == 6


def test_a_pipe_that_nobody_reads(tmp_path: Path) -> None:
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, str(stub), "migrate", "migrate", "t", "-"],
        cwd=TOP, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        env={**os.environ, "CPCCTL_STATE_DIR": str(tmp_path), "CPCCTL_RUN_DIR": str(tmp_path)},
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 6
    assert "the result was not written: Broken pipe" in done.stderr


def test_receive_whose_ticket_nobody_gets(tmp_path: Path) -> None:
    """Nobody can come, so it does not wait."""
    folders = {"CPCCTL_STATE_DIR": str(tmp_path / "s"), "CPCCTL_RUN_DIR": str(tmp_path / "r")}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cpcctl", "receive", "--listen", "127.0.0.1:0"],
            cwd=TOP, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
            env={**os.environ, **folders},
        )  # fmt: skip
    assert done.returncode == 1
    assert "cannot write to stdout: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.suffix for path in (tmp_path / "s" / "jobs").iterdir()] == [".json"]


def test_notes_go_nowhere_else_when_stderr_is_closed(tmp_path: Path) -> None:
    """`2>&-`: not into the result, nor into a file that has the free number."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m cpcctl job list --format json 2>&-"],
        cwd=TOP, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "CPCCTL_STATE_DIR": str(tmp_path), "CPCCTL_RUN_DIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[]\n")
