# SPDX-License-Identifier: Apache-2.0
"""Who this host is: an id made at first use, since names are not unique.

The file may come along when a host is copied. So what is compared has the
kernel's boot id in it too, which two hosts that run never share.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from pathlib import Path

from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.host.atomic import write_new
from cpcctl.host.folders import make_folder

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STORED = re.compile(r"[0-9a-f]{32}\n")
FILE_MAX = 64


def host_id(state: Path) -> str:
    """32 hex digits: the same for everything that runs from this state folder until the
    next boot, and for nothing else. Raises CpcError (2) when the folder cannot be used.
    """
    try:
        stored = _stored(state / "host-id")
        boot = BOOT_ID.read_text().strip()
    except OSError as error:
        raise CpcError(
            f"the id of this host cannot be kept in {state}",
            exit_code=ExitCode.USAGE,
            cause=reason(error),
            hint=f"ls -la {state}: a host-id that is missing is made anew",
        ) from error
    return hashlib.sha256(f"{stored} {boot}".encode()).hexdigest()[:32]


def _stored(path: Path) -> str:
    """The file's id, made when there is none yet; of two that make one, the first wins."""
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(fd, "rb") as file:
                text = file.read(FILE_MAX).decode("ascii", "replace")
            if STORED.fullmatch(text):
                return text.strip()
            raise OSError(errno.EINVAL, "it holds no id", str(path))
        make_folder(path.parent)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        write_new(fresh, f"{secrets.token_hex(16)}\n".encode())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink()
    raise OSError(errno.EAGAIN, "another process keeps removing it", str(path))
