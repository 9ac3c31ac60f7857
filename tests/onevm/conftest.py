# SPDX-License-Identifier: Apache-2.0
"""The host that the tests of one VM run on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cpcctl.config.load import load
from cpcctl.config.settings import Settings
from cpcctl.vm import lifecycle
from tests import accel


@pytest.fixture
def place(
    built: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """A host of its own; whatever runs on it afterwards is ended."""
    # Socket paths are short, and pytest's own folders are not.
    folder = tmp_path_factory.mktemp("h")
    for name, value in {
        "STATE_DIR": folder / "s", "RUN_DIR": folder / "r", "QEMU": built.qemu,
        "QEMU_DATA": built.qemu_data, "FIRMWARE": built.firmware, "HOST": "host-a",
        "FORMAT": "text",
    }.items():
        monkeypatch.setenv(f"CPCCTL_{name}", str(value))
    settings = load({})
    start = lifecycle.start

    def checked(*args: Any, **more: Any) -> lifecycle.Vm:
        vm = start(*args, **more)
        accel.check(vm.process.pid)
        return vm

    monkeypatch.setattr(lifecycle, "start", checked)
    yield settings
    for vm in lifecycle.list_all(settings):
        lifecycle.discard(settings, vm["name"])
