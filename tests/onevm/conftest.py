# SPDX-License-Identifier: Apache-2.0
"""The host that the tests of one VM run on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpcctl.config.settings import Settings
from cpcctl.vm import lifecycle
from cpcctl.vm.spec import VmSpec
from tests import accel, confined
from tests.one_host import Cli, command_line, one_host
from tests.onevm import faulty, images


@pytest.fixture(scope="session")
def image() -> Path:
    """The firmware with fault_module.c instead of its table of modules."""
    return images.faults()


@pytest.fixture
def machine(built: Any, image: Path, tmp_path: Path) -> Iterator[faulty.Machine]:
    """One QEMU for one test, whose hvCPUs run it."""
    with faulty.started(built, image, tmp_path) as running:
        yield running


@pytest.fixture
def place(
    built: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """A host of its own; whatever runs on it afterwards is ended."""
    # Socket paths are short, and pytest's own folders are not.
    folder = tmp_path_factory.mktemp("h")
    start = lifecycle.start

    def checked(settings: Settings, spec: VmSpec, **more: Any) -> lifecycle.Vm:
        vm = start(settings, spec, **more)
        accel.check(vm.process.pid, spec.accel)
        confined.check(vm.process.pid)
        return vm

    monkeypatch.setattr(lifecycle, "start", checked)
    with one_host(built, folder, monkeypatch) as settings:
        yield settings


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder in which a running QEMU, which has no rights of ours, can open files."""
    with tempfile.TemporaryDirectory(prefix="cpc-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def define(built: Any, place: Settings) -> Callable[..., Path]:
    """Write a definition of a small Linux VM; keywords change it."""

    def write(**changes: Any) -> Path:
        document = {
            "name": "a", "memory": "192M", "vcpus": 2, "hvcpus": 2, "hvcpu_max": 3,
            "ring_size": "2M", "kernel": str(built.vmlinuz), "initrd": str(built.tiny_initrd),
            "append": "console=ttyS0 quiet", **changes,
        }
        place.state_dir.mkdir(parents=True, exist_ok=True)
        path = place.state_dir / f"{document['name']}.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
        return path

    return write


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run cpcctl in this process: exit code, stdout, stderr."""
    return command_line(capsys)
