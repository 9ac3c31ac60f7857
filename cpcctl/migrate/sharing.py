# SPDX-License-Identifier: Apache-2.0
"""Proof that both hosts use the same files, or equal ones where the guest only reads.

The source locks one random byte far behind the end of each file. A destination that
opens the same file sees the lock; one that opens a copy does not, whatever the copy's
name, content and inode number are. Where that fails, a file that is only read may be
equal by its digest.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cpcctl.errors import reason, shown
from cpcctl.host import locks
from cpcctl.host.files import open_regular
from cpcctl.migrate.messages import FileClaim
from cpcctl.qemu.images import OpenFile
from cpcctl.ui.check import Check
from cpcctl.vm.files import Files, open_files
from cpcctl.vm.spec import VmSpec

# More would take longer than the other host waits for an answer.
DIGEST_MAX = 1 << 30
CHUNK = 1 << 20


class Holder:
    """The source's half: its files open and locked until close()."""

    def __init__(self, spec: VmSpec, host: str, pid: int) -> None:
        """pid: the VM's QEMU, which must have open what is claimed of it."""
        self.host = host
        self.claims: dict[str, FileClaim] = {}
        self._digests = Digests()
        self._files = open_files(spec, _open_to_lock)
        self.problems = {
            path: str(error) if isinstance(error, ValueError) else reason(error)
            for path, error in self._files.problems.items()
        }
        self._boot = set(self._files.boot) - {spec.uefi_vars, spec.uefi_code}
        self._open = {file.path: file for file in self._files.all() if file.fd >= 0}
        for path, why in self._replaced(pid):
            self.problems[path] = why
        for path, file in self._open.items():
            if path not in self.problems:
                self.claims[path] = self._claim(file)

    def _replaced(self, pid: int) -> list[tuple[str, str]]:
        """Images that are other files than those that QEMU has open, and why."""
        images = [file for path, file in self._open.items() if path not in self._boot]
        try:
            in_use = opened_by(pid) if images else set()
        except OSError as error:
            why = f"whether QEMU has it open cannot be seen: {reason(error)}"
            return [(file.path, why) for file in images]
        why = "is not the file that QEMU has open: it was replaced"
        return [(file.path, why) for file in images if _identity(file.fd) not in in_use]

    def _claim(self, file: OpenFile) -> FileClaim:
        byte = locks.random_byte()
        try:
            locks.hold(file.fd, byte)
        except OSError as error:
            if file.writes:
                self.problems[file.path] = f"cannot be locked: {reason(error)}"
            byte = 0
        return FileClaim(file.path, byte)

    def checks(self) -> list[Check]:
        """What the source can tell alone."""
        return _checks(self.host, self.problems, self._boot, {})

    def add_digests(self, paths: Iterable[str]) -> None:
        """Of files that the guest only reads; others are left out."""
        for path in paths:
            file = self._open.get(path)
            if file is not None and path in self.claims and not file.writes:
                digest = self._digests.of(file.fd)
                self.claims[path] = replace(self.claims[path], digest=digest)

    def close(self) -> None:
        """Let go of the locks. May be called twice."""
        self._files.close()
        self._open.clear()


class Digests:
    """SHA-256 of files, remembered while they do not change."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], bytes] = {}

    def of(self, fd: int) -> bytes:
        """b"" for a file that is too large. Raises OSError."""
        found = os.fstat(fd)
        if found.st_size > DIGEST_MAX:
            return b""
        key = (
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns,
        )  # fmt: skip
        if key not in self._known:
            digest = hashlib.sha256()
            offset = 0
            while data := os.pread(fd, CHUNK, offset):
                digest.update(data)
                offset += len(data)
            self._known[key] = digest.digest()
        return self._known[key]


@dataclass(frozen=True)
class Verdict:
    """unproven: path and why. digests: paths that a digest from the source may prove."""

    unproven: dict[str, str]
    digests: tuple[str, ...]


def verify(
    files: Files, claims: Iterable[FileClaim], source: str, digests: Digests
) -> Verdict:
    """The destination's half: each file that is open here against what the source says."""
    unproven: dict[str, str] = {}
    wanted: list[str] = []
    said = {claim.path: claim for claim in claims}
    for file in files.all():
        if file.fd < 0:
            unproven[file.path] = "was not opened"
            continue
        claim = said.get(file.path)
        try:
            why = _unproven(file, claim, source, digests)
        except OSError as error:
            why = reason(error)
        if why:
            unproven[file.path] = why
            if claim is not None and not claim.digest and not file.writes:
                wanted.append(file.path)
    return Verdict(unproven, tuple(dict.fromkeys(wanted)))


def _unproven(file: OpenFile, claim: FileClaim | None, source: str, digests: Digests) -> str:
    """"" for a file that is proven to be the source's, or equal to it."""
    if claim is None:
        return f"{source} says nothing of it"
    if claim.byte and locks.held(file.fd, claim.byte):
        return ""
    if file.writes:
        return (
            f"is not the file that it is on {source}, whose lock on it is not seen here: "
            "it is not shared, or its mount has no locks"
        )
    ours = digests.of(file.fd) if claim.digest else b""
    if ours and ours == claim.digest:
        return ""
    if ours:
        return f"is not shared with {source} and has another content there"
    return f"is not shared with {source}, and too large to compare"


def checks(files: Files, unproven: Mapping[str, str], host: str) -> list[Check]:
    """What the destination says of files that it cannot use. Pure.

    host: the destination's name
    """
    errors = {path: e for path, e in files.problems.items() if isinstance(e, OSError)}
    found = {**unproven, **{path: reason(error) for path, error in errors.items()}}
    fixes = {path: fix for path, error in errors.items() if (fix := _fix(path, error))}
    return _checks(host, found, set(files.boot), fixes)


def _checks(
    host: str, problems: Mapping[str, str], boot: set[str], fixes: Mapping[str, str]
) -> list[Check]:
    """fixes: by path, where there is a better one than to share the file."""
    disks = {path: why for path, why in problems.items() if path not in boot}
    others = {path: why for path, why in problems.items() if path in boot}

    def check(name: str, found: Mapping[str, str], fix: str) -> Check:
        words = "; ".join(f"{shown(path)}: {why}" for path, why in found.items())
        remedies = dict.fromkeys(fixes.get(path, fix) for path in found)
        return Check.of(host, name, not found, words, "\n".join(remedies))

    return [
        check("disks", disks,
              "put every disk on storage that both hosts share, under the same path"),
        check("files", others, f"put the same file on {host}"),
    ]  # fmt: skip


def _fix(path: str, error: OSError) -> str:
    name = shown(path)
    if error.errno == errno.EROFS:
        return f"mount the file system of {name} for writing, or write readonly: true for the disk"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"let cpcctl open {name}: ls -l {name}"
    if error.errno == errno.ENOSYS:
        return "use Linux 5.6 or later, which has openat2"
    return ""


def _open_to_lock(path: str, writes: bool) -> int:
    fd = open_regular(path, writes)
    if writes or not locks.delegates(fd):
        return fd
    # A client of NFS may keep a lock to itself unless it is one that could write.
    try:
        better = open_regular(path, True)
    except OSError:
        return fd
    os.close(fd)
    return better


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def opened_by(pid: int) -> set[tuple[int, int]]:
    """Device and inode number of everything that a process has open.

    While it does, no other file on this host has the same two. Raises OSError when we
    may not know.
    """
    folder = f"/proc/{pid}/fd"
    found = set()
    for entry in os.listdir(folder):
        try:
            status = os.stat(f"{folder}/{entry}")
        except FileNotFoundError:
            continue
        found.add((status.st_dev, status.st_ino))
    return found
