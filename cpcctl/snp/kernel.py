# SPDX-License-Identifier: Apache-2.0
"""Whether a kernel can be an SEV-SNP guest: its file's header and its configuration."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from cpcctl.host.files import open_plain

MAGIC_AT, MAGIC = 0x202, b"HdrS"
VERSION_AT, VERSION_BASE, VERSION_MAX = 0x20E, 0x200, 128
# Setup code, the version text in it, is at most 64 sectors.
HEAD = 64 * 512 + VERSION_BASE
FIRST = (5, 19)
OPTION = "CONFIG_AMD_MEM_ENCRYPT"
CONFIG_MAX = 4 << 20
RELEASE = re.compile(r"(\d{1,3})\.(\d{1,3})[^\s/]*")


def release(head: bytes) -> str:
    """The release, such as 6.12.48-cloud-amd64, of a bzImage that begins so.

    Raises ValueError, and nothing else, for what is no bzImage or does not say.
    """
    if head[MAGIC_AT : MAGIC_AT + len(MAGIC)] != MAGIC:
        raise ValueError("is not a Linux kernel of the kind that QEMU boots (bzImage)")
    offset = struct.unpack_from("<H", head.ljust(VERSION_AT + 2, b"\0"), VERSION_AT)[0]
    start = VERSION_BASE + offset
    text = head[start : start + VERSION_MAX].split(b"\0")[0].decode("ascii", "replace")
    found = RELEASE.match(text)
    if not offset or not found:
        raise ValueError("is a kernel that does not say its version")
    return found[0]


def problem(found: str, config: str | None) -> str:
    """"" when a kernel of that release can be such a guest, else why not.

    config: the text of its configuration, if that is known
    """
    match = RELEASE.match(found)
    if match is None or (int(match[1]), int(match[2])) < FIRST:
        return f"Linux {found} is older than 5.19, the first that runs as SEV-SNP guest"
    if config is not None and f"\n{OPTION}=y\n" not in f"\n{config}\n":
        return f"Linux {found} is built without {OPTION}=y"
    return ""


def look(path: Path) -> str:
    """problem() of a file; a configuration is looked for beside it, as Debian puts it: in
    /boot with the release in its name, or below /usr/lib/modules.

    Raises OSError when the file cannot be read.
    """
    with open_plain(path) as file:
        head = file.read(HEAD)
    try:
        found = release(head)
    except ValueError as error:
        return f"{path} {error}"
    folder = path.resolve().parent
    config = _config(folder / f"config-{found}")
    if config is None and folder.name == found:
        config = _config(folder / "config")
    why = problem(found, config)
    return f"{path}: {why}" if why else ""


def _config(path: Path) -> str | None:
    try:
        with open_plain(path) as file:
            return file.read(CONFIG_MAX).decode("utf-8", "replace")
    except OSError:
        return None
