# SPDX-License-Identifier: Apache-2.0
"""One file on two hosts, and everything that only looks like it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cpcctl.host import locks
from cpcctl.host.files import open_regular
from cpcctl.migrate import sharing
from cpcctl.migrate.sharing import Digests, Holder
from cpcctl.vm.files import Files, open_files
from cpcctl.vm.spec import Disk, VmSpec
from tests import qcow2

TOP = Path(__file__).resolve().parents[2]
SPEC = VmSpec(name="t", memory=1 << 30, machine="pc-q35-10.0")


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    made: list[Holder] = []
    yield made
    for holder in made:
        holder.close()


def hold(holders: list[Holder], spec: VmSpec, *in_use: Path) -> Holder:
    """As a source whose QEMU has these files open."""
    opened = [os.open(path, os.O_RDONLY) for path in in_use]
    with subprocess.Popen(["sleep", "60"], pass_fds=opened) as qemu:
        try:
            holders.append(Holder(spec, "host-a", qemu.pid))
        finally:
            qemu.kill()
            for fd in opened:
                os.close(fd)
    return holders[-1]


def verdict(spec: VmSpec, holder: Holder) -> sharing.Verdict:
    with open_files(spec, open_regular) as files:
        assert files.problems == {}
        return sharing.verify(files, holder.claims.values(), "host-a", Digests())


def raw(path: Path, readonly: bool = False) -> VmSpec:
    return replace(
        SPEC, disks=(Disk(str(path), "raw", cache="writeback", readonly=readonly),)
    )


@pytest.mark.parametrize("readonly", [False, True])
def test_a_shared_disk(tmp_path: Path, holders: list[Holder], readonly: bool) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    before = disk.stat()
    holder = hold(holders, raw(disk, readonly), disk)
    assert all(check.ok for check in holder.checks())
    assert verdict(raw(disk, readonly), holder).unproven == {}
    # Under another name as well, and without a trace in the file.
    os.link(disk, tmp_path / "name")
    holder.claims[str(tmp_path / "name")] = replace(
        holder.claims[str(disk)], path=str(tmp_path / "name")
    )
    assert verdict(raw(tmp_path / "name", readonly), holder).unproven == {}
    after = disk.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    holder.close()
    assert list(verdict(raw(disk, readonly), holder).unproven) == [str(disk)]


def test_a_copy_of_a_disk(tmp_path: Path, holders: list[Holder]) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"equal")
    holder = hold(holders, raw(disk), disk)
    holder.add_digests([str(disk)])
    assert holder.claims[str(disk)].digest == b""  # it changes while it is looked at
    shutil.copy(disk, tmp_path / "copy")
    os.rename(tmp_path / "copy", disk)
    found = verdict(raw(disk), holder)
    assert "is not the file that it is on host-a" in found.unproven[str(disk)]
    assert found.digests == ()
    with open_files(raw(disk), open_regular) as files:
        disks, others = sharing.checks(files, found.unproven, "host-b")
    assert (disks.ok, others.ok) == (False, True)


# Run where mounting is allowed: two file systems, each with one file.
TWINS = """
import os, sys
from pathlib import Path
from tests.pure import test_sharing as t
a, b = (Path(p) for p in sys.argv[1:])
for folder in (a, b):
    folder.mkdir()
    assert os.system(f"mount -t tmpfs cpc-test {folder}") == 0
    (folder / "disk").write_bytes(bytes(4096))
assert (a / "disk").stat().st_ino == (b / "disk").stat().st_ino
holders = []
holder = t.hold(holders, t.raw(a / "disk"), a / "disk")
assert t.verdict(t.raw(a / "disk"), holder).unproven == {}
assert os.system(f"mount --bind {b} {a}") == 0
assert list(t.verdict(t.raw(a / "disk"), holder).unproven) == [str(a / "disk")]
print("told apart")
"""


def test_two_file_systems_with_equal_inode_numbers(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", TWINS,
         str(tmp_path / "a"), str(tmp_path / "b")],
        cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"this user may not make namespaces: {done.stderr.strip()}")
    assert done.stdout == "told apart\n", done.stderr


def test_a_disk_that_was_replaced_under_its_qemu(tmp_path: Path, holders: list[Holder]) -> None:
    """The source's path leads to another file than the guest writes to."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    holder = hold(holders, raw(disk), tmp_path / "old")
    assert holder.problems == {str(disk): "is not the file that QEMU has open: it was replaced"}
    assert holder.claims == {}
    disks = holder.checks()[0]
    assert (disks.name, disks.ok, disks.host) == ("disks", False, "host-a")
    assert verdict(raw(disk), holder).unproven == {str(disk): "host-a says nothing of it"}


def test_what_the_guest_only_reads_may_be_a_copy(
    tmp_path: Path, holders: list[Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        for name in ("kernel", "initrd", "cd"):
            (folder / name).write_bytes(name.encode())
    (folders[1] / "initrd").write_bytes(b"other")
    for folder in folders:
        (folder / "kernel").touch()

    def spec(folder: Path) -> VmSpec:
        return replace(
            raw(folder / "cd", readonly=True),
            kernel=str(folder / "kernel"), initrd=str(folder / "initrd"),
        )  # fmt: skip

    # The second folder takes the first one's place.
    holder = hold(holders, spec(folders[0]), folders[0] / "cd")
    folders[0].rename(tmp_path / "away")
    folders[1].rename(folders[0])
    first = verdict(spec(folders[0]), holder)
    paths = [str(folders[0] / name) for name in ("kernel", "initrd", "cd")]
    assert sorted(first.unproven) == sorted(first.digests) == sorted(paths)
    holder.add_digests(["/etc/shadow", *first.digests])
    assert "/etc/shadow" not in holder.claims
    second = verdict(spec(folders[0]), holder)
    assert list(second.unproven) == [paths[1]]
    assert "another content" in second.unproven[paths[1]]
    assert second.digests == ()
    monkeypatch.setattr(sharing, "DIGEST_MAX", 3)
    assert "too large to compare" in verdict(spec(folders[0]), holder).unproven[paths[0]]


def test_everything_that_an_image_depends_on(tmp_path: Path, holders: list[Holder]) -> None:
    """Its base and its data are other files there, the image itself is shared."""
    names = ("top", "data", "base", "code", "vars")
    paths = {name: tmp_path / name for name in names}
    for name in ("data", "base", "code", "vars"):
        paths[name].write_bytes(name.encode())
    paths["top"].write_bytes(qcow2.header("base", "raw", str(paths["data"])))
    spec = replace(
        SPEC, disks=(Disk(str(paths["top"]), cache="writeback"),),
        uefi_code=str(paths["code"]), uefi_vars=str(paths["vars"]),
    )  # fmt: skip
    holder = hold(holders, spec, *paths.values())
    assert set(holder.claims) == {str(path) for path in paths.values()}
    assert verdict(spec, holder).unproven == {}
    for name in names:
        shutil.copy(paths[name], tmp_path / "copy")
        paths[name].rename(tmp_path / "kept")
        (tmp_path / "copy").rename(paths[name])
        found = verdict(spec, holder)
        assert list(found.unproven) == [str(paths[name])]
        assert bool(found.digests) == (name in ("base", "code"))
        (tmp_path / "kept").rename(paths[name])


def test_another_lock_proves_nothing(tmp_path: Path) -> None:
    """Such as one over the whole file, or QEMU's own."""
    (tmp_path / "f").write_bytes(b"")
    ours = os.open(tmp_path / "f", os.O_RDWR)
    other = os.open(tmp_path / "f", os.O_RDWR)
    byte = locks.random_byte()
    assert not locks.held(ours, byte)
    whole = locks.FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(other, fcntl.F_OFD_SETLK, whole)
    assert not locks.held(ours, byte)
    os.close(other)
    other = os.open(tmp_path / "f", os.O_RDONLY)
    locks.hold(other, byte)
    assert locks.held(ours, byte)
    assert not locks.held(ours, byte + 1)
    assert not locks.held(ours, byte - 1)
    # Whoever claims to share the file names the byte: not one that is locked anyway.
    for taken in (100, 201, 203, locks.FIRST - 1, locks.LAST):
        locks.hold(other, taken)
        assert not locks.held(ours, taken)
    for fd in (ours, other):
        os.close(fd)


def test_a_file_system_without_locks(
    tmp_path: Path, holders: list[Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_fd: int, _byte: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks, "hold", no_locks)
    disk = tmp_path / "disk"
    disk.write_bytes(b"x")
    holder = hold(holders, raw(disk), disk)
    assert holder.problems == {str(disk): "cannot be locked: No locks available"}
    reading = hold(holders, raw(disk, readonly=True), disk)
    assert reading.problems == {}
    assert verdict(raw(disk, readonly=True), reading).digests == (str(disk),)
    reading.add_digests([str(disk)])
    assert verdict(raw(disk, readonly=True), reading).unproven == {}


def test_files_that_cannot_be_opened_are_told(tmp_path: Path) -> None:
    spec = replace(raw(tmp_path / "none"), kernel=str(tmp_path / "kernel"))
    with open_files(spec, open_regular) as files:
        disks, others = sharing.checks(files, {}, "host-b")
    assert "none: No such file" in str(disks.reason)
    assert "kernel: No such file" in str(others.reason)
    assert all(check.ok for check in sharing.checks(Files(), {}, "host-b"))


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.EROFS, "mount the file system of /d for writing, or write readonly: true"),
        (errno.EACCES, "let cpcctl open /d: ls -l /d"),
        (errno.ENOSYS, "use Linux 5.6 or later"),
        (errno.ENOENT, "put every disk on storage that both hosts share"),
    ],
)
def test_each_problem_has_its_remedy(code: int, fix: str) -> None:
    found = Files(problems={"/d": OSError(code, os.strerror(code), "/d")})
    disks, others = sharing.checks(found, {}, "host-b")
    assert str(disks.fix).startswith(fix)
    assert others.ok
