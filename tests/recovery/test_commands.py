# SPDX-License-Identifier: Apache-2.0
"""What happens to the commands themselves: their output, signals, a source that falls silent."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpcctl.link import tls
from cpcctl.link.channel import Channel, LinkLost
from cpcctl.link.listener import Listener
from cpcctl.link.ticket import Ticket
from cpcctl.migrate import messages
from tests.patience import patient
from tests.recovery.hosts import PEER_SECONDS, VM, Scene, finish, kill, told, until
from tests.recovery.test_kill_matrix import check_journal

FULL = Path("/dev/full")


@contextlib.contextmanager
def silent_after(folder: Path, phase: str) -> Iterator[tuple[str, threading.Event]]:
    """A destination that answers what comes before a request, and then only lives: its ticket,
    and when it was asked."""
    place = folder / "silent"
    place.mkdir()
    identity, secret = tls.make_identity(place, "0" * 32), secrets.token_bytes(32)
    listener = Listener("127.0.0.1", 0, tls.server_context(identity), secret)
    asked, over = threading.Event(), threading.Event()

    def serve() -> None:
        channel = Channel(listener.control(patient(20.0))[0], 60.0)
        with contextlib.suppress(LinkLost):
            while True:
                message = channel.receive().message
                if message["method"] == phase:
                    asked.set()
                else:
                    answer, _ = messages.Helloed("host-b", messages.PROTOCOL).write()
                    channel.send({"id": message["id"], "result": answer})
        channel.close()
        over.set()

    thread = threading.Thread(target=serve)
    thread.start()
    ticket = Ticket("127.0.0.1", listener.port, identity.fingerprint, secret)
    try:
        yield ticket.text(), asked
    finally:
        thread.join(patient(20.0))
        listener.close()
        assert over.is_set()


def test_exit_code_says_where_the_vm_is_whatever_becomes_of_the_output(scene: Scene) -> None:
    scene.vm()
    receive, ticket = scene.receive()
    migrate = scene.a.start("migrate", VM, ticket, out=FULL)
    assert finish(migrate) == 0, migrate.err.read_text()
    assert finish(receive) == 0, told(receive)
    assert "Traceback" not in migrate.err.read_text()
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")


def test_reader_of_receive_goes_away(scene: Scene) -> None:
    """As in `receive | head -1`: the pipe is gone when there is something to say."""
    pipe = scene.folder / "pipe"
    os.mkfifo(pipe)
    scene.vm()
    receive = scene.b.start("receive", "--listen", "127.0.0.1:0", out=pipe)
    with open(pipe) as file:
        ticket = file.readline().strip()
    assert finish(scene.migrate(ticket)) == 0
    assert finish(receive) == 0, receive.err.read_text()
    assert "Traceback" not in receive.err.read_text()
    assert scene.b.state() == "running"


def test_receive_that_cannot_print_its_ticket(scene: Scene) -> None:
    receive = scene.b.start("receive", "--listen", "127.0.0.1:0", out=FULL)
    assert finish(receive) not in (0, 5, 7, 70)
    assert "Traceback" not in receive.err.read_text()
    assert "error: " in receive.err.read_text()


SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
# A host and a point of its machine, in the handshake, the copy and the switchover.
BEFORE_COMMIT = (("b", "before ACCEPT"), ("a", "before SEND"), ("b", "before PREPARE"))


@pytest.mark.parametrize(
    ("number", "host", "at"),
    [
        *((number, "a", "before SEND") for number in SIGNALS),
        *((signal.SIGHUP, *point) for point in BEFORE_COMMIT if point[0] == "b"),
    ],
)
@pytest.mark.parametrize("command", ["migrate", "receive"])
def test_signal_cancels(
    scene: Scene, command: str, number: signal.Signals, host: str, at: str
) -> None:
    """Both sides are told, the guest goes on on the source, and nothing is left elsewhere."""
    held = scene.a if host == "a" else scene.b
    migrate, receive = scene.moving(held, at)
    (migrate if command == "migrate" else receive).kill(number)
    if command == "receive":
        # Or, on a busy machine, it hears that when the source has committed.
        assert scene.cable.left.wait(patient(20.0))
    scene.stage.release(held.name)
    codes = finish(migrate), finish(receive)
    assert codes[0] == (128 + number if command == "migrate" else 1), told(migrate)
    assert codes[1] == (128 + number if command == "receive" else 1), told(receive)
    assert f"VM {VM} runs on host-a" in migrate.err.read_text()
    assert scene.a.state() == "running" and scene.stage.runs_somewhere()
    scene.b.check_nothing_left()
    check_journal(scene.stage.lines())


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_before_anything_has_begun(scene: Scene, number: signal.Signals) -> None:
    migrate, receive = scene.moving(scene.a, "before query-status")
    migrate.kill(number)
    scene.stage.release("host-a")
    assert finish(migrate) == 128 + number, told(migrate)
    assert scene.a.state() == "running"
    receive.kill(number)
    assert finish(receive) == 128 + number, told(receive)
    scene.b.check_nothing_left()


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_to_migrate_after_the_commit_is_too_late(
    scene: Scene, number: signal.Signals
) -> None:
    migrate, receive = scene.moving(scene.a, "after COMMIT")
    migrate.kill(number)
    scene.stage.release("host-a")
    assert (finish(migrate), finish(receive)) == (0, 0), told(migrate) + told(receive)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")
    check_journal(scene.stage.lines())


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_to_receive_after_the_commit(scene: Scene, number: signal.Signals) -> None:
    """It is too late to cancel: the source, which cannot know, is told first."""
    migrate, receive = scene.moving(scene.b, "before RUN", grace=patient(60.0))
    receive.kill(number)
    scene.stage.release("host-b")
    assert (finish(migrate), finish(receive)) == (0, 0), told(migrate) + told(receive)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")
    check_journal(scene.stage.lines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_before_the_worker_is_ready(scene: Scene, number: signal.Signals) -> None:
    """It comes while Python still loads: the migration is cancelled, not forgotten."""
    scene.vm()
    receive, ticket = scene.receive()
    migrate = scene.migrate(ticket)
    until(lambda: scene.a.job("migrate"), "the job file", patient(20.0))
    migrate.kill(number)
    assert finish(migrate) == 128 + number, told(migrate)
    assert "error: " in migrate.err.read_text()
    job = scene.a.job("migrate")
    assert (job["state"], job["exit_code"]) == ("cancelled", 130)
    assert scene.a.state() == "running"
    receive.kill(signal.SIGTERM)
    assert finish(receive) in (1, 143), told(receive)
    assert scene.b.state() == "absent"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_detached_migration_is_not_cancelled_with_its_command(
    scene: Scene, number: signal.Signals
) -> None:
    """Its id is printed, whatever comes while the command waits for the worker."""
    scene.vm()
    receive, ticket = scene.receive()
    scene.stage.hold("host-a", "before SEND")
    migrate = scene.migrate(ticket, "--detach")
    until(lambda: scene.a.job("migrate"), "the job file", patient(20.0))
    migrate.kill(number)
    assert finish(migrate) == 0, told(migrate)
    assert migrate.out.read_text().strip() == scene.a.job("migrate")["id"]
    scene.wait_held(scene.a)
    scene.stage.release("host-a")
    assert finish(receive) == 0, told(receive)
    assert scene.b.state() == "running"


@pytest.mark.parametrize("phase", ["hello", "preflight"])
@pytest.mark.parametrize("how", ["timeout", "signal"])
def test_destination_that_lives_and_does_not_answer(scene: Scene, phase: str, how: str) -> None:
    """Nothing was sent yet; `--timeout` and Ctrl-C end it."""
    scene.vm()
    with silent_after(scene.folder, phase) as (ticket, asked):
        migrate = scene.migrate(ticket, *(["--timeout", "1"] if how == "timeout" else []))
        asked.wait(patient(20.0))
        if how == "signal":
            migrate.kill(signal.SIGINT)
        assert finish(migrate, PEER_SECONDS + patient(15.0)) == (6 if how == "timeout" else 130)
    assert scene.a.state() == "running"


@pytest.mark.parametrize("at", ["before ACCEPT", "before cpc-load-device-state", "before PREPARE"])
def test_destination_hangs_and_its_controller_lives(scene: Scene, at: str) -> None:
    """Ctrl-C: the guest goes on on the source, though frozen before; the destination gives
    up when it can. Only where that has the disks by then the source has to wait for it."""
    migrate, receive = scene.moving(scene.b, at)
    migrate.kill(signal.SIGINT)
    if at == "before PREPARE":
        assert scene.cable.hung_up.wait(patient(20.0))
        assert scene.a.state() == "frozen"
        scene.stage.release("host-b")
    assert finish(migrate, 2 * PEER_SECONDS + patient(15.0)) == 130, told(migrate)
    assert scene.a.state() == "running"
    scene.stage.release("host-b")
    assert finish(receive) == 1, told(receive)
    assert scene.b.state() == "absent"
    check_journal(scene.stage.lines())


def test_source_falls_silent_while_the_destination_waits_for_the_rest(scene: Scene) -> None:
    """It has asked for `complete` and is stopped: the destination ends by itself, and the
    source finds that out when it goes on."""
    migrate, receive = scene.moving(scene.a, "before STATE")
    worker = scene.worker()
    worker.signal(signal.SIGSTOP)
    scene.stage.release("host-a")
    assert finish(receive, PEER_SECONDS + patient(15.0)) == 1, told(receive)
    assert scene.b.state() == "absent"
    worker.signal(signal.SIGCONT)
    assert finish(migrate) == 1, told(migrate)
    assert scene.a.state() == "running"


def test_signal_ends_a_receive_that_waits_for_the_rest(scene: Scene) -> None:
    migrate, receive = scene.moving(scene.a, "before STATE", grace=patient(60.0))
    scene.worker().signal(signal.SIGSTOP)
    receive.kill(signal.SIGTERM)
    assert finish(receive, patient(15.0)) == 143, told(receive)
    assert scene.b.state() == "absent"
    migrate.kill()
    kill(scene.worker())
    scene.stage.release("host-a")
    job = scene.a.job("migrate")["id"]
    assert finish(scene.a.start("job", "resume", job)) == 1
    assert scene.a.state() == "running"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_to_a_receive_that_begins(scene: Scene, number: signal.Signals) -> None:
    """Nothing of it is left, its private key least of all."""
    receive = scene.b.start("receive", "--listen", "127.0.0.1:0")
    until(lambda: scene.b.job("receive"), "the job file", patient(20.0))
    receive.kill(number)
    assert finish(receive) == 128 + number, told(receive)
    job = scene.b.job("receive")
    assert (job["state"], job["exit_code"]) == ("cancelled", 128 + number)
    assert not list((scene.b.folder / "s" / "jobs").glob("*.link"))


def test_signal_to_a_job_that_is_being_settled(scene: Scene) -> None:
    """Where the guest is comes out all the same."""
    migrate, receive = scene.moving(scene.a, "after COMMIT", grace=patient(60.0))
    receive.kill(signal.SIGSTOP)
    migrate.kill(signal.SIGKILL)
    kill(scene.worker())
    scene.stage.release("host-a")
    settling = scene.a.start("job", "resume", scene.a.job("migrate")["id"])
    until(lambda: scene.a.job("migrate")["pid"] != 0 and scene.worker().alive, "it to begin")
    settling.kill(signal.SIGTERM)
    receive.kill(signal.SIGCONT)
    assert finish(settling) == 0, told(settling)
    assert finish(receive) == 0, told(receive)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")


def test_receive_whose_reader_has_stalled(scene: Scene) -> None:
    """Ctrl-S on its terminal, say: it ends all the same, or at the latest by a signal."""
    place = scene.b.folder / "1.err"
    os.mkfifo(place)
    pipe = os.open(place, os.O_RDWR | os.O_NONBLOCK)
    scene.vm()
    receive, ticket = scene.receive()
    said = b""

    def waits() -> bool:
        nonlocal said
        with contextlib.suppress(BlockingIOError):
            said += os.read(pipe, 4096)
        return b"Ctrl-C" in said

    until(waits, "receive to wait")
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, bytes(4096))
    assert finish(scene.migrate(ticket)) == 0
    assert scene.b.state() == "running"
    until(lambda: scene.b.job("receive")["state"] == "done", "the end of its job")
    receive.kill(signal.SIGTERM)
    assert finish(receive, patient(10.0)) == 0
    os.close(pipe)
