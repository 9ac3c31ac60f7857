# SPDX-License-Identifier: Apache-2.0
"""Runs the tests or the bench with KVM: here where it works, else in the nested guest.

    python -m tests.nested.kvm test|bench [--nested] [arguments of pytest or bench]

The first line says which way and why. --nested takes the second way anyway.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from cpcctl.bench import scenario
from cpcctl.setup import store
from tests.nested import machine, run
from tests.nested.project import TOP
from tests.patience import patient

FOLDERS = ["tests/onevm", "tests/twohosts"]
# Of one test, there; pytest.ini has the limit here. Well below that of the whole
# run, so that a test that hangs is named.
TEST_SECONDS = 600
# Of everything that the guest runs. With its boot, the tests take 20 minutes at most.
SECONDS = {"test": 1200 - machine.BOOT_SECONDS, "bench": 5400}
RACE_SECONDS = 5
# Of the time that QEMU's own plaintext migration takes, with KVM of the machine's own.
WANTED = 1.2
# pytest's -m and -k, also behind flags that take no value, with or without a value of their own.
SELECTS = re.compile(r"-[hlqsvVx]*[mk]")
# Runs each argument as a command, up to the first that fails.
SCRIPT = 'for command in "$@"; do eval "$command" || exit; done'


def python(nested: bool) -> str:
    """This interpreter; in the nested guest, which gets its environment, by the way there."""
    return str(store.current("venv") / "bin/python") if nested else sys.executable


def verdict(report: str) -> str:
    """Why KVM does not work here, from what doctor says; empty when it does."""
    try:
        checks = {check["name"]: check for check in json.loads(report)["checks"]}
        found = checks["kvm"]
        return "" if found["ok"] is True else str(found["reason"])
    except (ValueError, KeyError, TypeError):
        return "cpcctl doctor gives no answer about it"


def ask_doctor() -> str:
    """Why KVM does not work on this machine; empty when it does."""
    done = subprocess.run(
        [sys.executable, "-m", "cpcctl", "doctor", "--format", "json"],
        cwd=TOP, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    return verdict(done.stdout)


def commands(what: str, arguments: Sequence[str], nested: bool) -> list[list[str]]:
    """What to run, one after the other."""
    cpcctl = [python(nested), "-m", "cpcctl"]
    if what == "bench":
        return [[*cpcctl, "bench", "--accel", "kvm", *arguments]]
    pytest = [python(nested), "-m", "pytest", *FOLDERS, "--accel", "kvm"]
    if not nested:
        return [[*pytest, *arguments]]
    limit = patient(TEST_SECONDS)
    limits = ["-o", f"timeout={limit:g}", "-o", f"faulthandler_timeout={limit * 0.9:g}"]
    select = [] if any(map(SELECTS.match, arguments)) else ["-m", "kvm"]
    # First the ground that the tests stand on, then the check that comes first on any machine.
    return [
        [python(nested), "-m", "tests.nested.svm_race", str(RACE_SECONDS)],
        [*cpcctl, "doctor", "--accel", "kvm"],
        [*pytest, "-v", "-o", "cache_dir=/tmp/pytest-cache", *limits, *select, *arguments],
    ]


def judged(measured: dict[str, Any]) -> str:
    """What the bench shows, and below it what is wanted where KVM is the machine's own."""
    lines = [scenario.text(measured["results"], measured["processor"])]
    for entry in measured["results"]:
        ratio = entry["ratio"]["total"]
        if entry["scenario"] == "filled-2g" and ratio is not None:
            missed = "" if ratio <= WANTED else ": MISSED"
            lines.append(f"filled-2g, total: {ratio:.2f}x (wanted: at most {WANTED}x){missed}")
    return "\n".join(lines)


def run_bench(arguments: Sequence[str]) -> int:
    """Measure here. A measurement, not a test: its status is not that of the result."""
    (command,) = commands("bench", arguments, nested=False)
    if any(word.startswith("--format") for word in arguments):
        return subprocess.run(command, cwd=TOP, check=False).returncode
    done = subprocess.run(
        [*command, "--format", "json"], cwd=TOP, stdout=subprocess.PIPE, text=True, check=False
    )
    if not done.returncode:
        print(judged(json.loads(done.stdout)), flush=True)
    return done.returncode


def prepare() -> None:
    """Build what the nested guest, which has no compiler, is given."""
    from tests.onevm import images

    images.probe(store.current("firmware") / "cpc-firmware.bin")
    images.faults()
    images.refusal()


def main(argv: Sequence[str]) -> int:
    """The command line; the status of what ran."""
    if not argv or argv[0] not in ("test", "bench"):
        store.say(__doc__ or "")
        return 2
    what, rest = argv[0], [word for word in argv[1:] if word != "--nested"]
    why = "asked for" if "--nested" in argv else ask_doctor()
    if not why:
        print("KVM works here: running with it directly", flush=True)
        if what == "bench":
            return run_bench(rest)
        for command in commands(what, rest, nested=False):
            if code := subprocess.run(command, cwd=TOP, check=False).returncode:
                return code
        return 0
    reason = why if why == "asked for" else f"no working KVM here ({why})"
    print(f"{reason}: running in a Debian guest under TCG, with nested KVM", flush=True)
    prepare()
    words = [shlex.join(command) for command in commands(what, rest, nested=True)]
    code = run.guarded(["sh", "-c", SCRIPT, "sh", *words], SECONDS[what])
    if what == "bench":
        store.say("nested: these times and ratios mean nothing for a machine with KVM of its own")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
