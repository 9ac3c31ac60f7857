# SPDX-License-Identifier: Apache-2.0
"""What a QEMU that a guest has taken over can get at: nothing of another VM, nor of the host."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpcctl.config.settings import Settings
from cpcctl.host.state import Folders
from cpcctl.qemu import sandbox
from cpcctl.vm import lifecycle
from cpcctl.vm.spec import VmSpec, read
from tests import confined
from tests.one_host import Cli, command_line
from tests.patience import patient

pytestmark = pytest.mark.skipif(
    sandbox.of("any").user is None, reason="only root gives each QEMU a user of its own"
)
OPENS = """
import sys
for path in sys.argv[1:]:
    for mode in ("rb", "r+b"):
        try:
            open(path, mode).close()
            print(path)
        except PermissionError:
            pass
"""


@pytest.fixture
def define(built: Any, tmp_path: Path) -> Callable[[str], VmSpec]:
    """A small VM with a disk that only root may read."""

    def make(name: str) -> VmSpec:
        disk = tmp_path / f"{name}.raw"
        disk.write_bytes(bytes(1 << 20))
        disk.chmod(0o600)
        return read(
            {
                "name": name, "memory": "128M", "ring_size": "2M", "kernel": str(built.vmlinuz),
                "initrd": str(built.tiny_initrd), "append": "console=ttyS0 quiet",
                "disks": [{"path": str(disk), "format": "raw", "cache": "writeback"}],
            },
            name,
        )  # fmt: skip

    return make


def test_two_vms_are_two_users_that_can_open_no_file(
    place: Settings, define: Callable[[str], VmSpec], tmp_path: Path
) -> None:
    vms = [lifecycle.start(place, define(name)) for name in ("a", "b")]
    users = [confined.user(vm.process.pid) for vm in vms]
    assert len(set(users)) == 2
    for vm in vms:
        confined.check(vm.process.pid)
    files = [str(tmp_path / f"{name}.raw") for name in ("a", "b")]
    for name in ("a", "b"):
        paths = Folders.of(place).vm(name)
        files += [str(path) for folder in (paths.state, paths.run) for path in folder.iterdir()]
    for path in files:
        assert os.path.exists(path)
    for user in users:
        opened = subprocess.run(
            ["/usr/bin/python3", "-c", OPENS, *files],
            user=user, group=user, extra_groups=[], capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert opened.stdout == ""
        # Nor can one end the other.
        other = vms[1 - users.index(user)].process.pid
        ended = subprocess.run(
            ["/usr/bin/python3", "-c", f"import os; os.kill({other}, 9)"],
            user=user, group=user, extra_groups=[], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "PermissionError" in ended.stderr


def test_what_has_to_be_opened_later(
    place: Settings, define: Callable[[str], VmSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    """Disks given up and taken back, memory and CPUs that are plugged in, the network's names."""
    cli: Cli = command_line(capsys)
    vm = lifecycle.start(place, define("a"))
    with vm.qmp(job=True) as qmp:
        qmp.execute("stop")
        for active in (False, True):
            qmp.execute("blockdev-set-active", active=active)
        qmp.execute("cont")
    with vm.qmp() as qmp:
        qmp.execute_raw(
            "object-add",
            {"qom-type": "memory-backend-memfd", "id": "more", "size": 1 << 21, "share": True},
        )
    assert cli("hvcpu", "ping", "a")[0] == 0


def test_nothing_is_left_to_say_at_its_end(
    place: Settings, define: Callable[[str], VmSpec]
) -> None:
    vm = lifecycle.start(place, define("a"))
    with vm.qmp() as qmp:
        qmp.execute("quit")
    assert vm.process.wait_gone(patient(10.0))
    assert "socket" not in vm.paths.log.read_text()


@pytest.mark.parametrize("log", ["log", "console_log"])
def test_logs_stay_below_their_size(
    place: Settings, define: Callable[[str], VmSpec], log: str
) -> None:
    """Whoever appends: QEMU looks at the file, and leaves the later half of it."""
    path: Path = getattr(lifecycle.start(place, define("a")).paths, log)
    with path.open("ab") as writer:
        writer.write(b"early\n" + b"x" * 63 + b"\n" + (b"y" * 63 + b"\n") * (5 << 14) + b"late\n")
    assert path.stat().st_size > 4 << 20
    deadline = time.monotonic() + patient(10.0)
    while path.stat().st_size > 2 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept = path.read_bytes()
    assert b"late\n" in kept
    assert b"early" not in kept
    assert len(kept) > 1 << 20
