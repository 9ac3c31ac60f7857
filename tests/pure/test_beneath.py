# SPDX-License-Identifier: Apache-2.0
"""Files below folders, whatever links say and whatever changes meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cpcctl.host import beneath
from cpcctl.host.beneath import Outside, open_beneath
from cpcctl.host.files import NotPlain


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


def content(path: Path | str, *folders: Path) -> bytes:
    fd = open_beneath(str(path), False, map(str, folders))
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_inside(inside: Path, tmp_path: Path) -> None:
    assert content(inside / "sub" / "file", inside) == b"inside"
    assert content(inside / "sub" / "file", Path("/nowhere"), Path("/")) == b"inside"
    (inside / "link").symlink_to("sub/file")
    (inside / "absolute").symlink_to(inside / "sub" / "file")
    (tmp_path / "way").symlink_to(inside)
    for name in ("link", "absolute", "sub/../link"):
        assert content(f"{inside}/{name}", inside) == b"inside"
    assert content(tmp_path / "way" / "link", tmp_path / "way") == b"inside"
    fd = open_beneath(str(inside / "sub" / "file"), True, [str(inside)])
    assert os.write(fd, b"I") == 1
    os.close(fd)


@pytest.mark.parametrize("way", ["../secret", "link", "folder/secret", "sub/../../secret", ""])
def test_outside(inside: Path, tmp_path: Path, way: str) -> None:
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "folder").symlink_to(tmp_path)
    with pytest.raises(Outside):
        content(f"{inside}/{way}", inside)
    with pytest.raises(Outside):
        content(tmp_path / "in2" / "x", inside)  # a name that begins alike


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_link_that_appears_after_the_look(
    inside: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path was resolved; now it leads elsewhere."""
    path = str(inside / "sub" / "file")
    (tmp_path / "file").write_bytes(b"secret")
    if place == "file":
        os.unlink(path)
        os.symlink(tmp_path / "secret", path)
    else:
        (inside / "sub").rename(inside / "old")
        os.symlink(tmp_path, inside / "sub")
    real = os.path.realpath
    monkeypatch.setattr(
        os.path, "realpath", lambda name: name if name == path else real(name)
    )
    with pytest.raises(OSError, match="symbolic links") as caught:
        content(path, inside)
    assert caught.value.errno == errno.ELOOP


def test_what_is_no_plain_file_is_not_opened(inside: Path) -> None:
    os.mkfifo(inside / "fifo")
    for name in ("fifo", "sub"):
        with pytest.raises(NotPlain):
            content(inside / name, inside)
    with pytest.raises(FileNotFoundError):
        content(inside / "none", inside)


def test_a_kernel_without_openat2_opens_nothing(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beneath, "SYS_OPENAT2", 100_000)
    with pytest.raises(OSError, match="no openat2") as caught:
        content(inside / "sub" / "file", inside)
    assert caught.value.errno == errno.ENOSYS
