# SPDX-License-Identifier: Apache-2.0
"""Folders of our own: nobody else can have put them there, or change what is in them.

A path is as safe as its least safe level: who may write to one of them can put
something else in the place of all that lies below.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from cpcctl.errors import CpcError, ExitCode, reason

ELSEWHERE = "set CPCCTL_STATE_DIR and CPCCTL_RUN_DIR to folders that are yours alone"
SHARED = stat.S_IWGRP | stat.S_IWOTH


def check(path: Path) -> None:
    """Refuse a folder that another user owns, may write to or could replace.

    Levels that do not exist yet are fine.
    :raise CpcError: (2) with the level at fault and what is wrong with it.
    """
    for level in reversed(path.parents):
        _check_above(path, level)
    found = _lstat(path)
    if found is None:
        return
    if stat.S_ISLNK(found.st_mode):
        raise _unsafe(path, f"{path} is a symbolic link", ELSEWHERE)
    if not stat.S_ISDIR(found.st_mode):
        raise _unsafe(path, f"{path} is not a folder", ELSEWHERE)
    if found.st_uid != os.geteuid():
        raise _unsafe(path, f"{path} belongs to {_user(found.st_uid)}", ELSEWHERE)
    if found.st_mode & SHARED and not _private_group(found):
        raise _unsafe(path, f"other users may write to {path}", f"chmod go-w {path}")


def make_folder(path: Path) -> Path:
    """Create a folder only its owner can enter, parents too, and check() it."""
    check(path)
    for level in (*reversed(path.parents), path):
        try:
            level.mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise CpcError(
                f"cannot create the folder {path}",
                exit_code=ExitCode.USAGE,
                cause=reason(error),
                hint="set CPCCTL_STATE_DIR and CPCCTL_RUN_DIR to folders you may write",
            ) from error
    check(path)
    return path


def _check_above(path: Path, level: Path) -> None:
    found = _lstat(level)
    if found is None:
        return
    # In a user namespace root's own folders belong to nobody; so does "/".
    trusted = {0, os.geteuid(), os.stat("/").st_uid}
    if found.st_uid not in trusted:
        raise _unsafe(path, f"{level} belongs to {_user(found.st_uid)}", ELSEWHERE)
    if stat.S_ISLNK(found.st_mode):
        # Its owner is trusted, so only where it leads is left to look at.
        target = Path(os.path.realpath(level))
        for beneath in (*reversed(target.parents), target):
            if beneath != level:
                _check_above(path, beneath)
        return
    # In a sticky one nobody can replace what is somebody else's.
    if (
        found.st_mode & SHARED
        and not found.st_mode & stat.S_ISVTX
        and not _private_group(found)
    ):
        raise _unsafe(path, f"other users may write to {level}", f"chmod go-w {level}")


def _private_group(found: os.stat_result) -> bool:
    """Writable for our own group at most, which has nobody but us in it."""
    if found.st_mode & stat.S_IWOTH or found.st_gid != os.getegid():
        return False
    try:
        group, user = grp.getgrgid(found.st_gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unsafe(path, reason(error), ELSEWHERE) from error


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _unsafe(path: Path, why: str, hint: str) -> CpcError:
    return CpcError(
        f"{path} cannot be used as a folder", exit_code=ExitCode.USAGE, cause=why, hint=hint
    )
