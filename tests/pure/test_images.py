# SPDX-License-Identifier: Apache-2.0
"""What an image depends on: read strictly, opened explicitly, named node by node."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from cpcctl.qemu import images, qcow2
from cpcctl.qemu.images import BadImage, Image, OpenFile
from cpcctl.qemu.qcow2 import Header, Malformed
from tests import qcow2 as made


def read(path: Path, data: bytes) -> Header:
    path.write_bytes(data)
    with path.open("rb") as file:
        return qcow2.read(file.fileno())


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (made.header(), Header()),
        (made.header(version=2), Header()),
        (made.header("base", "raw"), Header("base", "raw")),
        (made.header("base", None, version=2), Header("base")),
        (made.header("/a/b"), Header("/a/b", "qcow2")),
        (made.header("b" * 1023), Header("b" * 1023, "qcow2")),
        (made.header(data_file="/d"), Header(data_file="/d")),
        (made.header("b", "raw", "/d"), Header("b", "raw", "/d")),
    ],
)
def test_headers(tmp_path: Path, data: bytes, found: Header) -> None:
    assert read(tmp_path / "i", data) == found


def patched(at: int, form: str, value: int, data: bytes = made.header("base")) -> bytes:
    head = bytearray(data)
    struct.pack_into(form, head, at, value)
    return bytes(head)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a qcow2 image"),
        (made.header("base")[:71], "is not a qcow2 image"),
        (made.header("base")[:103], "damaged"),
        # QEMU reads zeros behind the end of a file.
        (made.header("base")[:110], "damaged"),
        (made.header("base")[:130], "damaged"),
        (b"RAW" * 100, "is not a qcow2 image"),
        (patched(4, ">I", 1), "version 1"),
        (patched(4, ">I", 4), "version 4"),
        (patched(8, ">Q", 0), "damaged"),
        (patched(8, ">Q", 1 << 16), "damaged"),
        (patched(8, ">Q", 1 << 40), "damaged"),
        (patched(8, ">Q", 4), "damaged"),
        (patched(16, ">I", 0), "damaged"),
        (patched(16, ">I", 1024), "damaged"),
        (patched(20, ">I", 8), "damaged"),
        (patched(20, ">I", 22), "damaged"),
        (patched(32, ">I", 1), "encrypted"),
        (patched(32, ">I", 2), "encrypted"),
        (patched(72, ">Q", 1 << 5), "features"),
        (patched(72, ">Q", 1 << 63), "features"),
        (patched(72, ">Q", 4), "does not say which"),
        (patched(100, ">I", 96), "damaged"),
        (patched(100, ">I", 108), "damaged"),
        (patched(100, ">I", 1 << 17), "damaged"),
        (patched(108, ">I", 1 << 16), "damaged"),
        (made.header("ba\0se"), "damaged"),
        (made.header(data_file="a\0b"), "damaged"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        read(tmp_path / "i", data)


def test_an_extension_counts_once(tmp_path: Path) -> None:
    """QEMU takes the last of several."""
    data = bytearray(made.header("b", "raw"))
    twice = made.extension(made.BACKING_FORMAT, b"raw") * 2
    end = 104 + len(twice)
    data[104:end] = twice
    data[end : end + 9] = bytes(8) + b"b"
    struct.pack_into(">Q", data, 8, end + 8)
    with pytest.raises(Malformed):
        read(tmp_path / "i", bytes(data))


def chain(path: Path, opened: list[tuple[str, bool]], writes: bool = True) -> Image:
    def opener(name: str, for_writing: bool) -> OpenFile:
        opened.append((name, for_writing))
        fd = os.open(name, os.O_RDONLY)
        files.append(fd)
        return OpenFile(name, for_writing, fd)

    files: list[int] = []
    try:
        return images.open_image(str(path), "qcow2", writes, opener)
    finally:
        for fd in files:
            os.close(fd)


def test_only_the_top_is_written(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(made.header("/etc/shadow"))
    made.write(tmp_path / "base", "raw", "raw")
    (tmp_path / "data").write_bytes(b"")
    (tmp_path / "top").write_bytes(made.header("base", "qcow2", str(tmp_path / "data")))
    opened: list[tuple[str, bool]] = []
    image = chain(tmp_path / "top", opened)
    # What a raw file looks like means nothing.
    assert opened == [
        (str(tmp_path / name), name in ("top", "data")) for name in ("top", "data", "base", "raw")
    ]
    assert [file.path for file in image.files()] == [path for path, _ in opened]
    assert [writes for _, writes in opened] == [file.writes for file in image.files()]


@pytest.mark.parametrize(
    ("base", "fmt", "words"),
    [
        ("json:{}", "qcow2", "not a plain file"), ("nbd://h/x", "raw", "not a plain file"),
        ("file:x", "raw", "not a plain file"), ("x", None, "does not say which format"),
        ("x", "vmdk", "other than raw and qcow2"), ("x", "", "other than raw and qcow2"),
        ("top", "qcow2", "too many"),
    ],
)
def test_backing_files_that_are_refused(
    tmp_path: Path, base: str, fmt: str | None, words: str
) -> None:
    made.write(tmp_path / "top", base, fmt)
    with pytest.raises(BadImage, match=words) as caught:
        chain(tmp_path / "top", [])
    assert caught.value.path == str(tmp_path / "top")


def test_a_data_file_has_an_absolute_name(tmp_path: Path) -> None:
    (tmp_path / "top").write_bytes(made.header(data_file="data"))
    with pytest.raises(BadImage, match="no absolute path"):
        chain(tmp_path / "top", [])


def by_name(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {node["node-name"]: node for node in found}


def test_every_node_is_explicit() -> None:
    image = Image(
        OpenFile("/t", True), "qcow2",
        Image(OpenFile("/b", False), "qcow2", Image(OpenFile("/r", False), "raw")),
        OpenFile("/d", True),
    )  # fmt: skip
    found = images.nodes("disk0", image, lambda file: f"<{file.path}>", direct=True, inactive=True)
    nodes = by_name(found)
    assert len(nodes) == len(found) == 7
    assert [node["filename"] for node in found if node["driver"] == "file"] == [
        "</r>", "</b>", "</t>", "</d>",
    ]
    assert (nodes["disk0"]["backing"], nodes["disk0"]["data-file"]) == ("disk0-base1", "disk0-data")
    assert nodes["disk0-base1"]["backing"] == "disk0-base2"
    assert "backing" not in nodes["disk0-base2"]  # raw knows none
    assert {name for name, node in nodes.items() if not node["read-only"]} == {
        "disk0", "disk0-file", "disk0-data",
    }
    assert all(node["active"] is False and node["cache"] == {"direct": True} for node in found)
    # A node is made of nodes that are there already.
    for index, node in enumerate(found):
        for key in ("file", "backing", "data-file"):
            if node.get(key) is not None:
                assert node[key] in [other["node-name"] for other in found[:index]]


def test_an_image_without_a_base_says_so() -> None:
    """Without it QEMU would read the header and follow it."""
    (node,) = (
        n for n in images.nodes("d", Image(OpenFile("/t", True), "qcow2"), str)
        if n["driver"] == "qcow2"
    )  # fmt: skip
    assert node["backing"] is None


def test_node_names_are_short_enough() -> None:
    """QEMU takes 31 characters."""
    image = Image(OpenFile("/r", False), "raw")
    for _ in range(images.DEPTH_MAX):
        image = Image(OpenFile("/r", False), "qcow2", image)
    assert max(len(n["node-name"]) for n in images.nodes("disk15", image, str)) <= 31
