# SPDX-License-Identifier: Apache-2.0
"""More than one thing fails, or it lasts: a host with all that runs on it, a cut that is not
mended, a controller that stays away. And what a job that is not settled stands in the way of."""

from __future__ import annotations

import signal

import pytest

from tests.lib.fork_server import Command, ForkServer
from tests.patience import patient
from tests.recovery.hosts import VM, Scene, finish, kill, told, until
from tests.recovery.kills import qemu, resume
from tests.recovery.test_kill_matrix import check_journal

LONG = patient(60.0)
PREFLIGHT = "before query-status"
PHASES = (PREFLIGHT, "before OPEN", "before SEND", "before FREEZE", "before COMMIT", "after COMMIT")


def arrived_on_a(scene: Scene) -> None:
    """A guest that has been migrated once: what was b is a now."""
    scene.vm()
    receive, ticket = scene.receive()
    assert (finish(scene.migrate(ticket)), finish(receive)) == (0, 0)
    scene.a, scene.b = scene.b, scene.a


@pytest.mark.parametrize(
    ("at", "hopped"),
    [*((at, False) for at in PHASES), ("before SEND", True), ("after COMMIT", True)],
)
def test_front_end_recovers_when_its_worker_is_killed(
    scene: Scene, at: str, hopped: bool
) -> None:
    if hopped:
        arrived_on_a(scene)
    migrate, receive = scene.moving(scene.a, at, grace=LONG, start=not hopped)
    kill(scene.worker())
    scene.stage.release(scene.a.name)
    moved = "COMMIT" in at
    assert finish(migrate) == (0 if moved else 1), told(migrate)
    if at == PREFLIGHT:
        receive.kill()  # it was asked for nothing, and waits on
    assert finish(receive) == (-9 if at == PREFLIGHT else 0 if moved else 1), told(receive)
    states = ("absent", "running") if moved else ("running", "absent")
    assert (scene.a.state(), scene.b.state()) == states
    assert moved or f"VM {VM} runs on {scene.a.name}" in migrate.err.read_text()
    check_journal(scene.stage.lines())


@pytest.mark.parametrize("at", ["before ACCEPT", "before cpc-load-device-state"])
def test_destination_controller_of_a_guest_that_came_by_migration(scene: Scene, at: str) -> None:
    arrived_on_a(scene)
    migrate, receive = scene.moving(scene.b, at, start=False)
    receive.kill()
    finish(receive)
    scene.stage.release(scene.b.name)
    assert finish(migrate) == 1, told(migrate)
    assert scene.a.state() == "running"
    again, ticket = scene.receive()
    assert (finish(scene.migrate(ticket)), finish(again)) == (0, 0)
    check_journal(scene.stage.lines())


def controllers_killed(scene: Scene, migrate: Command) -> str:
    """Front end and worker of the source; the job that is left."""
    worker = scene.worker()
    migrate.kill()
    finish(migrate)
    kill(worker)
    return str(scene.a.job("migrate")["id"])


def test_what_a_job_that_is_not_settled_stands_in_the_way_of(scene: Scene) -> None:
    migrate, receive = scene.moving(scene.a, "before SEND", grace=LONG)
    job = controllers_killed(scene, migrate)
    scene.stage.release("host-a")
    other, ticket = scene.receive()
    again = scene.migrate(ticket)
    assert finish(again) == 75 and f"cpcctl job resume {job}" in again.err.read_text()
    looked = scene.a.run("vm", "status", VM)
    assert f"cpcctl job resume {job}" in looked.err.read_text()
    stopped = scene.a.run("vm", "stop", VM, expect=75)
    assert f"cpcctl job resume {job}" in stopped.err.read_text()
    waited = scene.a.run("job", "wait", job, expect=75)
    assert "lost its controller" in waited.err.read_text()
    assert f"cpcctl job resume {job}" in waited.err.read_text()
    done = scene.a.run("job", "resume", job, expect=1)
    assert f"runs on {scene.a.name}" in done.err.read_text()
    for command in (receive, other):
        command.kill(signal.SIGTERM)
        finish(command)


def test_destination_controller_stays_away_after_the_commit(
    scene: Scene, impatient: ForkServer
) -> None:
    scene.a.impatient(impatient)
    migrate, receive = scene.moving(scene.b, "before RUN", grace=LONG)
    receive.kill()
    finish(receive)
    scene.stage.release("host-b")
    assert finish(migrate) == 5, told(migrate)
    assert "job resume" in migrate.err.read_text()
    scene.a.impatient(None)
    again, ours = resume(scene.b, "receive"), resume(scene.a, "migrate")
    assert (finish(ours), finish(again)) == (0, 0), told(ours) + told(again)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")
    check_journal(scene.stage.lines())


def test_cut_that_lasts_until_the_destination_has_given_up(
    scene: Scene, impatient: ForkServer
) -> None:
    """COMMIT never arrived. The destination's ABORT is what lets the source go on."""
    scene.a.impatient(impatient)
    migrate, receive = scene.moving(scene.a, "after COMMIT")
    scene.cable.cut()
    scene.stage.release("host-a")
    assert finish(receive) == 1, told(receive)
    assert finish(migrate) == 5, told(migrate)
    assert not scene.stage.runs_somewhere()
    scene.cable.cut(False)
    scene.a.impatient(None)
    again, ours = resume(scene.b, "receive"), resume(scene.a, "migrate")
    assert finish(ours) == 1, told(ours)
    assert finish(again) == 1, told(again)
    assert (scene.a.state(), scene.b.state()) == ("running", "absent")
    check_journal(scene.stage.lines())


def test_host_of_the_source_dies_after_the_guest_has_gone(scene: Scene) -> None:
    """job resume asks the destination: not proven while it is away, then moved."""
    migrate, receive = scene.moving(scene.b, "after RUN", grace=LONG)
    job = controllers_killed(scene, migrate)
    kill(qemu(scene.a))
    receive.kill()
    finish(receive)
    scene.stage.release("host-b")
    away = scene.a.run("job", "resume", job, expect=5)
    assert "not known" in away.err.read_text() or "not been proven" in away.err.read_text()
    again = resume(scene.b, "receive")
    until(lambda: scene.a.run("job", "resume", job, expect=None).code == 0, "the answer")
    assert finish(again) == 0, told(again)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")
    ended = scene.a.job("migrate")
    assert ended["state"] == "done" and "ticket" not in ended["data"]


@pytest.mark.parametrize("at", ["before SEND", "after COMMIT"])
def test_host_of_the_source_dies_with_the_guest(scene: Scene, at: str) -> None:
    """In the copy, or with a COMMIT that never left: nobody can run this guest any more. job
    resume says so on both hosts, and the long grace is in nobody's way."""
    migrate, receive = scene.moving(scene.a, at, grace=LONG)
    job = controllers_killed(scene, migrate)
    kill(qemu(scene.a))
    scene.stage.release("host-a")
    ours = scene.a.run("job", "resume", job, expect=7)
    assert "lost" in ours.err.read_text()
    # After the COMMIT nobody but the other host can say so.
    assert ("is lost by the word of host-b" in ours.err.read_text()) == (at == "after COMMIT")
    assert finish(receive, LONG / 2) == 7, told(receive)
    assert f"VM {VM} is lost" in receive.err.read_text()
    assert scene.b.state() == "absent" and not scene.stage.runs_somewhere()


def test_destination_qemu_dies_while_the_source_is_silent(scene: Scene) -> None:
    """A receiver whose QEMU is dead before PREPARED has nothing to wait for."""
    migrate, receive = scene.moving(scene.a, "before SEND", grace=LONG)
    worker = scene.worker()
    worker.signal(signal.SIGSTOP)
    kill(qemu(scene.b))
    assert finish(receive, LONG / 2) == 1, told(receive)
    said = receive.err.read_text()
    assert f"VM {VM}" in said and "host-b" in said and "kill" in said
    worker.signal(signal.SIGCONT)
    scene.stage.release("host-a")
    assert finish(migrate) == 1, told(migrate)
    assert f"VM {VM} runs on host-a" in migrate.err.read_text()


def test_destination_qemu_dies_in_mid_copy(scene: Scene) -> None:
    """Both sides say what happened, and the long grace is in nobody's way."""
    migrate, receive = scene.moving(scene.a, "before cpc-dirty-sync", grace=LONG)
    kill(qemu(scene.b))
    scene.stage.release("host-a")
    assert (finish(migrate), finish(receive, LONG / 2)) == (1, 1), told(migrate)
    for command in (migrate, receive):
        said = command.err.read_text()
        assert "killed" in said and "host-b" in said, said
    assert "cannot be reached" not in migrate.err.read_text()


@pytest.mark.parametrize("since", ["runs", "stopped", "another"])
def test_cut_that_lasts_beyond_the_grace_while_the_guest_starts(scene: Scene, since: str) -> None:
    """The guest runs on b, whose operator goes on; what he does then does not lose it for a."""
    migrate, receive = scene.moving(scene.b, "before RUN")
    scene.cable.cut()
    scene.stage.release("host-b")
    assert finish(receive) == 0, told(receive)
    job = scene.b.job("receive")["id"]
    assert f"cpcctl job resume {job}" in receive.err.read_text()
    assert finish(migrate) == 5, told(migrate)
    assert (scene.a.state(), scene.b.state()) == ("frozen", "running")
    if since != "runs":
        scene.b.run("vm", "stop", "--force", VM)
    if since == "another":
        scene.b.run("vm", "start", str(scene.folder / f"{VM}.yaml"))
    scene.cable.cut(False)
    again, ours = resume(scene.b, "receive"), resume(scene.a, "migrate")
    assert (finish(ours), finish(again)) == (0, 0), told(ours) + told(again)
    states = ("absent", "stopped" if since == "stopped" else "running")
    assert (scene.a.state(), scene.b.state().replace("absent", "stopped")) == states
    for verb in ("wait", "resume"):
        looked = scene.b.run("job", verb, job)
        assert looked.out.read_text() == f"{VM} arrived on host-b\n"
    assert "secret" not in scene.b.job("receive")["data"]


def test_destination_is_resumed_long_before_the_source(scene: Scene) -> None:
    """Its grace is over by then, and it listens again."""
    migrate, receive = scene.moving(scene.b, "after RUN")
    receive.kill()
    finish(receive)
    controllers_killed(scene, migrate)
    scene.stage.release("host-b")
    first = resume(scene.b, "receive")
    assert finish(first) == 0 and "does not know yet" in first.err.read_text()
    again, ours = resume(scene.b, "receive"), resume(scene.a, "migrate")
    assert (finish(ours), finish(again)) == (0, 0), told(ours) + told(again)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")
    check_journal(scene.stage.lines())


def test_destination_host_dies_in_mid_copy(scene: Scene) -> None:
    """Nothing stays there of a VM that never arrived: it could be started, or be in the way."""
    migrate, receive = scene.moving(scene.a, "before SEND")
    receive.kill()
    finish(receive)
    kill(qemu(scene.b))
    scene.stage.release("host-a")
    assert finish(migrate) == 1, told(migrate)
    assert finish(resume(scene.b, "receive")) == 1
    assert (scene.a.state(), scene.b.state()) == ("running", "absent")
    again, ticket = scene.receive()
    assert (finish(scene.migrate(ticket)), finish(again)) == (0, 0)
    check_journal(scene.stage.lines())
