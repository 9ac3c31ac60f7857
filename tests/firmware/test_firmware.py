# SPDX-License-Identifier: Apache-2.0
"""The firmware's unit tests: one program a subject, run without any VM.

Every program ends at the first check that does not hold and names it; it is
the named test inside, which the failure message shows.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRMWARE = ROOT / "guest-agent" / "firmware"
PROGRAMS = sorted(path.stem for path in (FIRMWARE / "tests").glob("test_*.c"))
# Whole migrations, which the model of an SEV-SNP machine has to pass as well.
BOTH = ("test_migrate", "test_calls", "test_session", "test_handover", "test_wire", "test_live")
SECONDS = 120


def test_there_are_programs() -> None:
    """A glob that finds nothing must not look like success."""
    assert {"test_migrate", "test_wire", "test_handover", "test_fuzz"} <= set(PROGRAMS)


@pytest.mark.parametrize(
    ("program", "platform"),
    [(program, "plain") for program in PROGRAMS] + [(program, "sev-snp") for program in BOTH],
)
def test_program(out: Path, program: str, platform: str) -> None:
    """Every check in the program holds."""
    done = subprocess.run(
        [str(out / program)],
        env=os.environ | {"CPC_TEST_PLATFORM": platform},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") > 0
