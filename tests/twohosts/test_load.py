# SPDX-License-Identifier: Apache-2.0
"""A disk at work through the switchover; test_demo.py has the network."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cpcctl.demo.console import Console
from tests.patience import patient
from tests.twohosts.pair import Pair, finish


def make_disk(path: Path) -> None:
    """An empty ext4 file system of 96 MiB."""
    with path.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-F", str(path)], check=True)


def test_disk_under_load(pair: Pair) -> None:
    """In-flight writes survive two switchovers; the file system is clean."""
    disk = pair.folder / "disk.img"
    make_disk(disk)
    name = pair.vm(
        vcpus=2,
        memory="384M",
        initrd=str(pair.built.guest_initrd),
        append="console=ttyS0 quiet cpc.job=disk",
        disks=[{"path": str(disk), "format": "raw"}],
    )
    shell = Console(pair.a.folder / "r" / "vms" / name / "console.sock")
    shell.wait_ready(pair.a.folder / "s" / "vms" / name / "console.log", patient(90))
    shell.run("until [ -s /run/cpc/disk.count ]; do usleep 100000; done")
    shell.close()
    for _ in range(2):
        receive, ticket = pair.receive()
        finish(pair.migrate(name, ticket), 0)
        finish(receive, 0)
        pair.a, pair.b = pair.b, pair.a
    with Console(pair.a.folder / "r" / "vms" / name / "console.sock") as there:
        before = int(there.run("cat /run/cpc/disk.count"))
        there.run(f"until [ $(cat /run/cpc/disk.count) -gt {before} ]; do usleep 100000; done")
        assert "CPC-DISK ok" in there.run("cpc-job diskcheck")
    pair.a.run("vm", "stop", "--force", name)
    check = subprocess.run(
        ["/sbin/e2fsck", "-f", "-n", str(disk)], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout
