# SPDX-License-Identifier: Apache-2.0
"""Every file that a VM's definition makes a host open, and what those depend on, open."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.qemu.images import BadImage, Image, OpenFile, open_image
from cpcctl.vm import ready
from cpcctl.vm.spec import VmSpec

# Path, and whether it is written: a descriptor. Raises OSError.
Opens = Callable[[str, bool], int]


@dataclass
class Files:
    """boot: kernel, initrd and firmware, by path. images: those of the disks, in their order.

    problems: by path what could not be opened (OSError) or is not understood (BadImage).
    fds: all that is open; close() closes them.
    """

    boot: dict[str, OpenFile] = field(default_factory=dict)
    images: list[Image] = field(default_factory=list)
    problems: dict[str, OSError | BadImage] = field(default_factory=dict)
    fds: list[int] = field(default_factory=list)

    def all(self) -> list[OpenFile]:
        """Each file once for each place that it is used in."""
        return [*self.boot.values(), *(file for image in self.images for file in image.files())]

    def close(self) -> None:
        """May be called twice."""
        while self.fds:
            os.close(self.fds.pop())

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unopened(spec: VmSpec) -> Files:
    """The files that a definition names, none of them looked at. Pure."""
    return Files(
        {path: OpenFile(path, path == spec.uefi_vars) for path in spec.named_files},
        [Image(OpenFile(disk.path, not disk.readonly), disk.format) for disk in spec.disks],
    )


def open_files(spec: VmSpec, opens: Opens) -> Files:
    """Open all, each as the definition uses it. Raises nothing: see Files.problems."""
    files = unopened(spec)

    def opener(path: str, writes: bool) -> OpenFile:
        try:
            fd = opens(path, writes)
        except OSError as error:
            files.problems.setdefault(path, error)
            raise
        files.fds.append(fd)
        return OpenFile(path, writes, fd)

    for path, file in files.boot.items():
        try:
            files.boot[path] = opener(path, file.writes)
        except OSError:
            continue
    for index, disk in enumerate(spec.disks):
        try:
            image = open_image(disk.path, disk.format, not disk.readonly, opener)
            for file in image.files() if disk.cache == "none" else ():
                _check_direct(file)
            files.images[index] = image
        except BadImage as error:
            files.problems[error.path] = error
        except OSError as error:
            # The opener has noted its own; of the others it is the image that is concerned.
            if not any(known is error for known in files.problems.values()):
                files.problems[disk.path] = error
    return files


def _check_direct(file: OpenFile) -> None:
    flags = fcntl.fcntl(file.fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file.fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError as error:
        raise BadImage(
            file.path,
            "is on a file system that cannot do without the page cache",
            "start the VM with cache: writeback for this disk",
        ) from error
    fcntl.fcntl(file.fd, fcntl.F_SETFL, flags)


def bypass_cache(spec: VmSpec, files: Files) -> None:
    """Set O_DIRECT on the files of disks with cache: none; QEMU takes no other descriptor
    for such a node. After the last look at them: what is read must be aligned then.

    Raises OSError.
    """
    for disk, image in zip(spec.disks, files.images, strict=True):
        for file in image.files() if disk.cache == "none" else ():
            flags = fcntl.fcntl(file.fd, fcntl.F_GETFL)
            fcntl.fcntl(file.fd, fcntl.F_SETFL, flags | os.O_DIRECT)


def refuse(host: str, spec: VmSpec, files: Files, paths: Iterable[str]) -> None:
    """Raises CpcError (3) for the first of these paths that has a problem."""
    for path in paths:
        error = files.problems.get(path)
        if error is None:
            continue
        image = isinstance(error, BadImage)
        raise CpcError(
            f"VM {spec.name} needs {path}, which {error if image else 'cannot be opened'}",
            exit_code=ExitCode.REFUSED,
            host=host,
            cause=None if image else reason(error),
            hint=(error.fix or None) if isinstance(error, BadImage)
            else ready.fix(spec, path, error),
        ) from error
