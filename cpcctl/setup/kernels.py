# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels that emulated confidential guests are tested with.

The small guest has the kernel of the machine's own release. Result of this:
``current/kernels/<suite>/vmlinuz`` and ``tiny.cpio`` for each other release, in
the same form, and ``versions``. From the machine's own mirror, checked by apt.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cpcctl.demo import image
from cpcctl.setup import debian, store

# What uname says at least, of the release's kernel.
SUITES = {"6.1": "bookworm", "6.12": "trixie"}
# The next release, whose kernel is another one every few weeks. Fetched only for who asks.
TESTING = "forky"


@dataclass(frozen=True)
class Kernel:
    """A kernel and an initrd with busybox and the virtio drivers for it."""

    vmlinuz: Path
    initrd: Path


def others() -> list[str]:
    """Releases whose kernel the small guest does not have."""
    return [suite for suite in SUITES.values() if suite != debian.release()]


def recipe_key() -> str:
    """Digest of the recipe. The packages' versions are fixed when they are first fetched."""
    inputs = [Path(__file__), Path(image.__file__), image.HERE / "init", image.HERE / "cpc-job"]
    return store.key(others(), inputs)


def build_one(out: Path, suite: str) -> list[str]:
    """Fetch, unpack and pack one release's into out; the versions of the packages."""
    names = [*image.kernel_packages(suite), "busybox-static"]
    unpacked, tree = out / "unpacked", out / "tree"
    for path in debian.fetch(names, suite):
        debian.unpack(path, unpacked)
    shutil.copy(image.kernel_file(unpacked), out / "vmlinuz")
    image.base_tree(tree, unpacked)
    image.archive(tree, out / "tiny.cpio")
    for folder in (unpacked, tree):
        shutil.rmtree(folder)
    return debian.versions(names, suite)


def build(out: Path) -> None:
    """Every other release's. Raises AptError, ImageError."""
    versions = []
    for suite in others():
        (out / suite).mkdir()
        versions += build_one(out / suite, suite)
    (out / "versions").write_text("\n".join(versions) + "\n")


def provide() -> dict[str, Kernel]:
    """Every kernel by its version, fetched unless it is there; the machine's own release's
    has to be: ``make guest``. Raises AptError, ImageError, CalledProcessError."""
    folder = store.provide("kernels", recipe_key(), build)
    found = {}
    for version, suite in SUITES.items():
        place = store.current("guest") if suite == debian.release() else folder / suite
        found[version] = Kernel(place / "vmlinuz", place / "tiny.cpio")
    return found


def provide_testing() -> Kernel:
    """The next release's kernel as it was when it was first fetched. Raises as provide()."""

    def make(out: Path) -> None:
        (out / "versions").write_text("\n".join(build_one(out, TESTING)) + "\n")

    folder = store.provide("kernel-testing", store.key([TESTING, recipe_key()], []), make)
    return Kernel(folder / "vmlinuz", folder / "tiny.cpio")


def main() -> int:
    """Fetch the kernels unless they are there; 2 when they cannot be had."""
    os.umask(0o022)
    try:
        provide()
    except (debian.AptError, image.ImageError, subprocess.CalledProcessError) as error:
        store.say(f"error: the kernels cannot be fetched: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
