# SPDX-License-Identifier: Apache-2.0
"""job cancel says what became of a job: 0 is for one of which nothing runs any more."""

from __future__ import annotations

import signal

import pytest

from tests.lib.fork_server import Command
from tests.patience import patient
from tests.recovery.hosts import VM, Host, Scene, finish, kill, told, until
from tests.recovery.test_kill_matrix import check_journal

LONG = patient(60.0)


def cancel(host: Host, kind: str) -> tuple[int | None, str]:
    """`job cancel` of the newest job of a kind; its exit code and words."""
    command = host.run("job", "cancel", host.job(kind)["id"], expect=None)
    return command.code, command.out.read_text() + command.err.read_text()


def source_killed(scene: Scene, migrate: Command) -> None:
    """Both controllers of the source."""
    worker = scene.worker()
    migrate.kill()
    finish(migrate)
    kill(worker)
    scene.stage.release("host-a")


def test_a_receive_that_took_nothing(scene: Scene) -> None:
    receive, _ = scene.receive()
    receive.kill()
    finish(receive)
    code, said = cancel(scene.b, "receive")
    assert code == 0 and "is cancelled" in said, said
    job = scene.b.job("receive")
    assert job["state"] == "cancelled" and "secret" not in job["data"]
    assert cancel(scene.b, "receive")[0] == 0


def test_a_receive_that_is_running(scene: Scene) -> None:
    receive, _ = scene.receive()
    code, said = cancel(scene.b, "receive")
    assert finish(receive) == 143
    assert code == 0 and "is cancelled" in said, said
    assert scene.b.job("receive")["state"] == "cancelled"


def test_a_receive_whose_guest_never_ran(scene: Scene) -> None:
    """Its firmware signs ABORT, and the source goes on by that token."""
    migrate, receive = scene.moving(scene.a, "after COMMIT", grace=LONG)
    receive.kill()
    finish(receive)
    code, said = cancel(scene.b, "receive")
    assert code == 0 and scene.b.state() == "absent", said
    assert scene.b.job("receive")["state"] == "failed"
    source_killed(scene, migrate)
    again = scene.b.start("job", "resume", scene.b.job("receive")["id"])
    ours = scene.a.run("job", "resume", scene.a.job("migrate")["id"], expect=1)
    assert scene.a.state() == "running", told(ours)
    assert finish(again) == 1, told(again)
    check_journal(scene.stage.lines())


def test_a_receive_whose_guest_runs(scene: Scene) -> None:
    migrate, receive = scene.moving(scene.b, "after RUN", grace=LONG)
    receive.kill()
    finish(receive)
    scene.stage.release("host-b")
    code, said = cancel(scene.b, "receive")
    job = scene.b.job("receive")["id"]
    assert code == 1 and f"was given to {scene.b.name}" in said, said
    assert f"cpcctl job resume {job}" in said
    source_killed(scene, migrate)
    again = scene.b.start("job", "resume", job)
    scene.a.run("job", "resume", scene.a.job("migrate")["id"])
    assert finish(again) == 0, told(again)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")


def test_a_receive_whose_qemu_does_not_answer(scene: Scene) -> None:
    migrate, receive = scene.moving(scene.a, "after COMMIT", grace=LONG)
    receive.kill()
    finish(receive)
    scene.stage.order("host-b", "deaf")
    code, said = cancel(scene.b, "receive")
    assert code == 5 and "is not proven" in said, said
    assert scene.b.job("receive")["state"] == "running", "it is left as it was"
    scene.stage.order("host-b", "hear")
    assert cancel(scene.b, "receive")[0] == 0
    source_killed(scene, migrate)


def test_a_receive_whose_qemu_is_gone_after_the_commit(scene: Scene) -> None:
    """It can say no more than that, and the source not that all is well."""
    migrate, receive = scene.moving(scene.a, "after COMMIT", grace=LONG)
    receive.kill()
    finish(receive)
    found = scene.b.qemu()
    assert found is not None
    kill(found)
    assert cancel(scene.b, "receive")[0] == 0
    source_killed(scene, migrate)
    again = scene.b.start("job", "resume", scene.b.job("receive")["id"])
    scene.a.run("job", "resume", scene.a.job("migrate")["id"], expect=7)
    again.kill(signal.SIGTERM)
    finish(again)


def test_a_migration_whose_guest_ended(scene: Scene) -> None:
    migrate, receive = scene.moving(scene.a, "before SEND")
    scene.stage.order("host-a", "shutdown")
    scene.stage.release("host-a")
    assert finish(migrate) == 8, told(migrate)
    finish(receive)
    code, said = cancel(scene.a, "migrate")
    assert code == 8 and "is cancelled" not in said, said


def test_a_receive_does_not_take_another_vm_for_its_own(scene: Scene) -> None:
    """The operator stopped what it had launched and started a VM of that name."""
    migrate, receive = scene.moving(scene.a, "before SEND", grace=patient(1.0))
    receive.kill()
    finish(receive)
    scene.stage.release("host-a")
    assert finish(migrate) == 1, told(migrate)
    scene.b.run("vm", "stop", "--force", "--unsettled", VM)
    scene.a.run("vm", "stop", "--force", VM)
    scene.b.run("vm", "start", "--unsettled", str(scene.folder / f"{VM}.yaml"))
    scene.b.run("job", "resume", scene.b.job("receive")["id"], expect=None)
    assert scene.b.state() == "running"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_who_waits_for_a_job_does_not_cancel_it(scene: Scene, number: signal.Signals) -> None:
    migrate, receive = scene.moving(scene.a, "before SEND")
    job = scene.a.job("migrate")["id"]
    wait = scene.a.start("job", "wait", job, "--progress", "plain")
    until(lambda: wait.err.exists() and "copy" in wait.err.read_text(), "job wait to follow")
    wait.kill(number)
    assert finish(wait) == 75 and "it goes on" in wait.err.read_text(), told(wait)
    scene.stage.release("host-a")
    assert (finish(migrate), finish(receive)) == (0, 0)
