# SPDX-License-Identifier: Apache-2.0
"""A store that was moved or copied: what names its old place is not used."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PATCHES = Path(__file__).resolve().parents[2] / "patches" / "qemu"
CONFIGURE = """#!/bin/sh
place=$(dirname "$0")
echo " command = meson --internal regenerate $place ." > build.ninja
"""
# Compiles nothing, and fails in the way of a build folder that names another place.
NINJA = """#!/bin/sh
grep -qF "regenerate $(dirname "$PWD")/src " build.ninja || exit 1
touch compiled
echo 'as far as this test goes'
exit 1
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """build.sh without patches, in a checkout that has what it needs."""
    top = tmp_path / "checkout"
    (top / "patches").mkdir(parents=True)
    shutil.copytree(PATCHES, top / "patches" / "qemu")
    (top / "patches/qemu/series").write_text("")
    for name in ("cpcctl", "guest-agent"):
        (top / name).symlink_to(PATCHES.parents[1] / name)
    source = tmp_path / "source"
    (source / "include/hw/i386").mkdir(parents=True)
    (source / "VERSION").write_text("10.0.0\n")
    (source / "configure").write_text(CONFIGURE)
    (source / "configure").chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ninja").write_text(NINJA)
    (tmp_path / "bin/ninja").chmod(0o755)
    return top / "patches/qemu"


def build(scripts: Path, store: Path) -> str:
    """Run it with that store, up to ninja; what it said."""
    digest = hashlib.sha256((scripts / "wheels.txt").read_bytes()).hexdigest()[:8]
    python = store / "work" / f"qemu-python-{digest}"
    python.mkdir(parents=True, exist_ok=True)
    (python / "ready").write_text(f"{python}\n")
    top = scripts.parents[2]
    done = subprocess.run(
        ["sh", scripts / "build.sh"], capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{top}/bin:{os.environ['PATH']}", "CPC_CACHE": str(store),
             "CPC_QEMU_SOURCE": str(top / "source")},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "as far as this test goes" in done.stderr
    return done.stderr


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_build_folder_of_another_place_is_made_anew(
    scripts: Path, tmp_path: Path, how: str
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    build(scripts, old)
    (old / "work/qemu/build/object").touch()
    assert "another place" not in build(scripts, old)
    assert (old / "work/qemu/build/object").exists()
    if how == "moved":
        old.rename(new)
    else:
        shutil.copytree(old, new)
    assert "the build folder was made in another place; it is made anew" in build(scripts, new)
    assert not (new / "work/qemu/build/object").exists()
    assert f"regenerate {new}/work/qemu/src ." in (new / "work/qemu/build/build.ninja").read_text()
