# SPDX-License-Identifier: Apache-2.0
"""What a QEMU is held to, so that a guest that takes it over has gained little.

Started by root, it becomes a user that nobody else is, once it has opened what it
needs; those files stay root's, so one VM's QEMU cannot open another one's. Started by
anybody else it stays that user. Either way the kernel refuses it to start programs, to
gain privileges and what else it never needs, and it inherits no environment.
"""

from __future__ import annotations

import os
import pwd
import resource
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cpcctl.errors import CpcError, ExitCode

# Below what systems number by themselves from, inside what a container with 65536 users has.
FIRST, LAST = 56_000, 59_999
FILTER = "on,obsolete=deny,spawn=deny,resourcecontrol=deny"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Words of ours; a VM that a demo or a test started is known by one of them.
KEPT = "CPC"
FILES_MAX = 4096
CAP_SETGID, CAP_SETUID = 1 << 6, 1 << 7

Exists = Callable[[int], bool]


@dataclass(frozen=True)
class Sandbox:
    """user: number of the user and the group that QEMU becomes; None: it stays who it is."""

    user: int | None

    @property
    def argv(self) -> list[str]:
        """QEMU's options."""
        if self.user is None:
            return ["-sandbox", f"{FILTER},elevateprivileges=deny"]
        # It gives its privileges up after the filter is in place. Then no call gets
        # them back: it has no capability, and no_new_privs comes with the filter.
        return ["-sandbox", FILTER, "-run-with", f"user={self.user}:{self.user}"]


def limits() -> str:
    """Shell commands that bound what is started after them: no memory of a guest in a core
    file, and so many files and connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    return f"ulimit -c 0; ulimit -n {files}; "


def of(name: str) -> Sandbox:
    """For the VM of that name. Raises CpcError (3) when no user is left."""
    status = Path("/proc/self/status").read_text()
    maps = [Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid")]
    if not may_change(status) or not all(covers(text) for text in maps):
        return Sandbox(None)
    return Sandbox(choose(name, set(_users()), _has_account))


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What QEMU gets of an environment."""
    return {"PATH": PATH, **{key: word for key, word in ours.items() if key.startswith(KEPT)}}


def may_change(status: str) -> bool:
    """Whether a process with that /proc/PID/status may become another user."""
    wanted = CAP_SETUID | CAP_SETGID
    return int(_field(status, "CapEff"), 16) & wanted == wanted


def covers(text: str) -> bool:
    """Whether a user namespace with that uid_map has all of our users."""
    for line in text.splitlines():
        inside, _, count = (int(word) for word in line.split())
        if inside <= FIRST and inside + count > LAST:
            return True
    return False


def choose(name: str, taken: set[int], has_account: Exists) -> int:
    """A user that no process runs as and that has no account; the same again if free."""
    room = LAST - FIRST + 1
    begin = zlib.crc32(name.encode())
    for step in range(room):
        user = FIRST + (begin + step) % room
        if user not in taken and not has_account(user):
            return user
    raise CpcError(
        f"no user is left for QEMU of VM {name}",
        exit_code=ExitCode.REFUSED,
        cause=f"processes run as each of the users {FIRST} to {LAST}",
        hint="cpcctl vm list",
    )


def _users() -> Iterator[int]:
    """Every user that a process runs as, real, effective or saved."""
    for folder in os.scandir("/proc"):
        if folder.name.isdigit():
            try:
                status = Path(folder.path, "status").read_text()
            except OSError:
                continue  # it has ended
            yield from (int(word) for word in _field(status, "Uid").split())


def _field(status: str, name: str) -> str:
    return next(
        line.partition(":")[2].strip() for line in status.splitlines()
        if line.startswith(f"{name}:")
    )  # fmt: skip


def _has_account(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True
