# SPDX-License-Identifier: Apache-2.0
"""The guest itself ends, or begins anew, while it is migrated: nothing failed, and nothing
is lost."""

from __future__ import annotations

import pytest

from tests.recovery.hosts import VM, Host, Scene, finish, told, until
from tests.recovery.test_kill_matrix import check_journal

# While the guest runs on the source.
RUNNING = ("before query-status", "before OPEN", "before SEND", "before FREEZE")
WORDS = {"shutdown": "the guest shut down", "panic": "the guest panicked"}


@pytest.mark.parametrize("at", RUNNING)
@pytest.mark.parametrize("how", WORDS)
def test_guest_that_ends_itself_is_stopped_and_not_lost(scene: Scene, at: str, how: str) -> None:
    """Every verb says how, on both sides."""
    migrate, receive = scene.moving(scene.a, at)
    scene.stage.order("host-a", how)
    scene.stage.release("host-a")
    assert finish(migrate) == 8, told(migrate)
    said = migrate.err.read_text()
    assert WORDS[how] in said and "lost" not in said
    assert f"VM {VM} is stopped on host-a" in said and "cpcctl vm start" in said
    assert ended_by(scene.a) == how
    assert job_says(scene.a, "migrate", how) == 8
    if at == RUNNING[0]:
        receive.kill()  # it was asked for nothing, and waits on
        finish(receive)
        return
    assert finish(receive) == 8, told(receive)
    assert WORDS[how] in receive.err.read_text() and "lost" not in receive.err.read_text()
    assert job_says(scene.b, "receive", how) == 8
    scene.b.check_nothing_left()


def ended_by(host: Host) -> str:
    """What `vm status` says of the end of a VM that is stopped there."""
    found = host.json("vm", "status", VM)
    assert found["state"] == "stopped" and found["ended"] in WORDS.values(), found
    return str(found["ended_by"]).removeprefix("guest-")


def job_says(host: Host, kind: str, how: str) -> int:
    """The exit code of the newest job of a kind, whose end `job show` gives that reason for."""
    job = host.job(kind)["id"]
    assert WORDS[how] in host.run("job", "show", job).out.read_text()
    shown = host.json("job", "show", job)
    assert WORDS[how] in str(shown["error"])
    return int(shown["exit_code"])


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


@pytest.mark.parametrize("how", WORDS)
@pytest.mark.parametrize("at", ["before FINISH", "after FINISH"])
def test_guest_that_ends_right_after_it_arrived(scene: Scene, at: str, how: str) -> None:
    """It moved: how it ended there is what the destination says."""
    migrate, receive = scene.moving(scene.a, at)
    scene.stage.order("host-b", how)
    until(lambda: not scene.stage.runs_somewhere(), "the guest to end")
    scene.stage.release("host-a")
    assert finish(migrate) == 0, told(migrate)
    assert finish(receive) == 8, told(receive)
    assert f"VM {VM} arrived on host-b; then {WORDS[how]}" in receive.err.read_text()
    assert job_says(scene.b, "receive", how) == 8
    assert scene.a.state() == "absent" and ended_by(scene.b) == how


@pytest.mark.parametrize("how", WORDS)
def test_guest_that_ends_before_its_source_knows_that_it_arrived(scene: Scene, how: str) -> None:
    """In the switchover: the firmware there has begun to run it, and its answer is on the way."""
    migrate, receive = scene.moving(scene.b, "after RUN")
    scene.stage.order("host-b", how)  # done when the machine goes on, before the answer is seen
    scene.stage.release("host-b")
    assert (finish(migrate), finish(receive)) == (8, 8), told(migrate) + told(receive)
    for command in (migrate, receive):
        said = command.err.read_text()
        assert WORDS[how] in said and "lost" not in said and "died" not in said, said
    assert f"it is stopped on {scene.b.name}" in migrate.err.read_text()
    assert (job_says(scene.a, "migrate", how), job_says(scene.b, "receive", how)) == (8, 8)
    assert (scene.a.state(), ended_by(scene.b)) == ("frozen", how)
    # As it says.
    scene.a.run("vm", "stop", "--force", VM)
    assert scene.a.state() == "absent"
