# SPDX-License-Identifier: Apache-2.0
"""Signals while a verb ends: what there is to say is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any, cast

import pytest

from cpcctl.errors import CpcError
from cpcctl.ui import interrupts
from cpcctl.vm import lifecycle

# The code is known once all signals of before have come; then there is something to say.
SCRIPT = """
import os, signal, sys, time
from cpcctl.ui import interrupts
before, after = map(int, sys.argv[1:])
codes = []
interrupts.end_with(lambda: codes[0] if codes else None)
for _ in range(before):
    os.kill(os.getpid(), signal.SIGINT)
codes.append(7)
time.sleep(20 * interrupts.LOOK_SECONDS)
for _ in range(after):
    os.kill(os.getpid(), signal.SIGTERM)
if after:
    time.sleep(60)  # for a reader that takes nothing
print("where it is", flush=True)
interrupts.all_is_said()
sys.exit(7)
"""


@pytest.mark.parametrize(("before", "after"), [(1, 0), (2, 0), (5, 0), (1, 1)])
def test_only_a_signal_after_that_cuts_it_short(before: int, after: int) -> None:
    """Who presses Ctrl-C twice still reads where the VM is."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(before), str(after)],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "" if after else "where it is\n"), done.stderr


class Guest:
    """One that was asked to shut down; a signal comes while it is waited for."""

    name = "t"

    def __init__(self, number: int, *, ends: bool) -> None:
        self.number, self.ends = number, ends

    def wait_gone(self, seconds: float) -> bool:
        if seconds:
            os.kill(os.getpid(), self.number)
        return self.ends


@pytest.mark.parametrize("number", interrupts.NUMBERS)
def test_a_signal_ends_the_wait_for_a_guest_alone(number: signal.Signals) -> None:
    """And it is not dropped, as while something is done."""
    interrupts.hear()
    with interrupts.without():
        with pytest.raises(CpcError, match="was not waited for; it runs still") as caught:
            lifecycle._wait_gone(cast(Any, Guest(number, ends=False)), 60.0)
        assert caught.value.exit_code == 128 + number
        assert lifecycle._wait_gone(cast(Any, Guest(number, ends=True)), 60.0)
