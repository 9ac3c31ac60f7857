# SPDX-License-Identifier: Apache-2.0
"""Bad input and preflight: the right exit code, the cause, and nothing changed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from cpcctl.demo.console import Console
from tests import qcow2
from tests.patience import patient
from tests.twohosts.pair import IDLE, Host, Pair, finish, until, wait_stopped


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
    name = pair.vm(**IDLE)
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


def test_a_ticket_of_this_host(pair: Pair) -> None:
    """Nothing is suggested that would end the VM that was to be moved."""
    name = pair.vm(**IDLE)
    receive = pair.a.start("receive", "--listen", "127.0.0.1:0")
    assert receive.stdout is not None
    ticket = receive.stdout.readline().strip()
    done = finish(pair.migrate(name, ticket), 3)
    assert "this ticket is from this host" in done.stderr
    assert "try: run `cpcctl receive` on the host where the VM shall go" in done.stderr
    assert "stop" not in done.stderr
    receive.send_signal(signal.SIGINT)
    finish(receive, 130)
    pair.check_one_side(name, "a")


def test_ticket_is_used_up(pair: Pair) -> None:
    name = pair.vm(**IDLE)
    receive, ticket = pair.receive()
    finish(pair.migrate(name, ticket), 0)
    finish(receive, 0)
    other = pair.vm("u", **IDLE)
    finish(pair.migrate(other, ticket), 4)
    pair.check_one_side(other, "a")


def test_name_taken(pair: Pair) -> None:
    name = pair.vm(**IDLE)
    pair.a, pair.b = pair.b, pair.a
    pair.vm(name, **IDLE)
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 3)
    assert "name: a VM t is on" in done.stderr
    receive.terminate()
    finish(receive, 143)
    assert pair.a.vm_state(name) == pair.b.vm_state(name) == "running"


def raw(path: Path, size: int = 1 << 20) -> dict[str, Any]:
    """A disk on a fresh file of random bytes."""
    path.write_bytes(os.urandom(size))
    return {"path": str(path), "format": "raw", "cache": "writeback"}


def test_disk_not_shared(pair: Pair, tmp_path: Path) -> None:
    """Under the disk's name is an equal file on b, with everything as on a but the lock."""
    disk = tmp_path / "disk.raw"
    name = pair.vm(disks=[raw(disk)], **IDLE)
    shutil.copy2(disk, tmp_path / "copy")
    pair.b.inside = [
        "unshare", "--mount", "sh", "-c", f'mount --bind {tmp_path}/copy {disk} && exec "$@"', "sh",
    ]  # fmt: skip
    receive, ticket = pair.receive()
    words = f"{disk}: is not the file that it is on host-a"
    shown = finish(pair.migrate(name, ticket, "--dry-run"), 3).stdout
    assert words in " ".join(shown.split())
    assert f"disks: {words}" in finish(pair.migrate(name, ticket), 3).stderr
    receive.terminate()
    finish(receive, 143)
    pair.b.inside = []
    pair.check_one_side(name, "a")
    # It was that which was wrong, and on a as well nothing but the file itself will do.
    os.rename(disk, tmp_path / "kept")
    shutil.copy2(tmp_path / "kept", disk)
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 3)
    assert f"disks: {disk}: is not the file that QEMU has open" in done.stderr
    os.rename(tmp_path / "kept", disk)
    finish(pair.migrate(name, ticket), 0)
    finish(receive, 0)
    pair.check_one_side(name, "b")


@pytest.mark.parametrize("same", [True, False])
def test_what_is_only_read_may_be_a_copy(pair: Pair, tmp_path: Path, same: bool) -> None:
    kernel = tmp_path / "kernel"
    shutil.copy(pair.built.vmlinuz, kernel)
    shutil.copy(kernel, tmp_path / "copy")
    if not same:
        with (tmp_path / "copy").open("ab") as file:
            file.write(b"x")
    name = pair.vm(kernel=str(kernel))
    pair.b.inside = [
        "unshare", "--mount", "sh", "-c", f'mount --bind {tmp_path}/copy {kernel} && exec "$@"',
        "sh",
    ]  # fmt: skip
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket, "--dry-run"), 0 if same else 3)
    if not same:
        words = " ".join(done.stdout.split())  # the table breaks lines
        assert "is not shared with host-a and has another content there" in words
    receive.terminate()
    finish(receive, 143)
    pair.b.inside = []
    pair.check_one_side(name, "a")


def written(shell: Console) -> str:
    """Digest of the disk's 256 KiB after the guest has filled them anew."""
    shell.run("dd if=/dev/urandom of=/dev/vda bs=64k count=4 conv=fsync")
    return on_disk(shell)


def on_disk(shell: Console) -> str:
    """The same of what the disk has now, not of what the guest remembers."""
    shell.run("echo 3 > /proc/sys/vm/drop_caches")
    # The shell's echo of the command is in it as well.
    said = shell.run("dd if=/dev/vda bs=64k count=4 2> /dev/null | md5sum")
    (digest,) = re.findall(r"\b[0-9a-f]{32}\b", said)
    return str(digest)


def console(host: Host, name: str) -> Console:
    """The guest's shell."""
    return Console(host.folder / "r" / "vms" / name / "console.sock")


def test_disk_moves_with_the_guest(pair: Pair, tmp_path: Path) -> None:
    """An image on a base: what the guest writes on one host it reads on the other."""
    base = tmp_path / "base.raw"
    raw(base)
    before = base.read_bytes()
    qcow2.create(pair.built, tmp_path / "disk.qcow2", 1 << 20, "base.raw", "raw")
    name = pair.vm(disks=[{"path": str(tmp_path / "disk.qcow2"), "cache": "writeback"}])
    log = pair.a.folder / "s" / "vms" / name / "console.log"
    with console(pair.a, name) as shell:
        shell.wait_ready(log, patient(90))
        assert on_disk(shell) == hashlib.md5(before[: 256 << 10]).hexdigest()
        wrote = written(shell)
    for _ in range(2):
        pair.check_next_try(name)
        pair.a, pair.b = pair.b, pair.a
        with console(pair.a, name) as shell:
            assert on_disk(shell) == wrote
            wrote = written(shell)
    assert base.read_bytes() == before


@pytest.mark.parametrize(("stop_at", "code"), [("", 130), ("after recv", 1)])
def test_disks_come_back_after_an_abort(
    pair: Pair, tmp_path: Path, stop_at: str, code: int
) -> None:
    name = pair.vm(disks=[raw(tmp_path / "disk.raw")])
    log = pair.a.folder / "s" / "vms" / name / "console.log"
    with console(pair.a, name) as shell:
        shell.wait_ready(log, patient(90))
        wrote = written(shell)
    receive, ticket = pair.receive(stop_at=stop_at)
    process = pair.migrate(name, ticket, "--bandwidth", "5")
    if stop_at:
        wait_stopped(receive.pid)
        receive.kill()
    else:
        until(lambda: (pair.a.jobs("migrate") or [{}])[-1].get("phase") == "copy", "phase copy")
        process.send_signal(signal.SIGINT)
    finish(process, code)
    finish(receive, -signal.SIGKILL if stop_at else 1)
    assert pair.a.vm_state(name) == "running"
    with console(pair.a, name) as shell:
        assert on_disk(shell) == wrote
        wrote = written(shell)
    pair.check_next_try(name)
    with console(pair.b, name) as shell:
        assert on_disk(shell) == wrote


def test_network_devices_there(pair: Pair) -> None:
    """A name of --nic that is no card of the VM, and a tap that is not there."""
    name = pair.vm(**IDLE)  # has no card on a tap
    receive, ticket = pair.receive("--nic", "net7=lo")
    done = finish(pair.migrate(name, ticket), 3)
    assert (
        "nics: net7: no network device of VM t on a tap or a user network has this name; "
        "it has none"
    ) in done.stderr
    receive.terminate()
    finish(receive, 143)
    pair.check_next_try(name)


def test_no_hvcpu(pair: Pair) -> None:
    name = pair.vm(hvcpus=0, **IDLE)
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 3)
    assert "no hvCPU" in done.stderr
    assert f"cpcctl hvcpu add {name}" in done.stderr
    pair.a.run("hvcpu", "add", name)
    finish(pair.migrate(name, ticket), 0)
    finish(receive, 0)


def test_ring_file_missing(pair: Pair) -> None:
    name = pair.vm(**IDLE)
    (pair.a.folder / "r" / "vms" / name / "ring").unlink()
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 4)
    assert "ring file" in done.stderr
    receive.terminate()
    finish(receive, 143)


def test_dead_qemu(pair: Pair) -> None:
    name = pair.vm(**IDLE)
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
    name = pair.vm(memory=f"{size}M", **IDLE)
    hog = bytearray(2 << 30)  # what the destination would need is taken now
    hog[:: 4096] = b"\1" * len(hog[:: 4096])
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 3)
    assert "memory:" in done.stderr
    del hog
    receive.terminate()
    finish(receive, 143)
    pair.check_one_side(name, "a")
