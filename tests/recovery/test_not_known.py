# SPDX-License-Identifier: Apache-2.0
"""What cannot be asked is not dead: exit 5, nothing is removed, and it is settled later."""

from __future__ import annotations

from tests.patience import patient
from tests.recovery.hosts import Scene, finish, kill, told
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


def test_qemu_of_the_destination_does_not_answer(scene: Scene) -> None:
    """With the COMMIT out. It may run the guest, so nobody says that it is lost."""
    controllers_killed(scene, "after RUN", "b")
    scene.stage.order("host-b", "deaf")
    deaf = resume(scene.b, "receive")
    ours = resume(scene.a, "migrate")
    assert finish(ours) == 5, told(ours)
    deaf.kill()
    finish(deaf)
    assert "lost" not in ours.err.read_text()
    assert scene.stage.runs_somewhere()
    scene.stage.order("host-b", "hear")
    settled_on_b(scene)


def test_qemu_of_the_source_does_not_answer(scene: Scene) -> None:
    controllers_killed(scene, "before SEND", "a")
    scene.stage.order("host-a", "deaf")
    ours = resume(scene.a, "migrate")
    assert finish(ours) == 5, told(ours)
    assert "lost" not in ours.err.read_text()
    assert scene.stage.runs_somewhere()
    scene.stage.order("host-a", "hear")
    ours = resume(scene.a, "migrate")
    assert finish(ours) == 1, told(ours)
    assert scene.a.state() == "running"
