# SPDX-License-Identifier: Apache-2.0
"""A host of its own for tests that run cpcctl in their own process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cpcctl import __main__ as entry
from cpcctl.config.load import load
from cpcctl.config.settings import Settings
from cpcctl.vm import lifecycle

Cli = Callable[..., tuple[int, str, str]]


def command_line(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run cpcctl in this process: exit code, stdout, stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = entry.main(argv)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@contextlib.contextmanager
def one_host(
    built: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, **more: str
) -> Iterator[Settings]:
    """Its settings; whatever runs on it afterwards is ended.

    folder: short, as socket paths are. more: further CPCCTL_ settings.
    """
    for name, value in {
        "STATE_DIR": folder / "s", "RUN_DIR": folder / "r", "QEMU": built.qemu,
        "QEMU_DATA": built.qemu_data, "FIRMWARE": built.firmware, "HOST": "host-a",
        "FORMAT": "text", **more,
    }.items():
        monkeypatch.setenv(f"CPCCTL_{name}", str(value))
    settings = load({})
    yield settings
    for vm in lifecycle.list_all(settings):
        lifecycle.discard(settings, vm["name"])
