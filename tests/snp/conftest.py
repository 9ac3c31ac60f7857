# SPDX-License-Identifier: Apache-2.0
"""What the tests of emulated confidential guests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpcctl.config.settings import Settings
from cpcctl.setup import store
from cpcctl.setup.kernels import Kernel
from tests.one_host import Cli, command_line, one_host
from tests.snp import asking
from tests.snp.boot import OBJECTS, Guest, Parts, command
from tests.snp.steps import Follow, Run, Steps

Start = Callable[[str], Guest]
Launch = Callable[[list[str]], Guest]
Boot = Callable[..., Guest]
Define = Callable[..., Path]


@pytest.fixture(scope="session")
def parts(built: Any) -> Parts:
    """Debian's 6.1 or later kernel, the small initrd, OVMF. CPCCTL_QEMU: another QEMU."""
    ovmf = store.current("ovmf") / "OVMF.fd"
    if not ovmf.exists():
        pytest.fail(f"{ovmf} is not there; run: make setup", pytrace=False)
    qemu = Path(os.environ.get("CPCCTL_QEMU") or built.qemu)
    return Parts(qemu, built.qemu_data, ovmf, built.vmlinuz, built.tiny_initrd)


@pytest.fixture
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """launch(argv): a QEMU that runs, and is ended with the test."""
    guests: list[Guest] = []

    def begin(argv: list[str]) -> Guest:
        guests.append(Guest(argv, tmp_path_factory.mktemp("g")))
        return guests[-1]

    yield begin
    for guest in guests:
        guest.end()


@pytest.fixture
def follow(parts: Parts, launch: Launch, tmp_path: Path) -> Follow:
    """follow(steps, ...): a guest that follows them; the rest as for Run."""

    def begin(first: Steps, second: Steps | None = None, **rest: Any) -> Run:
        return Run(parts, launch, tmp_path, first, second, **rest)

    return begin


@pytest.fixture
def start(parts: Parts, launch: Launch) -> Start:
    """start(platform): a guest with 2 vCPUs that has booted to its shell."""

    def begin(platform: str) -> Guest:
        guest = launch(command(parts, OBJECTS[platform]))
        guest.ready()
        return guest

    return begin


@pytest.fixture(scope="module")
def asking_kernel(
    kernels: dict[str, Kernel], tmp_path_factory: pytest.TempPathFactory
) -> Kernel:
    """One that can ask for a report, with the program that does."""
    found, initrd = kernels[asking.KERNEL], tmp_path_factory.mktemp("k") / "initrd"
    # The kernel unpacks archives one after the other.
    initrd.write_bytes(found.initrd.read_bytes() + asking.program().read_bytes())
    return replace(found, initrd=initrd)


@pytest.fixture
def boot(parts: Parts, launch: Launch, kernels: dict[str, Kernel]) -> Boot:
    """boot(kernel, platform, ...): a guest with that kernel that has booted to its shell;
    the rest as for boot.command()."""

    def begin(kernel: str, platform: str = "sev-snp", **rest: Any) -> Guest:
        found = kernels[kernel]
        with_kernel = replace(parts, vmlinuz=found.vmlinuz, initrd=found.initrd)
        guest = launch(command(with_kernel, OBJECTS[platform], **rest))
        guest.ready()
        return guest

    return begin


@pytest.fixture
def place(
    built: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """A host of its own; whatever runs on it afterwards is ended."""
    with one_host(built, tmp_path_factory.mktemp("h"), monkeypatch, ACCEL="tcg") as settings:
        yield settings


@pytest.fixture
def define(built: Any, tmp_path: Path) -> Define:
    """Write a definition of a small SEV-SNP guest; keywords change it."""

    def write(**changes: Any) -> Path:
        document = {
            "name": "a", "platform": "sev-snp", "memory": "256M", "vcpus": 2,
            "kernel": str(built.vmlinuz), "initrd": str(built.tiny_initrd),
            "append": "console=ttyS0 panic=-1", **changes,
        }
        path = tmp_path / "a.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
        return path

    return write


@pytest.fixture
def cli(place: Settings, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run cpcctl in this process: exit code, stdout, stderr."""
    return command_line(capsys)
