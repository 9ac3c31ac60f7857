# SPDX-License-Identifier: Apache-2.0
"""The state folder is full: refused before anything starts, or the job still ends in words."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.twohosts.pair import Pair, finish, until


@pytest.fixture
def small(pair: Pair) -> Iterator[Path]:
    """The state folder of a, on a file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    pair.a.state.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "cpc-test", str(pair.a.state)]
    subprocess.run(mount, check=True)
    yield pair.a.state
    subprocess.run(["umount", "--lazy", str(pair.a.state)], check=True)


def fill(folder: Path) -> Path:
    """Use every free byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return filler


def test_full_before(pair: Pair, small: Path) -> None:
    name = pair.vm()
    filler = fill(small)
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 3)
    assert "no space left" in done.stderr
    filler.unlink()
    pair.check_one_side(name, "a")
    finish(pair.migrate(name, ticket), 0)
    finish(receive, 0)


def test_full_in_between(pair: Pair, small: Path) -> None:
    """The job's reserve carries last outputs, and the guest is in one place."""
    name = pair.vm()
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, "--bandwidth", "20")
    until(pair.copying, "bytes to move")
    filler = fill(small)
    done = finish(process, 0)
    assert "downtime" in done.stdout
    finish(receive, 0)
    ended = pair.a.jobs("migrate")[-1]
    assert (ended["state"], ended["exit_code"]) == ("done", 0)
    assert ended["result"]["vm"] == name
    filler.unlink()
    pair.check_one_side(name, "b")
