# SPDX-License-Identifier: Apache-2.0
"""A test that hangs with processes and files of its own; test_leaving.py runs it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from cpcctl.demo.local import LocalPlace


def test_that_hangs() -> None:
    """Says what it has made in the named FIFO, then waits for nothing."""
    place = LocalPlace(Path("/"), {})
    place.a.popen(["setsid", "--fork", "sleep", "1000"]).wait()
    subprocess.run(["setsid", "--fork", "sleep", "1000"], check=True)
    mine = Path(tempfile.mkdtemp())
    words = f"{os.environ['CPC_TEST_RUN']} {place.folder} {mine}"
    Path(os.environ["CPC_TEST_LEAVING"]).write_text(words)
    os.read(os.pipe()[0], 1)
