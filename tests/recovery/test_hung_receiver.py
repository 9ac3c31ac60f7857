# SPDX-License-Identifier: Apache-2.0
"""A receiver that hangs longer than the source waits for it, and goes on later; and a network
through which nothing comes any more, without a word of that to either end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lib.fork_server import ForkServer
from tests.patience import patient
from tests.recovery.hosts import VM, Scene, finish, told
from tests.recovery.kills import POINTS, Point, resume
from tests.recovery.test_kill_matrix import check_journal


@dataclass
class Ended:
    """codes: of migrate and receive. status: of the VM on host-a before the receiver went on;
    None: vm status failed. words: what all of them said, for a failure."""

    codes: tuple[int, int]
    status: dict[str, Any] | None
    words: str


def hang(server: ForkServer, impatient: ForkServer, point: Point) -> Ended:
    """The receiver is stopped at a point until the source has ended."""
    with closing(Scene(server)) as scene:
        if point.committed:
            scene.a.impatient(impatient)  # it has to settle what does not get clearer
        host = scene.a if point.host == "a" else scene.b
        migrate, receive = scene.moving(host, point.at)
        receive.kill(signal.SIGSTOP)
        has_disks = point.phase == "prepare"
        if has_disks:
            scene.stage.hold("host-a", "before blockdev-set-active")
        scene.stage.release(host.name)
        if has_disks:
            # The guest cannot go on before the destination has given up its disks.
            scene.wait_held(scene.a)
            receive.kill(signal.SIGCONT)
            scene.stage.release("host-a")
        code = finish(migrate)
        status = scene.a.json("vm", "status", VM)
        receive.kill(signal.SIGCONT)
        if point.phase == "preflight":
            receive.kill(signal.SIGTERM)  # it was asked for nothing, and waits for another source
        ended = Ended((code, finish(receive)), status, told(migrate) + told(receive))
        check_journal(scene.stage.lines())
        if code == 5:
            settle(scene)
        if code != 5 and point.phase != "finished":
            scene.b.check_nothing_left()
            assert scene.stage.runs_somewhere()
        return ended


def settle(scene: Scene) -> None:
    """What the source could not know is found out when both sides can be asked."""
    scene.a.impatient(None)
    again = resume(scene.b, "receive")
    ours = resume(scene.a, "migrate")
    assert (finish(ours), finish(again)) == (0, 0), told(ours) + told(again)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")
    check_journal(scene.stage.lines())


@pytest.fixture(scope="module")
def outcomes(
    server: ForkServer, impatient: ForkServer, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Ended]]]:
    """Every case that was chosen, side by side: most of each is waiting."""
    chosen = {item.name for item in request.session.items}
    with ThreadPoolExecutor(3 * (os.cpu_count() or 1)) as pool:
        yield {
            point.id: pool.submit(hang, server, impatient, point)
            for point in POINTS
            if f"test_receiver_hangs[{point.id}]" in chosen
        }


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.id)
def test_receiver_hangs(outcomes: dict[str, Future[Ended]], point: Point) -> None:
    ended = outcomes[point.id].result(patient(200))
    if point.phase == "finished":
        # The source has proof that the guest runs there.
        assert (ended.codes, ended.status) == ((0, 0), None), ended.words
        return
    assert ended.status is not None, ended.words
    if point.committed:
        assert (ended.codes, ended.status["state"]) == ((5, 0), "frozen"), ended.words
        assert "job resume" in ended.words
        return
    # Before it was asked for anything, that is a host that cannot be reached.
    codes = (4, 143) if point.phase == "preflight" else (1, 1)
    assert (ended.codes, ended.status["state"]) == (codes, "running"), ended.words


@pytest.mark.parametrize("at", ["before SEND", "after COMMIT"])
def test_network_falls_silent(scene: Scene, impatient: ForkServer, at: str) -> None:
    """Both ends notice that by themselves, and the guest is where it was."""
    committed = "COMMIT" in at
    if committed:
        scene.a.impatient(impatient)
    migrate, receive = scene.moving(scene.a, at)
    scene.cable.hush()
    scene.stage.release("host-a")
    assert finish(receive) == 1, told(receive)
    assert finish(migrate) == (5 if committed else 1), told(migrate)
    assert scene.a.state() == ("frozen" if committed else "running")
    scene.cable.cut(False)
    if committed:
        scene.a.impatient(None)
        again, ours = resume(scene.b, "receive"), resume(scene.a, "migrate")
        assert (finish(ours), finish(again)) == (1, 1), told(ours) + told(again)
    assert scene.a.state() == "running"
    scene.b.check_nothing_left()
    check_journal(scene.stage.lines())
