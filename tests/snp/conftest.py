# SPDX-License-Identifier: Apache-2.0
"""What the tests of emulated confidential guests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cpcctl.setup import store
from tests.snp.boot import OBJECTS, Guest, Parts, command

Start = Callable[[str], Guest]


@pytest.fixture
def parts(built: Any) -> Parts:
    """Debian's 6.1 or later kernel, the small initrd, OVMF. CPCCTL_QEMU: another QEMU."""
    ovmf = store.current("ovmf") / "OVMF.fd"
    if not ovmf.exists():
        pytest.fail(f"{ovmf} is not there; run: make setup", pytrace=False)
    qemu = Path(os.environ.get("CPCCTL_QEMU") or built.qemu)
    return Parts(qemu, built.qemu_data, ovmf, built.vmlinuz, built.tiny_initrd)


@pytest.fixture
def start(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """start(platform): a guest with 2 vCPUs that has booted to its shell."""
    guests: list[Guest] = []

    def begin(platform: str) -> Guest:
        guests.append(Guest(command(parts, OBJECTS[platform]), tmp_path_factory.mktemp("g")))
        guests[-1].ready()
        return guests[-1]

    yield begin
    for guest in guests:
        guest.end()
