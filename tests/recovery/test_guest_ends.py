# SPDX-License-Identifier: Apache-2.0
"""The guest itself ends, or begins anew, while it is migrated: nothing failed, and nothing
is lost."""

from __future__ import annotations

import pytest

from tests.recovery.hosts import Scene, finish, told, until
from tests.recovery.test_kill_matrix import check_journal

# While the guest runs on the source.
RUNNING = ("before query-status", "before OPEN", "before SEND", "before FREEZE")
WORDS = {"shutdown": "the guest shut down", "panic": "the guest panicked"}


@pytest.mark.parametrize(
    ("at", "how"), [*((at, "shutdown") for at in RUNNING), ("before SEND", "panic")]
)
def test_guest_that_ends_itself_is_stopped_and_not_lost(scene: Scene, at: str, how: str) -> None:
    migrate, receive = scene.moving(scene.a, at)
    scene.stage.order("host-a", how)
    scene.stage.release("host-a")
    code = finish(migrate)
    assert code not in (0, 5, 7), told(migrate)
    said = migrate.err.read_text()
    assert WORDS[how] in said and "lost" not in said
    assert scene.a.state() == "stopped"
    shown = scene.a.json("job", "show", scene.a.job("migrate")["id"])
    assert WORDS[how] in str(shown["error"]) and shown["exit_code"] == code
    if at == RUNNING[0]:
        receive.kill()  # it was asked for nothing, and waits on
    assert finish(receive) in (-9, 1, code), told(receive)
    assert "lost" not in receive.err.read_text() and scene.b.state() == "absent"


@pytest.mark.parametrize("at", ["before SEND", "before FREEZE"])
def test_guest_that_resets_itself_moves_on(scene: Scene, at: str) -> None:
    migrate, receive = scene.moving(scene.a, at)
    scene.stage.order("host-a", "reset")
    scene.stage.release("host-a")
    assert (finish(migrate), finish(receive)) == (0, 0), told(migrate)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")
    assert any("is reset" in line for line in scene.stage.lines())
    check_journal(scene.stage.lines())


@pytest.mark.parametrize("at", ["before query-status", "before SEND", "before STATE"])
def test_crash_of_the_source(scene: Scene, at: str) -> None:
    migrate, receive = scene.moving(scene.a, at)
    scene.stage.order("host-a", "crash")
    scene.stage.release("host-a")
    preflight = at == RUNNING[0]
    assert finish(migrate) == (4 if preflight else 7), told(migrate)
    assert "crashed (SIGABRT)" in migrate.err.read_text()
    if preflight:
        receive.kill()
    assert finish(receive) == (-9 if preflight else 7), told(receive)


def test_guest_that_ends_right_after_it_arrived(scene: Scene) -> None:
    """It moved: that it shut down there is what `vm status` says."""
    migrate, receive = scene.moving(scene.a, "before FINISH")
    scene.stage.order("host-b", "shutdown")
    until(lambda: not scene.stage.runs_somewhere(), "the guest to end")
    scene.stage.release("host-a")
    assert finish(migrate) == 0, told(migrate)
    assert finish(receive) not in (5, 7), told(receive)
    assert scene.b.state() == "stopped"
