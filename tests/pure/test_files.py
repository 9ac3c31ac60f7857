# SPDX-License-Identifier: Apache-2.0
"""A definition's files are opened as the definition uses them, and no other way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cpcctl.errors import CpcError
from cpcctl.host.files import open_regular
from cpcctl.migrate import sharing
from cpcctl.qemu.images import BadImage
from cpcctl.vm import files
from cpcctl.vm.files import open_files
from cpcctl.vm.spec import Disk, VmSpec
from tests import qcow2

TOP = Path(__file__).resolve().parents[2]
SPEC = VmSpec(name="t", memory=1 << 30, machine="pc-q35-10.0")

# Run where mounting is allowed.
READ_ONLY = """
import os, sys
from dataclasses import replace
from cpcctl.host.files import open_regular
from cpcctl.vm.files import open_files
from tests.pure.test_files import SPEC, Disk
folder, = sys.argv[1:]
assert os.system(f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}") == 0
for readonly in (True, False):
    disk = Disk(f"{folder}/disk", "raw", "writeback", readonly)
    spec = replace(SPEC, kernel=f"{folder}/disk", disks=(disk,))
    with open_files(spec, open_regular) as found:
        print(readonly, {path: error.strerror for path, error in found.problems.items()})
"""


def test_a_disk_that_is_only_read_on_a_mount_that_is(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", READ_ONLY,
         str(tmp_path)],
        cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"this user may not make namespaces: {done.stderr.strip()}")
    path = str(tmp_path / "disk")
    assert done.stdout == f"True {{}}\nFalse {{'{path}': 'Read-only file system'}}\n", done.stderr


def test_modes(tmp_path: Path) -> None:
    for name in ("kernel", "code", "vars", "base", "cd"):
        (tmp_path / name).write_bytes(b"")
    qcow2.write(tmp_path / "top", "base", "raw")
    opened: dict[str, bool] = {}

    def opens(path: str, writes: bool) -> int:
        opened[Path(path).name] = writes
        return open_regular(path, writes)

    spec = replace(
        SPEC, uefi_code=str(tmp_path / "code"), uefi_vars=str(tmp_path / "vars"),
        kernel=str(tmp_path / "kernel"),
        disks=(
            Disk(str(tmp_path / "top"), cache="writeback"),
            Disk(str(tmp_path / "cd"), "raw", "writeback", readonly=True),
        ),
    )  # fmt: skip
    with open_files(spec, opens) as found:
        assert found.problems == {}
        modes = {
            Path(file.path).name: os.get_inheritable(file.fd) for file in found.all()
        }
    assert opened == {
        "kernel": False, "code": False, "vars": True, "top": True, "base": False, "cd": False,
    }
    assert not any(modes.values())
    assert found.fds == []


def test_a_file_system_that_cannot_do_without_the_page_cache() -> None:
    """What /proc has are plain files of that kind."""
    disk = Disk("/proc/version", "raw", "none", readonly=True)
    with open_files(replace(SPEC, disks=(disk,)), open_regular) as found:
        (error,) = found.problems.values()
        assert isinstance(error, BadImage)
        with pytest.raises(CpcError, match="cannot do without the page cache") as caught:
            files.refuse("host-a", SPEC, found, found.problems)
    assert "cache: writeback" in str(caught.value.hint)
    with open_files(replace(SPEC, disks=(replace(disk, cache="writeback"),)), open_regular) as ok:
        assert ok.problems == {}


def test_a_failure_in_the_middle_of_a_chain_leaves_nothing_open(tmp_path: Path) -> None:
    qcow2.write(tmp_path / "top", "none", "raw")
    spec = replace(SPEC, disks=(Disk(str(tmp_path / "top"), cache="writeback"),))
    before = len(os.listdir("/proc/self/fd"))
    with open_files(spec, open_regular) as found:
        (error,) = found.problems.values()
        assert isinstance(error, OSError)
        assert error.errno == errno.ENOENT
        assert list(found.problems) == [str(tmp_path / "none")]
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(CpcError, match="which cannot be opened") as caught:
        files.refuse("host-a", spec, found, found.problems)
    assert caught.value.exit_code == 3


def test_no_problem_hides_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One disk is not there, of another the header cannot be read."""
    qcow2.write(tmp_path / "bad")

    def read(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("cpcctl.qemu.images.qcow2.read", read)
    disks = tuple(Disk(str(tmp_path / name), cache="writeback") for name in ("none", "bad"))
    with open_files(replace(SPEC, disks=disks), open_regular) as found:
        assert {Path(path).name: str(error) for path, error in found.problems.items()} == {
            "none": f"[Errno 2] No such file or directory: '{tmp_path}/none'",
            "bad": "[Errno 5] Input/output error",
        }
        # What is not open is never taken for proven.
        assert set(sharing.verify(found, [], "host-a", sharing.Digests()).unproven) == {
            disk.path for disk in disks
        }
