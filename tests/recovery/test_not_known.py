# SPDX-License-Identifier: Apache-2.0
"""What cannot be asked is not dead: exit 5, nothing is removed, and it is settled later."""

from __future__ import annotations

import pytest

from tests.lib.fork_server import ForkServer
from tests.patience import patient
from tests.recovery.hosts import VM, Host, Scene, finish, kill, told, until
from tests.recovery.kills import resume
from tests.recovery.test_kill_matrix import check_journal

GRACE = patient(60.0)


def controllers_killed(scene: Scene, at: str, host: str) -> None:
    """A migration whose controllers are both gone when that host's machine is at a point."""
    migrate, receive = scene.moving(scene.a if host == "a" else scene.b, at, grace=GRACE)
    worker = scene.worker()
    for command in (migrate, receive):
        command.kill()
        finish(command)
    kill(worker)
    scene.stage.release(f"host-{host}")


def settled_on_b(scene: Scene) -> None:
    """Both jobs can be resumed now, and the guest runs there."""
    again = resume(scene.b, "receive")
    ours = resume(scene.a, "migrate")
    assert (finish(ours), finish(again)) == (0, 0), told(ours) + told(again)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")
    check_journal(scene.stage.lines())


def test_qemu_of_the_destination_does_not_answer(scene: Scene, impatient: ForkServer) -> None:
    """With the COMMIT out. It may run the guest, so nobody says that it is lost."""
    controllers_killed(scene, "after RUN", "b")
    scene.stage.order("host-b", "deaf")
    deaf = resume(scene.b, "receive")
    scene.a.impatient(impatient)
    ours = resume(scene.a, "migrate")
    assert finish(ours) == 5, told(ours)
    deaf.kill()
    finish(deaf)
    assert "lost" not in ours.err.read_text()
    assert scene.stage.runs_somewhere()
    scene.a.impatient(None)
    scene.stage.order("host-b", "hear")
    settled_on_b(scene)


def test_qemu_of_the_source_does_not_answer(scene: Scene, impatient: ForkServer) -> None:
    controllers_killed(scene, "before SEND", "a")
    scene.stage.order("host-a", "deaf")
    scene.a.impatient(impatient)
    ours = resume(scene.a, "migrate")
    assert finish(ours) == 5, told(ours)
    assert "lost" not in ours.err.read_text()
    assert scene.stage.runs_somewhere()
    scene.a.impatient(None)
    scene.stage.order("host-a", "hear")
    ours = resume(scene.a, "migrate")
    assert finish(ours) == 1, told(ours)
    assert scene.a.state() == "running"


def hvcpu(host: Host) -> str:
    """State of its only hvCPU."""
    return str(host.json("hvcpu", "list", VM)[0]["state"])


@pytest.mark.parametrize(("at", "side"), [("before SEND", "a"), ("after RUN", "b")])
def test_dead_hvcpus(scene: Scene, at: str, side: str) -> None:
    """QEMU and the ring are there, and nobody runs the firmware: its guest may run for all that."""
    controllers_killed(scene, at, side)
    host, kind = (scene.a, "migrate") if side == "a" else (scene.b, "receive")

    def dead() -> bool:
        scene.stage.order(host.name, "dead-hvcpus")  # once it has parked
        return hvcpu(host) == "dead"

    until(dead, "the hvCPU to die")
    tried = resume(host, kind)
    assert finish(tried) == 5, told(tried)
    said = tried.err.read_text()
    assert "no hvCPU that can be called" in said or "0 dead" in said
    assert "lost" not in said and scene.stage.runs_somewhere()
    # What it says is to be done is what helps.
    assert f"cpcctl hvcpu remove {VM} 0, then cpcctl hvcpu add {VM}" in said
    host.run("hvcpu", "remove", VM, "0")
    host.run("hvcpu", "add", VM)
    settled(scene, side)


def settled(scene: Scene, side: str) -> None:
    """Both can be asked again: the guest is brought to that side."""
    if side == "b":
        settled_on_b(scene)
        return
    ours = resume(scene.a, "migrate")
    assert finish(ours) == 1, told(ours)
    assert scene.a.state() == "running"
    check_journal(scene.stage.lines())


@pytest.mark.parametrize(("at", "side"), [("before SEND", "a"), ("after RUN", "b")])
def test_hvcpus_that_do_not_answer(
    scene: Scene, impatient: ForkServer, at: str, side: str
) -> None:
    """Alive as far as QEMU knows."""
    migrate, receive = scene.moving(scene.a if side == "a" else scene.b, at, grace=GRACE)
    host, kind = (scene.a, "migrate") if side == "a" else (scene.b, "receive")
    worker = scene.worker()
    for command in (migrate, receive):
        command.kill()
        finish(command)
    kill(worker)
    scene.stage.order(host.name, "mute-hvcpus")
    scene.stage.release(host.name)
    until(lambda: hvcpu(host) == "parked", "the hvCPU to park")
    host.impatient(impatient)
    tried = resume(host, kind)
    assert finish(tried) == 5, told(tried)
    assert "lost" not in tried.err.read_text() and scene.stage.runs_somewhere()
    host.impatient(None)
    scene.stage.order(host.name, "wake-hvcpus")
    settled(scene, side)
