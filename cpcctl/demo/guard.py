# SPDX-License-Identifier: Apache-2.0
"""Ends what a process leaves behind, however that process ends.

    python -m cpcctl.demo.guard NAME=VALUE [FOLDER...]

Waits until its stdin closes. The owner holds the other end, so the kernel closes it also where
the owner is killed. Then every process that has NAME=VALUE in its environment is killed, as
everything has that the owner started with it, and the folders are removed. A VM outlives the
`cpcctl` that started it, by design: no process group and no parent would lead to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PAUSE_SECONDS = 0.05
# Of one that is killed and does not go: it waits for a device, and nothing else ends it.
GIVE_UP_SECONDS = 20.0


def marked(mark: str) -> list[int]:
    """Processes with that word, NAME=VALUE, in their environment, other than this one."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        # One that has ended, or another user's.
        with contextlib.suppress(OSError):
            if mark.encode() in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


def end_marked(mark: str) -> None:
    """Kill them until there are none, since one may have started another meanwhile."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while (found := marked(mark)) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE_SECONDS)


class Guard:
    """One that watches this process. Everything to be ended has mark in its environment."""

    def __init__(self, mark: str, *folders: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cpcctl.demo.guard", mark, *folders],
            cwd=TOP,
            stdin=subprocess.PIPE,
            # Not to be ended by itself or by another guard, nor by Ctrl-C.
            env={},
            start_new_session=True,
        )

    def close(self) -> None:
        """End everything now; returns when it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> int:
    """Wait for the owner's end, then clean up."""
    mark, *folders = sys.argv[1:]
    while os.read(0, 4096):
        pass
    end_marked(mark)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
