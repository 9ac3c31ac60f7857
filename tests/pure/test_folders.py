# SPDX-License-Identifier: Apache-2.0
"""Folders and files of ours that somebody else was first to put there, or may change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cpcctl.errors import CpcError
from cpcctl.host import atomic
from cpcctl.host.folders import check, make_folder
from cpcctl.host.state import Folders, VmLock

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to another user")
OTHER = 54321


def refused(call: Callable[[], object]) -> CpcError:
    with pytest.raises(CpcError) as caught:
        call()
    assert caught.value.exit_code == 2
    return caught.value


@ROOT_ONLY
@pytest.mark.parametrize("level", ["mine", "mine/run", "mine/run/vms"])
def test_no_level_is_another_users(tmp_path: Path, level: str) -> None:
    run = tmp_path / "mine" / "run" / "vms"
    run.mkdir(parents=True)
    os.chown(tmp_path / level, OTHER, OTHER)
    for call in (check, make_folder):
        error = refused(lambda call=call: call(run))  # type: ignore[misc]
        assert error.cause == f"{tmp_path / level} belongs to user {OTHER}"


@ROOT_ONLY
def test_every_verb_looks_at_the_folders(tmp_path: Path) -> None:
    """Folders.of is where each of them begins."""
    from cpcctl.config.load import load

    (tmp_path / "r").mkdir()
    os.chown(tmp_path / "r", OTHER, OTHER)
    settings = load({"state_dir": str(tmp_path / "s"), "run_dir": str(tmp_path / "r")})
    assert "belongs to" in str(refused(lambda: Folders.of(settings)).cause)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
@pytest.mark.parametrize("level", ["a", "a/b"])
def test_no_level_can_be_written_by_others(tmp_path: Path, mode: int, level: str) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (tmp_path / level).chmod(mode)
    if mode == 0o770 and os.geteuid() == 0:
        os.chown(tmp_path / level, -1, OTHER)
    error = refused(lambda: check(folder))
    assert error.cause == f"other users may write to {tmp_path / level}"
    assert error.hint == f"chmod go-w {tmp_path / level}"


def test_a_sticky_folder_above_is_fine_but_not_as_our_own(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    assert make_folder(tmp_path / "shared" / "mine").stat().st_mode & 0o777 == 0o700
    refused(lambda: check(tmp_path / "shared"))


def test_a_link_is_not_our_folder_but_may_lead_to_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    error = refused(lambda: check(tmp_path / "link"))
    assert error.cause == f"{tmp_path / 'link'} is a symbolic link"
    assert make_folder(tmp_path / "link" / "below").is_dir()


@ROOT_ONLY
def test_a_link_to_what_is_another_users(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", OTHER, OTHER)
    (tmp_path / "link").symlink_to("theirs")
    error = refused(lambda: make_folder(tmp_path / "link" / "below"))
    assert error.cause == f"{tmp_path / 'theirs'} belongs to user {OTHER}"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    assert refused(lambda: make_folder(tmp_path / "f")).cause == f"{tmp_path / 'f'} is not a folder"


@pytest.mark.parametrize("write", [atomic.create, atomic.append, atomic.update])
def test_nothing_is_written_through_a_link(
    tmp_path: Path, write: Callable[[Path], int]
) -> None:
    (tmp_path / "theirs").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("theirs")
    with pytest.raises(OSError, match=r"Too many levels|File exists"):
        write(tmp_path / "link")
    assert (tmp_path / "theirs").read_bytes() == b"precious"


def test_what_is_new_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        atomic.write_new(tmp_path / "f", b"x")
    assert (tmp_path / "f").read_bytes() == b"precious"


def test_an_atomic_write_leaves_what_waits_for_it_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"precious")
    waiting = tmp_path / f".f.{os.getpid()}.new"
    waiting.symlink_to("theirs")
    atomic.write_atomic(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert not (tmp_path / "f").is_symlink()
    assert (tmp_path / "theirs").read_bytes() == b"precious"


def test_a_lock_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "s", tmp_path / "r")
    make_folder(tmp_path / "r" / "locks")
    (tmp_path / "theirs").write_bytes(b"precious")
    (tmp_path / "r" / "locks" / "a").symlink_to(tmp_path / "theirs")
    with pytest.raises(CpcError):
        VmLock.take(folders, "a", "x")
    assert (tmp_path / "theirs").read_bytes() == b"precious"
