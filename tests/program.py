# SPDX-License-Identifier: Apache-2.0
"""Small C programs for the guest's own shell, built on the machine that runs the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cpcctl.demo import image
from cpcctl.setup import store

FLAGS = ["-static", "-O2", "-Wall", "-Wextra", "-Werror"]


def archive(source: Path, name: str) -> Path:
    """An archive with the program as /usr/bin/NAME, to follow the guest's initrd: the kernel
    unpacks one after the other. Built once."""

    def build(folder: Path) -> None:
        tree = folder / "tree/usr/bin"
        tree.mkdir(parents=True)
        subprocess.run(["gcc", *FLAGS, "-o", tree / name, source], check=True)
        image.archive(folder / "tree", folder / "program.cpio")

    found = store.provide(f"test-{name}", store.key(FLAGS, [source]), build)
    return found / "program.cpio"
