# SPDX-License-Identifier: Apache-2.0
"""Folders, atomic writes, locks and process identity."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cpcctl.errors import CpcError
from cpcctl.host.atomic import write_atomic
from cpcctl.host.folders import make_folder
from cpcctl.host.process import ProcessId, spawn
from cpcctl.host.state import Folders, VmLock, check_name, disk_error


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """An empty host."""
    return Folders(tmp_path / "s", tmp_path / "r")


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", ".hidden", "a" * 49, "a\n", "ä", "a,b"])
def test_names_that_are_no_names(name: str) -> None:
    with pytest.raises(CpcError) as caught:
        check_name(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["a", "web-1", "A.b_c", "0"])
def test_names(name: str) -> None:
    assert check_name(name) == name


def test_a_run_folder_too_long_for_sockets_is_named(tmp_path: Path) -> None:
    with pytest.raises(CpcError) as caught:
        Folders(tmp_path, tmp_path / ("x" * 100)).vm("a")
    assert caught.value.hint == "set CPCCTL_RUN_DIR to a shorter path"


def test_vms_are_known_by_their_folders(folders: Folders) -> None:
    assert folders.vm_names() == []
    for name in ("b", "a"):
        make_folder(folders.vm(name).state)
        folders.vm(name).definition.write_text("")
    make_folder(folders.vm("only-logs").state)
    make_folder(folders.state / "vms" / ".junk")
    (folders.state / "vms" / ".junk" / "vm.yaml").write_text("")
    assert folders.vm_names() == ["a", "b"]


def test_folders_are_private(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CpcError) as caught:
        make_folder(tmp_path / "file" / "x")
    assert caught.value.exit_code == 2


def test_an_atomic_write_that_fails_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_disk_errors() -> None:
    full = disk_error(Path("/s/f"), OSError(errno.ENOSPC, "No space left on device"))
    assert full.render() == (
        "error: no space left to write /s/f\n"
        "  cause: No space left on device\n"
        "  try: df -h /s\n"
        "  try: df -i /s"
    )
    assert disk_error(Path("/s/f"), OSError(errno.EROFS, "no")).hint == "findmnt -T /s"
    assert disk_error(Path("/s/f"), OSError(errno.EACCES, "no")).hint == "ls -ld /s"


def test_a_locked_vm_is_busy_and_says_why(folders: Folders) -> None:
    with VmLock.take(folders, "a", "migrate"):
        with pytest.raises(CpcError) as caught:
            VmLock.take(folders, "a", "vm stop")
        assert caught.value.exit_code == 75
        assert caught.value.cause == f"migrate (process {os.getpid()})"
        VmLock.take(folders, "b", "vm stop").release()
    VmLock.take(folders, "a", "vm stop").release()


def test_a_lock_dies_with_its_holder(folders: Folders) -> None:
    code = (
        "import sys; from pathlib import Path; from cpcctl.host.state import *\n"
        "lock = VmLock.take(Folders(Path(sys.argv[1]), Path(sys.argv[2])), 'a', 'x')\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(folders.state), str(folders.run)]
    top = Path(__file__).parents[2]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=top
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(CpcError):
            VmLock.take(folders, "a", "y")
        child.kill()
        child.wait()
    VmLock.take(folders, "a", "y").release()


def test_a_removed_lock_file_locks_the_next_holder_too(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = VmLock.take(folders, "a", "x")
    before = fcntl.flock
    calls: list[int] = []

    def late(fd: int, how: int) -> None:
        # The holder removes the file after it was opened and before it is locked.
        if not calls:
            first.remove()
        calls.append(fd)
        before(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with VmLock.take(folders, "a", "y") as second:
        assert len(calls) == 2
        assert second.path.exists()
        with pytest.raises(CpcError):
            VmLock.take(folders, "a", "z")
    second.remove()
    assert os.listdir(second.path.parent) == []


def test_a_lock_handed_to_a_child_stays(folders: Folders) -> None:
    lock = VmLock.take(folders, "a", "x")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),)) as child:
        lock.release()
        with pytest.raises(CpcError):
            VmLock.take(folders, "a", "y")
        child.kill()
    VmLock.take(folders, "a", "y").release()


def test_a_process_is_itself_only_with_its_start_time() -> None:
    me = ProcessId.myself()
    assert me.alive
    assert not ProcessId(me.pid, me.started + 1).alive
    assert ProcessId.of(2**22 + 1) is None


def test_a_zombie_is_not_alive_and_others_are_never_signalled(tmp_path: Path) -> None:
    child = spawn(["sleep", "60"], tmp_path / "log")
    found = ProcessId.of(child.pid)
    assert found is not None
    ProcessId(found.pid, found.started + 1).signal(signal.SIGKILL)
    assert found.alive
    assert not found.wait_gone(0.05)
    found.signal(signal.SIGKILL)
    assert found.wait_gone(5)
    child.wait()
    found.signal(signal.SIGKILL)


def test_a_name_with_brackets_does_not_confuse(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 2"
    odd.symlink_to("/bin/sleep")
    child = spawn([str(odd), "60"], tmp_path / "log")
    found = ProcessId.of(child.pid)
    assert found is not None
    assert found.alive
    child.kill()
    child.wait()


def test_output_of_a_spawned_process_is_kept(tmp_path: Path) -> None:
    child = spawn(["sh", "-c", "echo out; echo err >&2"], tmp_path / "log")
    child.wait()
    assert (tmp_path / "log").read_text() == "out\nerr\n"
