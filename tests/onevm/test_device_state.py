# SPDX-License-Identifier: Apache-2.0
"""Device state from another host that is not as QEMU saves it: refused or loaded.

The states are made anew in each run, from what a guest of this run was saved as. One may
end the QEMU that loads it, which has nothing to lose; the guest on the source goes on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import itertools
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpcctl import abi
from cpcctl.config.settings import Settings
from cpcctl.host.folders import make_folder
from cpcctl.host.qmp import Qmp, QmpError, QmpGone
from cpcctl.host.shm import RingFile
from cpcctl.host.state import Folders, remove_tree
from cpcctl.migrate import session
from cpcctl.migrate.side import Side
from cpcctl.qemu import sandbox
from cpcctl.vm import command as commands
from cpcctl.vm import lifecycle, prepare
from cpcctl.vm import spec as specs
from cpcctl.vm.files import unopened
from cpcctl.vm.spec import VmSpec
from tests.patience import patient

pytestmark = pytest.mark.slow

FEW, MANY = 48, 10_000
HEAD_BYTES = 8
END = b"\0"
LOAD_SECONDS = patient(20.0)
END_SECONDS = patient(5.0)
Load = Callable[[bytes, str | None], str]


@pytest.fixture
def spec(built: Any) -> VmSpec:
    """A small machine with a device of most kinds."""
    document = {
        "name": "d", "memory": "64M", "ring_size": "2M", "machine": "q35",
        "kernel": str(built.vmlinuz), "initrd": str(built.tiny_initrd),
        "append": "console=ttyS0 quiet", "nics": [{"mode": "user"}],
        "devices": ["virtio-rng-pci", "virtio-balloon-pci"],
    }  # fmt: skip
    return specs.read(document, "d")


@pytest.fixture
def saved(
    place: Settings, spec: VmSpec, monkeypatch: pytest.MonkeyPatch
) -> Iterator[bytes]:
    """What the devices of a frozen guest are saved as; it lives on in the end."""
    line = prepare.command_line

    def without_vapic(*args: Any, **kwargs: Any) -> list[str]:
        # Once the BIOS has set it up its state is of use only with the memory, which stays here.
        return [*line(*args, **kwargs), "-global", "apic-common.vapic=off"]

    monkeypatch.setattr(lifecycle, "command_line", without_vapic)
    monkeypatch.setattr(prepare, "command_line", without_vapic)
    names = ("a", "b")
    vms = [lifecycle.start(place, replace(spec, name=n), incoming=n == "b") for n in names]
    source, there = (Side.attach(vm) for vm in vms)
    hello = session.open_session(source.main, abi.ROLE_SOURCE, 0x1E)
    answer = session.open_session(there.main, abi.ROLE_DESTINATION, 0x1E)
    mine, theirs = session.accept(source.main, answer), session.accept(there.main, hello)
    session.confirm(source.main, theirs)
    session.confirm(there.main, mine)
    session.freeze(source.main)
    yield source.save_devices()[0]
    session.resume(source.main)
    assert source.qmp.execute("query-status")["running"] is True
    assert vms[0].alive
    for side in (source, there):
        side.close()


@pytest.fixture
def load(place: Settings, spec: VmSpec, tmp_path: Path) -> Load:
    """Loads a state into a QEMU of its own: what became of it."""
    resolved = prepare.resolve(place, spec)
    numbers = itertools.count()

    def run(state: bytes, sha256: str | None = None) -> str:
        name = f"f{next(numbers)}"
        wanted = replace(resolved, name=name)
        paths = Folders.of(place).vm(name)
        make_folder(paths.run)
        make_folder(paths.state)
        RingFile.create(paths.ring, commands.layout(wanted)).close()
        argv = prepare.command_line(place, wanted, unopened(wanted), incoming=True)
        with (tmp_path / name).open("wb") as log:
            qemu = subprocess.Popen(
                [*argv, *sandbox.Sandbox(None).argv], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env=sandbox.environment(os.environ),
            )  # fmt: skip
        try:
            return _load(qemu, paths.qmp, state, sha256)
        finally:
            qemu.kill()
            qemu.wait()
            # Thousands of them do not fit on a disk.
            remove_tree(paths.run)
            remove_tree(paths.state)

    return run


def _load(qemu: subprocess.Popen[bytes], path: Path, state: bytes, sha256: str | None) -> str:
    deadline = time.monotonic() + LOAD_SECONDS
    while not path.is_socket():
        assert qemu.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    fd = os.memfd_create("state")
    os.write(fd, state)
    digest = sha256 or hashlib.sha256(state).hexdigest()
    with contextlib.closing(_connect(path, deadline)) as qmp:
        try:
            qmp.hand_over("s", fd)
            qmp.execute(
                "cpc-load-device-state", _timeout=LOAD_SECONDS, fdname="s", sha256=digest
            )
            return "loaded"
        except QmpError as error:
            return str(error.cause)
        except QmpGone:
            with contextlib.suppress(subprocess.TimeoutExpired):
                qemu.wait(END_SECONDS)  # its sockets go before it does
                return "ended"
            return "hung"
        finally:
            os.close(fd)


def _connect(path: Path, deadline: float) -> Qmp:
    """Between bind and listen a connection is refused: try again."""
    while True:
        try:
            return Qmp.connect(path)
        except QmpGone:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def sections(state: bytes) -> list[bytes]:
    """A state's sections; each begins with its type, number and name, and ends with both."""
    found, at = [], HEAD_BYTES
    while state[at : at + 1] == b"\4":
        end = state.index(b"\x7e" + state[at + 1 : at + 5], at + 5) + 5
        found.append(state[at:end])
        at = end
    assert state[at:] == END
    return found


def name(section: bytes) -> str:
    return section[6 : 6 + section[5]].decode()


def joined(state: bytes, parts: list[bytes]) -> bytes:
    return state[:HEAD_BYTES] + b"".join(parts) + END


def test_exactly_the_devices_that_there_are(saved: bytes, load: Load) -> None:
    parts = sections(saved)
    assert len(parts) > 20
    assert load(saved, None) == "loaded"
    assert "digest" in load(saved, "00" * 32)
    # Of the devices that are always saved every one has to be there.
    for victim in ("timer", "mc146818rtc", "i8259"):
        index = next(i for i, part in enumerate(parts) if name(part) == victim)
        less = joined(saved, parts[:index] + parts[index + 1 :])
        assert f"state of device '{victim}'" in load(less, None)
    assert "twice" in load(joined(saved, [*parts, parts[0]]), None)
    assert "goes on after its end" in load(saved + END, None)
    assert load(saved[:-1], None) != "loaded"


def mutated(saved: bytes, seed: int) -> bytes:
    """A state that differs from the saved one in some place."""
    chance = random.Random(seed)
    kind = chance.randrange(5)
    parts = sections(saved)
    if kind == 0:
        chance.shuffle(parts)
        return joined(saved, parts[: chance.randrange(1, len(parts) + 1)])
    data = bytearray(saved)
    if kind == 1:
        at = chance.randrange(len(data))
        del data[at : at + chance.randrange(1, 64)]
    elif kind == 2:
        at = chance.randrange(len(data))
        data[at:at] = chance.randbytes(chance.randrange(1, 64))
    else:
        for _ in range(chance.choice((1, 1, 2, 8))):
            data[chance.randrange(HEAD_BYTES, len(data))] = chance.choice(
                (0, 0xFF, 0x80, 0x7F, chance.randrange(256))
            )
    return bytes(data)


def check_mutated(saved: bytes, load: Load, count: int) -> None:
    """Refused or loaded, or the end of a QEMU that has no guest; never one that hangs."""
    first = random.randrange(1 << 32)

    def one(seed: int) -> str:
        became = load(mutated(saved, seed), None)
        assert became != "hung", f"seed {seed}"
        return became if became in ("loaded", "ended") else "refused"

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = Counter(pool.map(one, range(first, first + count)))
    print(f"{count} states from seed {first}: {dict(found)}")
    assert found["refused"] > count // 4


def test_states_that_are_no_states(saved: bytes, load: Load) -> None:
    check_mutated(saved, load, FEW)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_ten_thousand_states_that_are_no_states(saved: bytes, load: Load) -> None:
    check_mutated(saved, load, MANY)
