# SPDX-License-Identifier: Apache-2.0
"""The firmware of confidential guests: OVMF, as Debian trixie packages it.

Result: ``current/ovmf/OVMF.fd`` (the code and an empty variable store in one
file, for ``-bios``) and ``versions``. The suite is always trixie's, on bookworm
too: bookworm's OVMF is older than what Linux and QEMU need for SEV-SNP.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cpcctl.setup import debian, store

PACKAGE = "ovmf"
SUITE = "trixie"
IMAGE = Path("usr/share/ovmf/OVMF.fd")


class OvmfError(Exception):
    """The package does not hold the image."""


def recipe_key() -> str:
    """Digest of the recipe. The package's version is fixed when it is first fetched."""
    return store.key([SUITE], [Path(__file__)])


def build(out: Path) -> None:
    """Fetch the package and keep its image. Raises AptError, OvmfError."""
    unpacked = out / "unpacked"
    for path in debian.fetch([PACKAGE], SUITE):
        debian.unpack(path, unpacked)
    if not (unpacked / IMAGE).is_file():
        raise OvmfError(f"{SUITE}'s package {PACKAGE} has no /{IMAGE}")
    shutil.copy(unpacked / IMAGE, out / IMAGE.name)
    shutil.rmtree(unpacked)
    (out / "versions").write_text("\n".join(debian.versions([PACKAGE], SUITE)) + "\n")


def main() -> int:
    """Fetch the firmware unless it is there; 2 when it cannot be had."""
    os.umask(0o022)
    try:
        store.provide("ovmf", recipe_key(), build)
    except (debian.AptError, OvmfError, subprocess.CalledProcessError) as error:
        store.say(f"error: OVMF cannot be fetched: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
