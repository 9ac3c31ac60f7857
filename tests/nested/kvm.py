# SPDX-License-Identifier: Apache-2.0
"""Runs the tests or the bench with KVM: here where it works, else in the nested guest.

    python -m tests.nested.kvm test|bench [--nested] [arguments of pytest or bench]

The first line says which way and why. --nested takes the second way anyway.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence

from cpcctl.setup import store
from tests.nested import run
from tests.nested.project import TOP

FOLDERS = ["tests/onevm", "tests/twohosts"]
# Of one test, there; pytest.ini has the limit here.
TEST_SECONDS = 1200


# Runs each argument as a command. Tests that fail in the nested guest run once
# more, and the output says so: docs/testing.md, "Known trouble".
SCRIPT = """
for c in "$@"; do
    eval "$c" && continue
    code=$?
    case "$code $c" in "1 "*pytest*) ;; *) exit $code ;; esac
    echo "nested KVM has known trouble (docs/testing.md): what failed runs once more"
    eval "$c --last-failed --last-failed-no-failures none" || exit
done
"""


def python() -> str:
    """The interpreter that `make setup` prepared; the nested guest has it too."""
    return str(store.current("venv") / "bin/python")


def verdict(report: str) -> str:
    """Why KVM does not work here, from what doctor says; empty when it does."""
    try:
        checks = {check["name"]: check for check in json.loads(report)["checks"]}
        found = checks["kvm"]
        return "" if found["state"] == "ok" else str(found["detail"])
    except (ValueError, KeyError, TypeError):
        return "cpcctl doctor gives no answer about it"


def ask_doctor() -> str:
    """Why KVM does not work on this machine; empty when it does."""
    done = subprocess.run(
        [python(), "-m", "cpcctl", "doctor", "--format", "json"],
        cwd=TOP, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    return verdict(done.stdout)


def commands(what: str, arguments: Sequence[str], nested: bool) -> list[list[str]]:
    """What to run, one after the other."""
    cpcctl = [python(), "-m", "cpcctl"]
    if what == "bench":
        return [[*cpcctl, "bench", "--accel", "kvm", *arguments]]
    pytest = [python(), "-m", "pytest", *FOLDERS, "--accel", "kvm"]
    if not nested:
        return [[*pytest, *arguments]]
    limits = ["-o", f"timeout={TEST_SECONDS}", "-o", f"faulthandler_timeout={TEST_SECONDS - 50}"]
    select = [] if any(word in ("-m", "-k") for word in arguments) else ["-m", "kvm"]
    # The set-up's own check of a machine comes first, as on any other one.
    return [
        [*cpcctl, "doctor", "--accel", "kvm"],
        [*pytest, "-v", "-o", "cache_dir=/tmp/pytest-cache", *limits, *select, *arguments],
    ]


def prepare() -> None:
    """Build what the nested guest, which has no compiler, is given."""
    from tests.onevm import images

    images.probe()
    images.faults()


def main(argv: Sequence[str]) -> int:
    """The command line; the status of what ran."""
    if not argv or argv[0] not in ("test", "bench"):
        store.say(__doc__ or "")
        return 2
    what, rest = argv[0], [word for word in argv[1:] if word != "--nested"]
    why = "asked for" if "--nested" in argv else ask_doctor()
    if not why:
        print("KVM works here: running with it directly", flush=True)
        for command in commands(what, rest, nested=False):
            if code := subprocess.run(command, cwd=TOP, check=False).returncode:
                return code
        return 0
    reason = why if why == "asked for" else f"no working KVM here ({why})"
    print(f"{reason}: running in a Debian guest under TCG, with nested KVM", flush=True)
    prepare()
    words = [shlex.join(command) for command in commands(what, rest, nested=True)]
    return run.guarded(["sh", "-c", SCRIPT, "sh", *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
