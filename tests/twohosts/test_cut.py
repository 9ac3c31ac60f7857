# SPDX-License-Identifier: Apache-2.0
"""The cable between two hosts in namespaces is pulled; a tap that is not there."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cpcctl.demo.hosts import Host, World, kill
from cpcctl.demo.scene import call
from tests.patience import patient
from tests.twohosts.pair import finish, job_files, moves_bytes, until

Built = Any  # conftest.Built
GRACE, PEER = f"{patient(4):g}", f"{patient(2):g}"


def begin(host: Host, *argv: str) -> subprocess.Popen[str]:
    """Start a command there."""
    return host.popen(
        [sys.executable, "-m", "cpcctl", *argv, "--progress", "none"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@contextlib.contextmanager
def receiving(host: Host, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`receive` on a host, and its ticket; ended at the end if it still runs."""
    process = begin(
        host, "receive", "--listen", f"{host.address}:0", "--grace", GRACE,
        "--peer-timeout", PEER, *(more or ("--nic", "net0=tap0")),
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        if process.poll() is None:
            kill(process, signal.SIGTERM)
            process.communicate(timeout=patient(60))


def state(host: Host) -> str:
    """The guest's state there, or "absent"."""
    found = call(host, "vm", "list")
    return str(found[0]["state"]) if found else "absent"


@pytest.fixture
def guest(built: Built, world: World) -> str:
    """A small guest on host-a with its card on tap0."""
    path = world.folder / "t.json"
    document = {
        "name": "t", "memory": "128M", "kernel": str(built.vmlinuz),
        "initrd": str(built.tiny_initrd), "append": "console=ttyS0 quiet",
        "nics": [{"mode": "tap", "tap": "tap0"}],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    call(world.a, "vm", "start", str(path))
    return "t"


def migrate(world: World, name: str, ticket: str, *more: str) -> subprocess.Popen[str]:
    """Start `migrate` on host-a."""
    return begin(world.a, "migrate", name, ticket, "--peer-timeout", PEER, *more)


def copied(world: World) -> bool:
    """The newest migration of host-a moves bytes; asking cpcctl would take too long."""
    return moves_bytes(job_files(world.a.folder / "state", "migrate"))


def test_cut_longer_than_the_timeout(world: World, guest: str) -> None:
    with receiving(world.b) as (receive, ticket):
        process = migrate(world, guest, ticket, "--bandwidth", "5")
        until(lambda: copied(world), "bytes to move")
        world.cut("host-b")
        done = finish(process, 1)
        assert "cannot be reached any more" in done.stderr
        assert "runs on host-a" in done.stderr
        # Still cut: the receiver ends by itself and leaves nothing.
        ended = finish(receive, 1, patient(30))
        assert f"the source did not come back within {GRACE} s" in ended.stderr
    assert (state(world.a), state(world.b)) == ("running", "absent")
    world.cut("host-b", broken=False)
    with receiving(world.b) as (receive, ticket):
        finish(migrate(world, guest, ticket), 0)
        finish(receive, 0)
    assert (state(world.a), state(world.b)) == ("absent", "running")


def test_tap_that_is_not_there(world: World, guest: str) -> None:
    with receiving(world.b, "--nic", "net0=tap99") as (_, ticket):
        done = finish(migrate(world, guest, ticket), 3)
        assert "nics: tap99: there is no such network device" in done.stderr
    assert (state(world.a), state(world.b)) == ("running", "absent")
    with receiving(world.b, "--nic", "net0=tap1") as (receive, ticket):
        finish(migrate(world, guest, ticket), 0)
        finish(receive, 0)
    assert (state(world.a), state(world.b)) == ("absent", "running")
