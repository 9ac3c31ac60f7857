# SPDX-License-Identifier: Apache-2.0
"""Disk images with everything that they depend on, and the block nodes made of them.

Every file of an image becomes a node of its own, and each node names the nodes below it:
QEMU finds nothing by a name in a header.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cpcctl.qemu import qcow2
from cpcctl.qemu.qcow2 import Malformed

FORMATS = ("qcow2", "raw")
DEPTH_MAX = 16


@dataclass(frozen=True)
class OpenFile:
    """A file for QEMU. writes: QEMU changes it. fd: open in that mode; -1: not opened."""

    path: str
    writes: bool
    fd: int = -1


@dataclass(frozen=True)
class Image:
    """file: with the format's metadata. data_file: of an image that keeps its data apart."""

    file: OpenFile
    format: str
    backing: Image | None = None
    data_file: OpenFile | None = None

    def files(self) -> list[OpenFile]:
        """All of them, the image's own first."""
        data = [self.data_file] if self.data_file else []
        return [self.file, *data, *(self.backing.files() if self.backing else [])]


class BadImage(ValueError):
    """An image that cannot be used. The words follow its path; fix: what to type, or ""."""

    def __init__(self, path: str, words: str, fix: str = "") -> None:
        super().__init__(words)
        self.path = path
        self.fix = fix


Opener = Callable[[str, bool], OpenFile]
Named = Callable[[OpenFile], str]


def open_image(
    path: str, fmt: str, writes: bool, opener: Opener, depth: int = DEPTH_MAX
) -> Image:
    """Open an image and what it depends on; only the image itself is ever written.

    opener: opens a path, for writing too where its second argument says so; closing is
    its owner's. :raise BadImage: one of them is not understood or names what is no file.
    :raise OSError: what the opener raises, or one of them cannot be read.
    """
    file = opener(path, writes)
    if fmt != "qcow2":
        return Image(file, fmt)
    try:
        header = qcow2.read(file.fd)
    except Malformed as error:
        raise BadImage(path, str(error)) from error
    data = None
    if header.data_file is not None:
        if not header.data_file.startswith("/"):
            # To QEMU it would be relative to its own folder.
            raise BadImage(path, "names its data file by no absolute path")
        data = opener(header.data_file, writes)
    return Image(file, fmt, _backing(path, header, opener, depth), data)


def _backing(path: str, header: qcow2.Header, opener: Opener, depth: int) -> Image | None:
    name, fmt = header.backing, header.backing_format
    if name is None:
        return None
    if ":" in name.split("/")[0]:
        raise BadImage(path, "has a backing file that is not a plain file")
    if fmt is None:
        raise BadImage(
            path,
            "does not say which format its backing file has",
            f"qemu-img rebase -u -F FORMAT -b BASE {path}, with qcow2 or raw as FORMAT",
        )
    if fmt not in FORMATS:
        raise BadImage(path, "has a backing file in a format other than raw and qcow2")
    if depth == 0:
        raise BadImage(path, "is one backing file too many")
    return open_image(os.path.join(os.path.dirname(path), name), fmt, False, opener, depth - 1)


def nodes(
    name: str, image: Image, named: Named, *, direct: bool = False, inactive: bool = False
) -> list[dict[str, Any]]:
    """The arguments of blockdev-add, in their order, for an image under a node name. Pure.

    named: what QEMU is told in place of a path. direct: past the page cache.
    inactive: without locks, until the guest has arrived
    """
    cache = {"direct": direct}
    extra = {"active": False} if inactive else {}
    found: list[dict[str, Any]] = []

    def add(driver: str, node: str, writes: bool, **more: Any) -> str:
        found.append({
            "driver": driver, "node-name": node, "cache": cache, "read-only": not writes,
            **more, **extra,
        })  # fmt: skip
        return node

    def file(node: str, what: OpenFile) -> str:
        return add("file", node, what.writes, filename=named(what), locking="on")

    chain = [image]
    while chain[-1].backing is not None:
        chain.append(chain[-1].backing)
    below: str | None = None
    for depth, part in reversed(list(enumerate(chain))):
        node = f"{name}-base{depth}" if depth else name
        more: dict[str, Any] = {"file": file(f"{node}-file", part.file)}
        if part.data_file is not None:
            more["data-file"] = file(f"{node}-data", part.data_file)
        if part.format == "qcow2":
            more["backing"] = below
        below = add(part.format, node, part.file.writes, **more)
    return found
