# SPDX-License-Identifier: Apache-2.0
"""The firmware in the store: built once for all checkouts with the same sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cpcctl.setup import store

TOP = Path(__file__).resolve().parents[2]


def checkout(folder: Path) -> Path:
    """A copy of what the firmware is built from and by, with times of now."""
    for part in ("guest-agent", "cpcctl/setup"):
        shutil.copytree(TOP / part, folder / part, copy_function=shutil.copy)
    shutil.copy(TOP / "cpcctl" / "__init__.py", folder / "cpcctl")
    return folder


def empty_store(folder: Path) -> Path:
    """With nothing but the libraries' sources, which are fetched otherwise."""
    cache, libraries = folder / "cache", store.root() / "third-party"
    libraries.mkdir(parents=True, exist_ok=True)
    cache.mkdir()
    (cache / "third-party").symlink_to(libraries)
    return cache


def build(folder: Path, cache: Path) -> str:
    """Run the set-up step in a checkout; what it said."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cpcctl.setup.firmware"],
        cwd=folder,
        env=os.environ | {"CPC_CACHE": str(cache), "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_another_checkout_does_not_need_the_one_that_built_it(tmp_path: Path) -> None:
    """It may be gone, and nothing in the store may name it."""
    cache = empty_store(tmp_path)
    first = checkout(tmp_path / "first")
    assert "firmware: built " in build(first, cache)
    image = (cache / "current" / "firmware" / "cpc-firmware.bin").read_bytes()
    shutil.rmtree(first)
    assert build(checkout(tmp_path / "second"), cache) == ""
    for path in (cache / "current" / "firmware").iterdir():
        assert str(first).encode() not in path.read_bytes()
    assert (cache / "current" / "firmware" / "cpc-firmware.bin").read_bytes() == image


@pytest.mark.slow
def test_a_failed_build_leaves_no_result(tmp_path: Path) -> None:
    """A source that does not compile: an error, and no folder under the final name."""
    cache = empty_store(tmp_path)
    broken = checkout(tmp_path / "broken")
    (broken / "guest-agent/firmware/core/version.h").write_text("#error broken\n")
    with pytest.raises(AssertionError, match="the firmware cannot be built"):
        build(broken, cache)
    assert not (cache / "current" / "firmware").exists()
    assert [path.suffix for path in cache.glob("firmware-*")] in ([], [".part"])
