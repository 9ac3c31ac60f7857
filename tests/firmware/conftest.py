# SPDX-License-Identifier: Apache-2.0
"""The firmware of this checkout, compiled once for all tests of it."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).resolve().parents[2] / "guest-agent" / "firmware"


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with the image, the host library and the test programs."""
    base = tmp_path_factory.getbasetemp()
    # Of pytest-xdist each worker has a folder of its own in that of the run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "firmware"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "-s", "-j2", "-C", str(FIRMWARE), "image", "host", f"O={folder}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder
