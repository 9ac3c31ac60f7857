# SPDX-License-Identifier: Apache-2.0
"""Vector loads and rounds of AES, which TCG does with the host's own instructions here, give
what a processor gives. A guest's cipher stands on them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests import program
from tests.snp.boot import OBJECTS, Parts, command
from tests.snp.conftest import Launch

SOURCE = Path(__file__).parent / "vectors_guest.c"


def lines(said: str) -> list[str]:
    """What is between BEGIN and END."""
    told = said.replace("\r", "").splitlines()
    return told[told.index("BEGIN") + 1 : told.index("END")]


# With one vCPU a load need not be atomic, and is another instruction.
@pytest.mark.parametrize("vcpus", [1, 2])
def test_vectors_as_a_processor_has_them(
    parts: Parts, launch: Launch, tmp_path: Path, vcpus: int
) -> None:
    added = program.archive(SOURCE, "vectors")
    here = subprocess.run(
        [added.with_name("tree") / "usr/bin/vectors"], capture_output=True, text=True, check=True
    )
    wanted = lines(here.stdout)
    assert sum(" 1 " in line for line in wanted) > 100, "loads that fault"
    initrd = tmp_path / "initrd"
    initrd.write_bytes(parts.initrd.read_bytes() + added.read_bytes())
    found = replace(parts, initrd=initrd)
    # EPYC-Milan has no 256-bit rounds in its first version.
    guest = launch(command(found, OBJECTS["plain"], vcpus=vcpus, extra=["-cpu", "max"]))
    guest.ready()
    said = guest.run("vectors")
    assert "VAES 1" in said
    assert lines(said) == wanted
