# SPDX-License-Identifier: Apache-2.0
"""However a run of the tests ends: nothing that it started runs on, no file stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cpcctl.demo.guard import marked
from cpcctl.demo.hosts import wait_until
from tests.patience import patient

TOP = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("how", ["timeout", "SIGINT", "SIGTERM", "SIGKILL"])
def test_a_run_that_is_ended_leaves_nothing(how: str, tmp_path: Path) -> None:
    fifo = tmp_path / "said"
    os.mkfifo(fifo)
    limit = 5 if how == "timeout" else 600
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-o", f"timeout={patient(limit):g}",
         "-p", "no:cacheprovider", "tests/setup/leaving.py"],
        cwd=TOP, env={**os.environ, "CPC_TEST_LEAVING": str(fifo)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    number, *folders = fifo.read_text().split()
    mark = f"CPC_TEST_RUN={number}"
    assert len(marked(mark)) == 2
    assert all(Path(folder).is_dir() for folder in folders)
    if how != "timeout":
        run.send_signal(getattr(signal, how))
    assert run.wait(patient(60)) != 0
    wait_until("its processes end", lambda: not marked(mark), patient(10))
    wait_until(
        "its files go", lambda: not any(Path(f).exists() for f in folders), patient(10)
    )
