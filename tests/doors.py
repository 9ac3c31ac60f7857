# SPDX-License-Identifier: Apache-2.0
"""What of QEMU's monitors leads to a guest's memory and registers, and how to try it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpcctl.host.qmp import Qmp

# Commands whose result would be in FILE.
FILES: list[tuple[str, dict[str, Any]]] = [
    ("pmemsave", {"val": 0, "size": 4096, "filename": "FILE"}),
    ("memsave", {"val": 0, "size": 4096, "filename": "FILE"}),
    ("dump-guest-memory", {"paging": False, "protocol": "file:FILE"}),
    ("migrate", {"uri": "file:FILE"}),
    ("xen-save-devices-state", {"filename": "FILE"}),
]


def naming(file: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with that file's name for FILE."""
    return {
        key: value.replace("FILE", str(file)) if isinstance(value, str) else value
        for key, value in arguments.items()
    }


def hmp(qmp: Qmp, line: str) -> str:
    """What the human monitor answers."""
    arguments: dict[str, Any] = {"command-line": line}
    return str(qmp.execute("human-monitor-command", **arguments))
