# SPDX-License-Identifier: Apache-2.0
"""A guest that was frozen for a migration that failed goes on as if nothing had been."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from cpcctl.demo.console import Console
from tests import program
from tests.patience import patient
from tests.twohosts.pair import Pair, finish, until, wait_stopped

TURNS = 3
SECONDS = patient(60.0)


def turns(log: Path) -> int:
    """How often the guest has said that its code is what it wrote. Fails when it was not."""
    text = log.read_text(errors="replace")
    assert "REWRITING failed" not in text, text[-300:]
    return len(re.findall(r"REWRITING \d+", text))


def test_code_that_is_written_after_it_is_what_runs(pair: Pair, tmp_path: Path) -> None:
    """Marked as dirty when it was released, memory counted as free of translated code, and
    TCG went on with what had been there before."""
    initrd = tmp_path / "initrd"
    added = program.archive(Path(__file__).parent / "rewriting.c", "rewriting")
    initrd.write_bytes(pair.built.tiny_initrd.read_bytes() + added.read_bytes())
    name = pair.vm(initrd=str(initrd))
    log = pair.a.folder / "s/vms" / name / "console.log"
    with Console(pair.a.folder / "r/vms" / name / "console.sock") as shell:
        shell.wait_ready(log, SECONDS)
        shell.run("(rewriting > /dev/console 2>&1 &)")
    until(lambda: turns(log) >= TURNS, "the guest to rewrite code", SECONDS)
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, stop_at="before commit")
    wait_stopped(worker := pair.worker())
    os.kill(worker, signal.SIGKILL)
    assert f"runs on {pair.a.name}" in finish(process, 1).stderr
    finish(receive, None)
    pair.check_one_side(name, "a")
    before = turns(log)
    until(lambda: turns(log) >= before + TURNS, "the guest to go on", SECONDS)
