# SPDX-License-Identifier: Apache-2.0
"""Bad input and preflight: the right exit code, the cause, and nothing changed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.twohosts.pair import Pair, finish, until


def test_unknown_vm_and_bad_arguments(pair: Pair) -> None:
    ticket = "cpc1:127.0.0.1:1:" + "A" * 43 + ":" + "A" * 43
    assert "no VM nope" in pair.a.run("migrate", "nope", ticket, expect=2).stderr
    assert "ticket" in pair.a.run("migrate", "nope", "garbage", expect=2).stderr
    for value in ("0", "-1", "nan", "inf", "x"):
        pair.a.run("migrate", "nope", ticket, f"--bandwidth={value}", expect=2)
    pair.b.run("receive", "--listen", "127.0.0.1", expect=2)
    pair.b.run("receive", "--nic", "net0", expect=2)


def test_port_in_use(pair: Pair) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = pair.b.run("receive", "--listen", f"127.0.0.1:{port}", expect=2)
    assert "in use" in done.stderr


def test_nobody_comes(pair: Pair) -> None:
    done = pair.b.run("receive", "--listen", "127.0.0.1:0", "--wait", "0.5", expect=6)
    assert "no source came" in done.stderr


def test_unreachable_and_wrong_ticket(pair: Pair) -> None:
    name = pair.vm()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ticket = f"cpc1:127.0.0.1:{port}:" + "A" * 43 + ":" + "A" * 43
    done = finish(pair.migrate(name, ticket), 4)
    assert "cannot be reached" in done.stderr
    receive, good = pair.receive()
    host, port_text, fingerprint = good.split(":")[1:4]
    done = finish(pair.migrate(name, f"cpc1:{host}:{port_text}:{fingerprint}:" + "A" * 43), 3)
    assert "does not accept" in done.stderr
    done = finish(pair.migrate(name, f"cpc1:{host}:{port_text}:" + "A" * 43 + ":" + "A" * 43), 3)
    assert "another certificate" in done.stderr
    pair.check_one_side(name, "a")
    finish(pair.migrate(name, good), 0)  # the right ticket still works
    finish(receive, 0)


def test_ticket_is_used_up(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    finish(pair.migrate(name, ticket), 0)
    finish(receive, 0)
    other = pair.vm("u")
    finish(pair.migrate(other, ticket), 4)
    pair.check_one_side(other, "a")


def test_name_taken(pair: Pair) -> None:
    name = pair.vm()
    pair.a, pair.b = pair.b, pair.a
    pair.vm(name)
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 3)
    assert "name: a VM t is on" in done.stderr
    receive.terminate()
    finish(receive, 143)
    assert pair.a.vm_state(name) == pair.b.vm_state(name) == "running"


def test_disk_not_shared(pair: Pair, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    name = pair.vm(disks=[{"path": str(disk), "format": "raw", "cache": "writeback"}])
    # The source keeps its open file; under the name there is now another one.
    shutil.copy(disk, tmp_path / "copy")
    receive, ticket = pair.receive()
    job = finish(pair.migrate(name, ticket, "--dry-run"), 0)
    assert "disks" in job.stdout
    disk.unlink()
    done = finish(pair.migrate(name, ticket), 3)
    assert "cannot be looked at" in done.stderr or "disks:" in done.stderr
    receive.terminate()
    finish(receive, 143)


def test_disk_moves_with_the_guest(pair: Pair, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    name = pair.vm(disks=[{"path": str(disk), "format": "raw", "cache": "writeback"}])
    pair.check_next_try(name)


@pytest.mark.parametrize("stop_at", ["", "there-received"])
def test_disks_come_back_after_an_abort(pair: Pair, tmp_path: Path, stop_at: str) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    name = pair.vm(disks=[{"path": str(disk), "format": "raw", "cache": "writeback"}])
    receive, ticket = pair.receive(stop_at=stop_at)
    process = pair.migrate(name, ticket, "--bandwidth", "5")
    if stop_at:
        receive.kill()
    else:
        until(lambda: (pair.a.jobs("migrate") or [{}])[-1].get("phase") == "copy", "phase copy")
        process.send_signal(signal.SIGINT)
    finish(process, None)
    finish(receive, None)
    pair.check_next_try(name) if pair.a.vm_state(name) == "running" else pytest.fail("lost")


def test_network_devices_there(pair: Pair) -> None:
    """A name of --nic that is no card of the VM, and a tap that is not there."""
    name = pair.vm()  # has no card on a tap
    receive, ticket = pair.receive("--nic", "net7=lo")
    done = finish(pair.migrate(name, ticket), 3)
    assert "nics: net7: no network device of VM t on a tap has this name" in done.stderr
    receive.terminate()
    finish(receive, 143)
    pair.check_next_try(name)


def test_no_hvcpu(pair: Pair) -> None:
    name = pair.vm(hvcpus=0)
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 3)
    assert "no hvCPU" in done.stderr
    assert f"cpcctl hvcpu add {name}" in done.stderr
    pair.a.run("hvcpu", "add", name)
    finish(pair.migrate(name, ticket), 0)
    finish(receive, 0)


def test_ring_file_missing(pair: Pair) -> None:
    name = pair.vm()
    (pair.a.folder / "r" / "vms" / name / "ring").unlink()
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 4)
    assert "ring file" in done.stderr
    receive.terminate()
    finish(receive, 143)


def test_dead_qemu(pair: Pair) -> None:
    name = pair.vm()
    os.kill(pair.a.qemu_pid(name), signal.SIGKILL)
    ticket = "cpc1:127.0.0.1:1:" + "A" * 43 + ":" + "A" * 43
    done = finish(pair.migrate(name, ticket), 4)
    assert "does not run" in done.stderr


def test_too_little_memory_there(pair: Pair) -> None:
    """A definition of more than this machine has; the guest itself never uses it."""
    total = int(Path("/proc/meminfo").read_text().split()[1]) >> 10
    size = (total * 9 // 10) // 2 * 2
    done = pair.a.run("vm", "list")
    available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) >> 10
    if available < size + 1024:
        size = (available - 1024) // 2 * 2
    name = pair.vm(memory=f"{size}M")
    hog = bytearray(2 << 30)  # what the destination would need is taken now
    hog[:: 4096] = b"\1" * len(hog[:: 4096])
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 3)
    assert "memory:" in done.stderr
    del hog
    receive.terminate()
    finish(receive, 143)
    pair.check_one_side(name, "a")
