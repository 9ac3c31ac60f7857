# SPDX-License-Identifier: Apache-2.0
"""What all tests share: built things, two hosts, markers and the leak check."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cpcctl.demo.guard import Guard, marked
from cpcctl.demo.hosts import NoNamespaces, World
from cpcctl.demo.image import ImageError
from cpcctl.setup import store, venv
from cpcctl.setup.debian import AptError
from cpcctl.setup.kernels import Kernel, provide
from cpcctl.ui import interrupts

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import accel
from tests.patience import PATIENCE, patient

# Every process that a test starts inherits this, and is known by it.
RUN = uuid.uuid4().hex
RUN_MARK = f"CPC_TEST_RUN={RUN}"
os.environ["CPC_TEST_RUN"] = RUN

LEAK_SECONDS = patient(10.0)
# Side by side these begin first: what takes longest must not be what is left in the end.
FIRST = ("twohosts", "snp", "nested", "setup", "onevm")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--long: run the tests that take tens of minutes as well. --accel: with what."""
    parser.addoption("--long", action="store_true", help="run tests marked long as well")
    parser.addoption(
        "--accel", choices=accel.CHOICES, default="tcg", help="accelerator of every VM (tcg)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Everything that the tests start is told the accelerator, and finds out once
    whether KVM works."""
    imported = venv.imported(Path(sys.prefix))
    if imported != venv.TOP:
        # What the tests start would run another checkout's code, or none.
        raise pytest.UsageError(f"{sys.prefix} has {imported or 'no'}/cpcctl; run here: make venv")
    os.environ[accel.VARIABLE] = config.getoption("--accel")
    # Whatever ends this run, also a test that hangs, a guard ends what it started and removes its
    # temporary files.
    if hasattr(config, "workerinput"):  # of pytest-xdist: its files are the run's
        config.add_cleanup(Guard(RUN_MARK).close)
        # Shorter than xdist's own choice: names of sockets have 107 characters.
        config.option.basetemp = f"{tempfile.gettempdir()}/{config.workerinput['workerid']}"
        return
    folder = Path(tempfile.mkdtemp(prefix="cpc-"))
    config.add_cleanup(Guard(RUN_MARK, folder).close)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.environ["CPCCTL_KVM_VERDICT"] = f"{folder}/kvm"


def pytest_report_header(config: pytest.Config) -> str:
    """In the first lines of every run."""
    return f"accelerator: {accel.chosen()}; time limits: times {PATIENCE:g}"


def folder_of(item: pytest.Item) -> str:
    """The folder of tests that it is in."""
    return item.path.relative_to(Path(__file__).parent).parts[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Folders give markers; long tests need --long."""
    for item in items:
        folder = folder_of(item)
        if folder in ("onevm", "twohosts", "snp"):
            item.add_marker(pytest.mark.vm)
        if folder == "twohosts":
            item.add_marker(pytest.mark.twohosts)
        if folder in ("twohosts", "snp", "recovery"):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)
            if not config.getoption("--long"):
                item.add_marker(pytest.mark.skip(reason="only with --long (make test-long)"))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: [*FIRST, folder_of(item)].index(folder_of(item)))


@dataclass(frozen=True)
class Built:
    """Where the things that `make setup` builds are."""

    qemu: Path
    qemu_data: Path
    firmware: Path
    vmlinuz: Path
    tiny_initrd: Path
    guest_initrd: Path

    @classmethod
    def find(cls) -> Built:
        """Those of the store, there or not."""
        current = store.root() / "current"
        return cls(
            qemu=current / "qemu/bin/qemu-system-x86_64",
            qemu_data=current / "qemu/share/qemu",
            firmware=current / "firmware/cpc-firmware.bin",
            vmlinuz=current / "guest/vmlinuz",
            tiny_initrd=current / "guest/tiny.cpio",
            guest_initrd=current / "guest/guest.cpio",
        )


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A command that is run in this process leaves its handlers behind."""
    before = {number: signal.getsignal(number) for number in interrupts.NUMBERS}
    yield
    interrupts.all_is_said()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def built() -> Built:
    """Patched QEMU, firmware and guest. A failure, not a skip, when one lacks."""
    found = Built.find()
    for name, path in vars(found).items():
        if not path.exists():
            pytest.fail(f"{name}: {path} is not there; run: make setup", pytrace=False)
    return found


@pytest.fixture(scope="session")
def kernels() -> dict[str, Kernel]:
    """Debian's kernels by version: 6.1 and 6.12. Fetched the first time."""
    try:
        return provide()
    except (AptError, ImageError, subprocess.CalledProcessError) as error:
        pytest.fail(f"the kernels cannot be fetched: {error}", pytrace=False)


@pytest.fixture
def world() -> Iterator[World]:
    """Two fresh hosts for one test."""
    try:
        hosts = World()
    except NoNamespaces as error:
        pytest.skip(f"this user may not make namespaces: {error}")
    with hosts:
        yield hosts


@pytest.fixture(scope="module")
def module_world() -> Iterator[World]:
    """Two hosts shared by the tests of a module, which must not mind."""
    try:
        hosts = World()
    except NoNamespaces as error:
        pytest.skip(f"this user may not make namespaces: {error}")
    with hosts:
        yield hosts


def our_processes() -> dict[int, str]:
    """Processes of this run other than this one: id and command line."""
    found = {}
    for pid in marked(RUN_MARK):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found[pid] = b" ".join(words).decode(errors="replace").strip()
    return found


def foreign(name: str) -> bool:
    """True for what a living process of somebody else on this machine made."""
    found = re.match(r"cpc-world-(\d+)-", name)
    owner = int(found[1]) if found else os.getpid()
    return owner != os.getpid() and Path(f"/proc/{owner}").exists() and owner not in our_processes()


def places() -> set[str]:
    """Files and devices that a VM could leave behind on this machine."""
    shared = {f"/dev/shm/{n}" for n in os.listdir("/dev/shm") if "cpc" in n and not foreign(n)}
    devices = {f"device {n}" for n in os.listdir("/sys/class/net") if n.startswith("tap")}
    named = Path("/run/netns")
    spaces = {f"netns {p.name}" for p in named.iterdir()} if named.is_dir() else set()
    return shared | devices | spaces


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """After every module: no process, shared file, tap or namespace of ours."""
    before, there = places(), our_processes()
    yield
    deadline = time.monotonic() + LEAK_SECONDS
    while (left := set(our_processes()) - set(there)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        words = our_processes()
        pytest.fail("left running: " + "; ".join(words.get(pid, str(pid)) for pid in left))
    # What another run's processes leave when they are killed, its guard removes.
    while (fresh := places() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not fresh, f"left behind: {sorted(fresh)}"
