# SPDX-License-Identifier: Apache-2.0
"""Runs a command in a Debian guest where KVM works: python -m tests.nested.run -- COMMAND...

The command finds this checkout and everything that `make setup` built under the
same paths, as root, with its writes kept in memory. Exit status is the command's; 125
when the guest itself fails.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from cpcctl.demo.image import ImageError
from cpcctl.setup import debian, store
from cpcctl.vm import lifecycle
from tests.nested import machine, project, system

FAILED = 125
SECONDS = 1080.0
MEMORY_MIB = 6144
# Less than this, and tests fail in there for want of memory.
LEAST_MIB = 3072
# How much longer than here things take in there; limits of tests are multiplied by it.
PATIENCE = 6.0


def environment(patience: float) -> dict[str, str]:
    """What the command finds in its environment: little of ours."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("CPC_TEST_", "CPCCTL_")) and name != "CPC_TEST_RUN"
    }
    return {
        **kept,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "COLUMNS": "100",
        "CPC_CACHE": str(store.root()),
        "CPC_TEST_PATIENCE": f"{patience:g}",
        "CPCCTL_PATIENCE": f"{patience:g}",
    }


def memory_mib() -> int:
    """Memory of the guest: enough for two VMs of 2 GiB, but half of what is free here.

    Raises NestedError when that is too little.
    """
    half = lifecycle.available_memory() >> 21
    if half < LEAST_MIB:
        raise machine.NestedError(
            f"half of this machine's free memory, {half} MiB, is too little for the Debian "
            f"guest, which needs {LEAST_MIB} MiB: end other programs, or run this elsewhere"
        )
    return min(MEMORY_MIB, half)


def run(argv: Sequence[str], seconds: float = SECONDS, patience: float = PATIENCE) -> int:
    """Boot the guest and run a command there; its exit status.

    seconds: the most it may take. Raises NestedError, AptError, ImageError,
    OSError and CalledProcessError when the guest itself fails.
    """
    begin = time.monotonic()
    memory = memory_mib()
    qemu = store.current("qemu")
    folder = system.provide(qemu / "bin/qemu-system-x86_64")
    with project.workplace() as place:
        start = machine.script(list(argv), project.TOP, environment(patience))
        project.disk(place / "project.ext4", start)
        guest = machine.Guest(
            qemu / "bin/qemu-system-x86_64", qemu / "share/qemu", folder, place / "project.ext4",
            memory,
        )
        store.say(f"nested: booting; its disks took {time.monotonic() - begin:.0f} s")
        return machine.run(guest, place / "console.log", seconds)


def guarded(
    argv: Sequence[str], seconds: float = SECONDS, patience: float = PATIENCE
) -> int:
    """The same for a command line: 125 and a message when the guest fails, 130 or
    143 when interrupted. CPC_TEST_PATIENCE stretches both limits."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    scale = float(os.environ.get("CPC_TEST_PATIENCE", "1"))
    try:
        return run(argv, seconds * scale, patience * scale)
    except (
        machine.NestedError, debian.AptError, ImageError, OSError, subprocess.CalledProcessError,
    ) as error:  # fmt: skip
        store.say(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        store.say("nested: interrupted; the guest is ended")
        return 130


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.nested.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="the most it may take")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="factor of test limits")
    parser.add_argument("argv", nargs="+", metavar="COMMAND")
    args = parser.parse_args()
    return guarded(args.argv, args.seconds, args.patience)


if __name__ == "__main__":
    sys.exit(main())
