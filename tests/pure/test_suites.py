# SPDX-License-Identifier: Apache-2.0
"""Which suite and how many streams a migration uses, and how speeds are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cpcctl import abi
from cpcctl.errors import ExitCode
from cpcctl.host import cores, suite_speed
from cpcctl.host.firmware import Hvcpu
from cpcctl.host.shm import CallError, Reply
from cpcctl.migrate import parallel, suites
from cpcctl.migrate.parallel import Room
from cpcctl.ui.check import refusal

L, X2, GCM, CHACHA = (
    abi.SUITE_AEGIS128L, abi.SUITE_AEGIS128X2, abi.SUITE_AES256GCM, abi.SUITE_CHACHA20POLY1305,
)
ALL = sum(abi.SUITE_BIT(suite) for suite in (L, X2, GCM, CHACHA))


@pytest.mark.parametrize(
    ("allowed", "seal", "opening", "best"),
    [
        # A processor where X2, first by preference, is the slowest of all.
        (ALL, {L: 185e6, X2: 26e6, GCM: 43e6}, {L: 185e6, X2: 26e6, GCM: 43e6}, L),
        (ALL, {L: 953e6, X2: 1170e6}, {L: 953e6, X2: 1170e6}, X2),
        # The slower side decides: fast here, slow there.
        (ALL, {L: 500e6, X2: 2000e6}, {L: 400e6, X2: 30e6}, L),
        # What is not measured on both sides cannot be compared.
        (ALL, {L: 100e6, X2: 900e6, CHACHA: 80e6}, {L: 100e6, CHACHA: 90e6}, L),
        # The policy comes first.
        (abi.SUITE_BIT(GCM) | abi.SUITE_BIT(CHACHA), {L: 9e9, GCM: 4e6, CHACHA: 5e6},
         {L: 9e9, GCM: 4e6, CHACHA: 5e6}, CHACHA),
    ],
)
def test_the_fastest_on_both_sides(
    allowed: int, seal: suite_speed.Speeds, opening: suite_speed.Speeds, best: int
) -> None:
    choice = suites.choose(allowed, seal, opening)
    assert choice.suites == abi.SUITE_BIT(best)
    assert f"{seal[best] / 1e6:.0f} MB/s sealed here" in choice.why


@pytest.mark.parametrize(("seal", "opening"), [({}, {}), ({L: 1e9}, {}), ({}, {L: 1e9})])
def test_without_figures_the_firmware_prefers(
    seal: suite_speed.Speeds, opening: suite_speed.Speeds
) -> None:
    assert suites.choose(ALL, seal, opening) == suites.Choice(
        ALL, "by preference: no speeds were measured"
    )


class Machine:
    """An hvCPU whose calls take as long as the bytes need, on a clock of its own."""

    def __init__(self, speeds: dict[int, float], refuses: int = abi.S_BAD_ARGUMENT) -> None:
        self.speeds = speeds
        self.refuses = refuses
        self.now = 0.0
        self.calls: list[tuple[int, int, int]] = []

    def call(self, op: int, args: tuple[int, int, int], **_: Any) -> None:
        assert op == abi.OP_SPEED
        suite, _direction, records = args
        assert 0 < records <= abi.SPEED_RECORDS_MAX
        self.calls.append(args)
        if suite not in self.speeds:
            raise CallError(0, op, Reply(self.refuses, b"", (0,) * 4, None, (0,) * 3), "a")  # type: ignore[arg-type]
        self.now += 0.0003 + records * abi.RUN_BYTES / self.speeds[suite]

    def measure(self) -> suite_speed.Speeds:
        """As if it were an Hvcpu."""
        return suite_speed.measure(self, abi.SPEED_SEAL, lambda: self.now)  # type: ignore[arg-type]


def test_speeds_are_those_of_the_machine() -> None:
    """Fast ones get more records, so that the call itself is little beside them."""
    truth = {L: 16e9, X2: 26e6, GCM: 240e6}
    machine = Machine(truth)
    found = machine.measure()
    assert found.keys() == truth.keys()
    for suite, speed in found.items():
        assert 0.9 * truth[suite] < speed <= truth[suite]
    assert machine.now < 0.3


def test_a_slow_suite_takes_two_records() -> None:
    """One that takes longer than all of the others by itself."""
    machine = Machine({L: 2e9, GCM: 5e6})
    found = machine.measure()
    assert [suite for suite, _, _ in machine.calls].count(GCM) == 2
    assert found[GCM] == pytest.approx(5e6, rel=0.1)


def test_one_record_that_waited_for_something_else_is_no_speed() -> None:
    machine = Machine({L: 2e9, X2: 3e9})
    call, stolen = machine.call, {(X2, abi.SPEED_SEAL, 1): [0.0, 0.02]}

    def interrupted(op: int, args: tuple[int, int, int], **more: Any) -> None:
        call(op, args, **more)
        machine.now += stolen.get(args, [0.0]).pop(0) if stolen.get(args) else 0.0

    machine.call = interrupted  # type: ignore[method-assign]
    assert machine.measure()[X2] > 2.5e9


def test_a_firmware_without_the_call_has_no_speeds() -> None:
    assert Machine({}, abi.S_UNKNOWN_OP).measure() == {}


def test_measured_once_in_each_direction(tmp_path: Path) -> None:
    hvcpu: Hvcpu = Machine({L: 1e9, CHACHA: 1e8})  # type: ignore[assignment]
    calls = hvcpu.calls  # type: ignore[attr-defined]
    path = tmp_path / "suites.json"
    first = suite_speed.remembered(path, hvcpu, abi.SPEED_SEAL)
    assert {direction for _, direction, _ in calls} == {abi.SPEED_SEAL}
    count = len(calls)
    assert suite_speed.remembered(path, hvcpu, abi.SPEED_SEAL) == first
    assert len(calls) == count
    assert suite_speed.shown(path, hvcpu).keys() == {"aegis-128l", "chacha20-poly1305"}
    assert {direction for _, direction, _ in calls[count:]} == {abi.SPEED_OPEN}


@pytest.mark.parametrize(
    "damaged", [b"", b"[1]", b"\xff", b'{"seal": [1]}', b'{"seal": {"1": "x"}}']
)
def test_a_damaged_file_is_no_trouble(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "suites.json"
    path.write_bytes(damaged)
    found = suite_speed.remembered(path, Machine({}), abi.SPEED_SEAL)  # type: ignore[arg-type]
    assert found == {}


def test_what_is_no_speed_is_left_out() -> None:
    bad: object
    for bad in (0, -1, float("inf"), float("nan"), "1", None, [1]):
        assert suite_speed.read({"1": bad, "2": 5}) == {2: 5.0}
    assert suite_speed.read({"99": 1.0}) == suite_speed.read(None) == {}


def room(hvcpus: int, cores: int, free: float, machine: str) -> Room:
    return Room(hvcpus, cores, free, machine)


@pytest.mark.parametrize(
    ("here", "there", "streams"),
    [
        # Two hvCPUs on two shared cores are slower than one.
        (room(2, 2, 2.0, "m"), room(2, 2, 2.0, "m"), 1),
        (room(4, 4, 4.0, "m"), room(4, 4, 4.0, "m"), 1),
        (room(4, 8, 8.0, "m"), room(4, 8, 8.0, "m"), 2),
        # Machines of their own.
        (room(2, 2, 2.0, "a"), room(2, 2, 2.0, "b"), 1),
        (room(2, 4, 3.9, "a"), room(2, 4, 4.0, "b"), 2),
        (room(4, 16, 16.0, "a"), room(8, 16, 16.0, "b"), 4),
        # The guest and others keep the cores of one of them busy.
        (room(4, 16, 3.2, "a"), room(4, 16, 16.0, "b"), 2),
        (room(4, 16, 0.0, "a"), room(4, 16, 16.0, "b"), 1),
        (room(4, 16, 16.0, "a"), room(4, 16, 0.4, "b"), 1),
        # Who cannot say what it is, is another machine.
        (room(2, 4, 4.0, ""), room(2, 4, 4.0, ""), 2),
        (room(1, 64, 64.0, "a"), room(8, 64, 64.0, "b"), 1),
    ],
)
def test_streams_by_idle_cores(here: Room, there: Room, streams: int) -> None:
    assert parallel.choose(here, there).streams == streams
    assert parallel.choose(there, here).streams == streams


def test_streams_by_the_operator() -> None:
    busy = room(4, 2, 0.0, "m")
    assert parallel.choose(busy, busy, 3) == parallel.Parallel(3, "--parallel 3")


def test_why_names_the_cores() -> None:
    shared, other = room(2, 2, 1.5, "m"), room(2, 8, 7.5, "n")
    assert parallel.choose(shared, shared).why == (
        "1 of 2 hvCPUs: both sides share 2 cores, 1.5 of them idle"
    )
    assert parallel.choose(shared, other).why == (
        "1 of 2 hvCPUs: 1.5 of 2 cores idle here, 7.5 of 8 there"
    )


def test_parallel_that_cannot_be_is_refused() -> None:
    assert parallel.check("a", "p1", 2, 2).ok and parallel.check("a", "p1", 1, 0).ok
    error = refusal([parallel.check("a", "p1", 1, 4)])
    assert error is not None and error.exit_code is ExitCode.REFUSED
    assert "--parallel is 4, and VM p1 has 1 hvCPU" in str(error.cause or error.message)
    assert error.hint == "cpcctl hvcpu add p1 --count 3"


STAT = """cpu  100 0 100 800 0 0 0 0 0 0
cpu0 10 0 10 70 10 0 0 0 0 0
cpu1 90 0 0 10 0 0 0 0 90 0
cpu7 0 0 0 100 0 0 0 0 0 0
intr 12
"""


def test_idle_cores_of_proc_stat() -> None:
    assert cores.parse(STAT, {0, 1}) == (90, 200, 2)
    assert cores.between((0, 0, 2), cores.parse(STAT, {0, 1})) == pytest.approx(0.9)
    assert cores.between((5, 9, 2), (5, 9, 2)) == 2.0
    assert 0.0 <= cores.Look().idle() <= cores.count()


def test_a_look_at_the_cores_leaves_out_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both cores are busy, one of them with this process.
    now = 0.0
    texts = iter(["cpu0 0 0 0 0 0\ncpu1 0 0 0 0 0\n", "cpu0 50 0 0 0 0\ncpu1 50 0 0 0 0\n"])
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.process_time", lambda: now)
    monkeypatch.setattr(cores.Look, "_read", lambda self: cores.parse(next(texts), self._mine))
    look = cores.Look()
    now = 0.5
    assert look.idle() == pytest.approx(1.0)
