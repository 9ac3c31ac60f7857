# SPDX-License-Identifier: Apache-2.0
"""What stands frozen on the source when the guest is proven lost: it is said what to do with it,
and that does it."""

from __future__ import annotations

from tests.patience import patient
from tests.recovery.hosts import VM, Scene, finish, kill, told


def test_frozen_remains_of_a_guest_that_is_lost(scene: Scene) -> None:
    migrate, receive = scene.moving(scene.a, "after COMMIT", grace=patient(60.0))
    incoming = scene.b.qemu()
    assert incoming is not None
    kill(incoming)
    scene.stage.release("host-a")
    assert (finish(migrate), finish(receive)) == (7, 7), told(migrate) + told(receive)
    command = f"cpcctl vm stop --force {VM}"
    assert f"  try: {command}, on host-a: " in migrate.err.read_text()
    assert scene.a.state() == "frozen"
    assert f"  try: {command}: " in told(scene.a.run("vm", "status", VM))
    assert "vm status t names the job" in told(scene.a.run("vm", "stop", VM, expect=3))
    scene.a.run(*command.split()[1:])
    assert scene.a.state() == "absent"
    scene.b.check_nothing_left()


def test_frozen_source_that_may_be_needed(scene: Scene) -> None:
    """Nothing is proven: its job is named, and not how to end it."""
    migrate, receive = scene.moving(scene.a, "after COMMIT")
    migrate.kill()
    kill(scene.worker())
    scene.stage.release("host-a")
    words = told(scene.a.run("vm", "status", VM))
    assert scene.a.state() == "frozen"
    assert "job resume" in words and "--force" not in words
    assert finish(receive) in (0, 1), told(receive)
    assert finish(scene.a.start("job", "resume", scene.a.job("migrate")["id"])) in (0, 1, 5)
