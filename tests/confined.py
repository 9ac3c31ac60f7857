# SPDX-License-Identifier: Apache-2.0
"""The proof that a QEMU is held to what cpcctl/qemu/sandbox.py says; the kernel is the witness."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cpcctl.qemu import sandbox

MINE = (os.geteuid(), os.getegid())


def status(pid: int) -> dict[str, list[str]]:
    """/proc/PID/status by its keys."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: words.split() for key, _, words in (line.partition(":") for line in lines)}


def user(pid: int) -> int:
    """Whom a process runs as, with all of its user numbers."""
    (found,) = set(status(pid)["Uid"])
    return int(found)


def check(pid: int) -> None:
    """No capability, no way to get one, filtered system calls, and started by root a user
    and a group of its own."""
    found = status(pid)
    assert found["NoNewPrivs"] == ["1"], found
    assert found["Seccomp"] == ["2"], found
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M), limits
    files = re.search(r"^Max open files +(\d+) +(\d+) ", limits, re.M)
    assert files is not None, limits
    assert max(int(files[1]), int(files[2])) <= sandbox.FILES_MAX
    begun = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {word.partition(b"=")[0][:3] for word in begun if word} <= {b"PAT", b"CPC", b"PWD"}
    if sandbox.of("any").user is None:
        assert found["Uid"] == [str(MINE[0])] * 4
        return
    for key in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(found[key][0], 16) == 0, found
    number = found["Uid"][0]
    assert sandbox.FIRST <= int(number) <= sandbox.LAST
    assert found["Uid"] == found["Gid"] == [number] * 4
    assert found["Groups"] == [number]
    for task in Path(f"/proc/{pid}/task").iterdir():
        assert f"Uid:\t{number}\t" in (task / "status").read_text(), task
