# SPDX-License-Identifier: Apache-2.0
"""Files that a child inherits, by the names that it is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cpcctl.host.process import spawn
from cpcctl.qemu.descriptors import Descriptors, sealed_copy


def test_a_child_opens_what_was_opened_for_it(tmp_path: Path) -> None:
    """Whatever has the path by then."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"kernel")
    with Descriptors() as files:
        name = files.plain(os.open(kernel, os.O_RDONLY))
        kernel.unlink()
        kernel.write_bytes(b"other")
        child = spawn(["cat", name], tmp_path / "log", files.pass_fds)
        assert child.wait(10) == 0
    assert (tmp_path / "log").read_bytes() == b"kernel"


def test_what_not_everybody_may_read_is_copied(tmp_path: Path) -> None:
    secret = tmp_path / "kernel"
    secret.write_bytes(b"x" * 100_000)
    secret.chmod(0o600)
    with Descriptors() as files:
        name = files.plain(os.open(secret, os.O_RDONLY))
        fd = int(name.rpartition("/")[2])
        assert fd in files.pass_fds
        assert not os.path.samestat(os.fstat(fd), secret.stat())
        assert Path(name).read_bytes() == secret.read_bytes()
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"y", 0)
    secret.chmod(0o644)
    with Descriptors() as files:
        assert os.path.samestat(os.stat(files.plain(os.open(secret, os.O_RDONLY))), secret.stat())


def test_a_copy_is_sealed(tmp_path: Path) -> None:
    with open(tmp_path / "f", "w+b") as file:
        copy = sealed_copy(file.fileno())
    with pytest.raises(PermissionError):
        os.write(copy, b"x")
    os.close(copy)


def test_sets_for_the_block_layer(tmp_path: Path) -> None:
    files = Descriptors()
    fd = os.open(tmp_path, os.O_RDONLY)
    assert files.block(fd, "/a,b") == f"/dev/fdset/{fd}"
    assert files.argv == ["-add-fd", f"fd={fd},set={fd},opaque=/a,,b"]
    assert files.pass_fds == (fd,)
    files.close()
    files.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
