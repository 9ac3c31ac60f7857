# SPDX-License-Identifier: Apache-2.0
"""The hvCPU firmware of this checkout, built by guest-agent/firmware/Makefile.

Result: ``current/firmware`` with ``cpc-firmware.bin``, its ELF file, and
``kvm-probe.bin``. Objects are not kept: they name the checkout they were made
in, and another one with the same sources must do without that folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cpcctl.setup import store, watched

SOURCE = Path(__file__).resolve().parents[2] / "guest-agent" / "firmware"
OUTER_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
RESULTS = ("cpc-firmware.bin", "cpc-firmware.elf", "kvm-probe.bin")


def recipe_key() -> str:
    """Digest of the sources, the pins of the libraries and the compiler."""
    command = [str(SOURCE / "content-hash.sh")]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return store.key([said], [Path(__file__)])


def build(out: Path) -> None:
    """Compile into a folder of its own and keep the results. Raises CommandFailed."""
    objects = out / "objects"
    # Nothing of a make that may have started this: the key would not know of it.
    env = {name: value for name, value in os.environ.items() if name not in OUTER_MAKE}
    watched.run(
        "firmware: compiling",
        ["make", "-s", "-C", SOURCE, "image", f"O={objects}"],
        store.root() / "log" / "firmware.log",
        env=env | {"CPC_CACHE": str(store.root())},
    )
    for name in RESULTS:
        (objects / name).rename(out / name)
    shutil.rmtree(objects)


def main() -> int:
    """Build the firmware unless it is there; 2 when it cannot be built."""
    os.umask(0o022)
    try:
        store.provide("firmware", recipe_key(), build)
    except (OSError, subprocess.CalledProcessError, watched.CommandFailed) as error:
        store.say(f"error: the firmware cannot be built: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
