# SPDX-License-Identifier: Apache-2.0
"""Runs the README's commands on bare Debian systems, and moves a VM between two of them.

    python3 -m tests.fresh.run [bookworm] [trixie] [demo] [test] [migrate]

Without arguments: both releases, all three. Each release gets a copy of a bare system and a clone
of this checkout's last commit; `migrate` goes from the first one to the second and back. A step
that fails shows its last lines and leaves its log; the others go on. Takes an hour or two.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cpcctl.setup import debian, store
from tests.fresh import migrate, root
from tests.fresh.root import TOP, FreshError, System

STEPS = ("demo", "test", "migrate")
TAIL_LINES = 40
# Which of a command's lines say how far it is, for who waits.
TOLD_SECONDS = 60.0


def make(system: System, goal: str, log: Path) -> bool:
    """Run `make goal` in there, its output to a log; whether it went well."""
    begin = told = time.monotonic()
    with log.open("w") as out, system.popen(["make", goal], stdout=out, stderr=out) as process:
        while True:
            try:
                code = process.wait(1.0)
                break
            except subprocess.TimeoutExpired:
                pass
            if (now := time.monotonic()) - told > TOLD_SECONDS:
                told = now
                lines = log.read_text(errors="replace").splitlines() or [""]
                store.say(f"{system.name}: make {goal}: {(now - begin) / 60:.0f} min: {lines[-1]}")
    return judged(f"{system.name}: make {goal}", code == 0, begin, log)


def judged(what: str, good: bool, begin: float, log: Path) -> bool:
    """Say how a step ended, with the end of its log where it failed."""
    minutes = (time.monotonic() - begin) / 60
    store.say(f"{what}: {'ok' if good else 'FAILED'} after {minutes:.1f} min; {log}")
    if not good:
        for line in log.read_text(errors="replace").splitlines()[-TAIL_LINES:]:
            store.say(f"    {line}")
    return good


def both_ways(systems: Sequence[System], log: Path) -> bool:
    """Move a VM from the first system to the last, and back; whether it went well."""
    begin = time.monotonic()
    with log.open("w") as out:
        try:
            migrate.there_and_back(systems[0], systems[-1], out)
        except migrate.MoveError as error:
            print(f"error: {error}", file=out)
            good = False
        else:
            good = True
    return judged(f"{systems[0].name} to {systems[-1].name} and back", good, begin, log)


def main(argv: Sequence[str]) -> int:
    """The command line; 0 when every step went well."""
    suites = [word for word in argv if word in root.SUITES] or list(root.SUITES)
    steps = [word for word in argv if word in STEPS] or list(STEPS)
    if unknown := set(argv) - set(root.SUITES) - set(STEPS):
        store.say(f"error: unknown: {' '.join(sorted(unknown))}\n{__doc__}")
        return 2
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=TOP, capture_output=True, text=True, check=True
    ).stdout
    if changed:
        store.say("note: what is not committed does not take part")
    logs = store.root() / "log"
    logs.mkdir(parents=True, exist_ok=True)
    good = True
    try:
        with root.systems(suites) as found:
            for system in found.values():
                for goal in [step for step in steps if step != "migrate"] or ["setup"]:
                    good &= make(system, goal, logs / f"{system.name}-{goal}.log")
            if "migrate" in steps:
                good &= both_ways(list(found.values()), logs / "fresh-migrate.log")
    except (FreshError, debian.AptError, subprocess.CalledProcessError) as error:
        store.say(f"error: {error}")
        return 2
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
