# SPDX-License-Identifier: Apache-2.0
"""Whatever dies in whichever phase: one side runs the guest, or it is proven lost.

Real controllers and the real firmware, on fake machines (tests/lib/fake_machine). Cases run
side by side in the background from the first test on; each test waits for its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.lib.fork_server import ForkServer
from tests.patience import patient
from tests.recovery.hosts import VM, Scene, finish
from tests.recovery.kills import POINTS, VICTIMS, Outcome, Point, play

# Most of a case is waiting.
AT_ONCE = 3 * (os.cpu_count() or 1)
CASES = [
    (point, victim)
    for point in POINTS
    for victim in VICTIMS
    # In preflight there is no QEMU on the destination yet.
    if (point.phase, victim) != ("preflight", "destination-qemu")
]
NAMES = [f"{point.id}-{victim}" for point, victim in CASES]
STATES = {0: "done", 1: "failed", 4: "failed", 5: "unproven", 7: "lost", 143: "cancelled"}


class Wanted:
    """How a case has to end; the fields are those of Outcome."""

    def __init__(self, point: Point, victim: str) -> None:
        self.point, self.victim = point, victim
        self.codes, self.states = self._ends()
        # To be seen by one more migration: nothing is left that blocks it.
        leftover = victim == "destination-controller" and point.host == "b"
        self.again = self.states[0] == "running" and (leftover or point.at == "before SEND")

    @property
    def runs(self) -> bool:
        """Somebody runs the guest."""
        return "running" in self.states

    @property
    def host(self) -> str:
        """Who does."""
        return "host-a" if self.states[0] == "running" else "host-b"

    def _ends(self) -> tuple[tuple[int, int], tuple[str, str]]:
        """Exit codes of migrate and receive, states on a and b."""
        point, victim = self.point, self.victim
        if point.phase == "preflight":
            return self._preflight()
        if victim == "source-qemu":
            # Nobody can run a guest that was not given away, and a COMMIT that nobody
            # was told of gives nothing away.
            signed = point.committed and point.phase != "commit"
            return ((0, 0), ("absent", "running")) if signed else ((7, 7), ("stopped", "absent"))
        if victim == "destination-qemu" and point.phase == "finished":
            # The source has proof that the guest ran there, and is right.
            return (0, 7), ("absent", "stopped")
        if victim == "destination-qemu" and point.committed:
            return (7, 7), ("frozen", "absent")
        if point.committed:
            return (0, 0), ("absent", "running")
        if victim == "destination-controller" and point.phase != "prepare":
            # Its shell never ran; the next receive removes it.
            return (1, -9), ("running", "frozen")
        return (1, 1), ("running", "absent")

    def _preflight(self) -> tuple[tuple[int, int], tuple[str, str]]:
        """Nothing was started: whoever lives is as before."""
        ends = {
            "source-qemu": ((4, 143), ("stopped", "absent")),
            "source-controller": ((1, 143), ("running", "absent")),
            "destination-controller": ((4, -9), ("running", "absent")),
            "link": ((4, 143), ("running", "absent")),
        }
        return ends[self.victim]


@pytest.fixture(scope="module")
def outcomes(
    server: ForkServer, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Outcome]]]:
    """Every case that was chosen, running or run."""
    chosen = {item.name for item in request.session.items}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            name: pool.submit(play, server, *case, Wanted(*case).again)
            for name, case in zip(NAMES, CASES, strict=True)
            if f"test_killed[{name}]" in chosen
        }


@pytest.mark.parametrize(("name", "case"), list(zip(NAMES, CASES, strict=True)), ids=NAMES)
def test_killed(
    outcomes: dict[str, Future[Outcome]], name: str, case: tuple[Point, str]
) -> None:
    got, wanted = outcomes[name].result(patient(500)), Wanted(*case)
    words = "\n".join([*got.errors.values(), *got.journal])
    migrate, receive = got.codes["migrate"], got.codes["receive"]
    assert (migrate, receive) == wanted.codes, words
    assert got.states == wanted.states, words
    for kind, code in got.codes.items():
        ended = ("interrupted", None) if code < 0 else (STATES[code], code)
        assert got.jobs[kind] == ended, words
    check_journal(got.journal)
    assert got.runs == wanted.runs, words
    if wanted.runs and not wanted.again:
        # Whoever began to run it last does.
        assert [line for line in got.journal if " runs " in line][-1].startswith(wanted.host)
    if migrate == 7:
        assert "lost" in got.errors["migrate"] and "restore it" in got.errors["migrate"]
        # What is left of the source is named, and only where there is something left.
        assert (f"vm stop --force {VM}" in got.errors["migrate"]) is (got.states[0] == "frozen")
    if migrate == 1:
        assert "VM t runs on host-a" in got.errors["migrate"]
    assert got.again == ((0, 0) if wanted.again else None), words


def check_journal(lines: list[str]) -> None:
    """Never two machines ran the guest at once, and none with another memory than it had."""
    wrong = [line for line in lines if "SECOND" in line or "CORRUPT" in line]
    assert not wrong, "\n".join(lines)


def test_nothing_dies(scene: Scene) -> None:
    """The control: the same guest moves, and goes on there from where it was."""
    scene.vm()
    receive, ticket = scene.receive()
    assert (finish(scene.migrate(ticket)), finish(receive)) == (0, 0)
    lines = scene.stage.lines()
    assert [line.split()[0] for line in lines if " runs " in line] == ["host-a", "host-b"]
    assert lines[-2].split()[-1] == lines[-1].split()[-1] != "0"
    check_journal(lines)
