# SPDX-License-Identifier: Apache-2.0
"""Either side is killed at any phase: one side runs, and nothing blocks the next try."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.patience import patient
from tests.twohosts.pair import Pair, finish, until, wait_stopped

BEFORE = ("preflight", "handshake", "copy", "freeze", "commit")
THERE = ("there-launched", "there-connected", "there-received")


@pytest.mark.parametrize(
    ("phase", "hopped"),
    [
        pytest.param("copy", False, marks=pytest.mark.kvm),
        *((phase, False) for phase in [*BEFORE, "run"] if phase != "copy"),
        *((phase, True) for phase in ("preflight", "handshake", "copy", "commit", "run")),
    ],
)
def test_worker_killed_front_end_recovers(pair: Pair, phase: str, hopped: bool) -> None:
    """hopped: it arrived here by a migration, and its firmware remembers that."""
    name = pair.hopped() if hopped else pair.vm()
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, stop_at=phase)
    worker = pair.worker()
    wait_stopped(worker)
    os.kill(worker, signal.SIGKILL)
    done = finish(process, 0 if phase == "run" else 1)
    if phase == "run":
        finish(receive, 0)
        pair.check_one_side(name, "b")
        return
    assert f"runs on {pair.a.name}" in done.stderr
    if phase in ("preflight", "handshake"):
        receive.terminate()  # it was asked for nothing yet and waits on
    finish(receive, None)
    pair.check_one_side(name, "a")
    pair.check_next_try(name)


@pytest.mark.parametrize("phase", ["copy", "commit", "run"])
def test_both_killed_job_resume(pair: Pair, phase: str) -> None:
    name = pair.vm()
    receive, ticket = pair.receive("--grace", f"{patient(30):g}")
    process = pair.migrate(name, ticket, stop_at=phase)
    worker = pair.worker()
    wait_stopped(worker)
    process.kill()
    finish(process, None)
    os.kill(worker, signal.SIGKILL)
    job = pair.a.jobs("migrate")[-1]["id"]
    until(lambda: not os.path.exists(f"/proc/{worker}"), "the worker to go")
    blocked = finish(pair.migrate(name, ticket), 75)
    assert f"cpcctl job resume {job}" in blocked.stderr
    assert f"cpcctl job resume {job}" in pair.a.run("vm", "status", name).stderr
    assert f"cpcctl job resume {job}" in pair.a.run("vm", "stop", name, expect=75).stderr
    waited = pair.a.run("job", "wait", job, expect=75)
    assert "lost its controller" in waited.stderr
    assert f"cpcctl job resume {job}" in waited.stderr
    done = pair.a.run("job", "resume", job, expect=0 if phase == "run" else 1)
    finish(receive, 0 if phase == "run" else None)
    pair.check_one_side(name, "b" if phase == "run" else "a")
    assert phase == "run" or "runs on host-a" in done.stderr


@pytest.mark.parametrize(
    ("point", "hopped"),
    [*((point, False) for point in THERE), ("there-launched", True), ("there-connected", True)],
)
def test_receiver_killed_before_commit(pair: Pair, point: str, hopped: bool) -> None:
    name = pair.hopped() if hopped else pair.vm()
    receive, ticket = pair.receive(stop_at=point)
    process = pair.migrate(name, ticket)
    wait_stopped(receive.pid)
    receive.kill()
    finish(receive, None)
    done = finish(process, 1)
    assert f"runs on {pair.a.name}" in done.stderr
    assert pair.a.vm_state(name) == "running"
    # The shell that was left there never ran; the next receive removes it.
    pair.check_next_try(name)


@pytest.mark.parametrize(
    "point", [pytest.param("there-prepared", marks=pytest.mark.kvm), "there-released"]
)
def test_receiver_killed_after_commit(pair: Pair, point: str) -> None:
    name = pair.vm()
    receive, ticket = pair.receive(stop_at=point)
    process = pair.migrate(name, ticket)
    wait_stopped(receive.pid)
    receive.kill()
    finish(receive, None)
    done = finish(process, 5)
    assert "job resume" in done.stderr
    there = pair.b.jobs("receive")[-1]["id"]
    again = pair.b.start("job", "resume", there)
    pair.a.run("job", "resume", pair.a.jobs("migrate")[-1]["id"])
    finish(again, 0)
    pair.check_one_side(name, "b")


@pytest.mark.parametrize("point", [*THERE, "there-prepared"])
def test_destination_qemu_killed(pair: Pair, point: str) -> None:
    name = pair.vm()
    receive, ticket = pair.receive(stop_at=point)
    process = pair.migrate(name, ticket)
    wait_stopped(receive.pid)
    os.kill(pair.b.qemu_pid(name), signal.SIGKILL)
    receive.send_signal(signal.SIGCONT)
    if point == "there-prepared":
        done = finish(process, 7)
        assert "is lost" in done.stderr
        assert "is lost" in finish(receive, 7).stderr
        return
    done = finish(process, 1)
    assert "runs on host-a" in done.stderr
    assert "host-b" in done.stderr
    finish(receive, 1)
    pair.check_one_side(name, "a")
    pair.check_next_try(name)


def test_destination_qemu_killed_in_mid_copy(pair: Pair) -> None:
    """Both sides say what happened, and the long grace is in nobody's way."""
    name = pair.vm()
    receive, ticket = pair.receive("--grace", f"{patient(60):g}")
    process = pair.migrate(name, ticket, "--bandwidth", "5")
    until(lambda: pair.copying(), "bytes to move")
    os.kill(pair.b.qemu_pid(name), signal.SIGKILL)
    done = finish(process, 1)
    assert f"QEMU of VM {name} died on host-b" in done.stderr
    assert "cannot be reached" not in done.stderr
    assert "runs on host-a" in done.stderr
    pair.check_next_try(name)
    said = finish(receive, 1).stderr
    assert f"QEMU of VM {name} died on host-b" in said
    assert "it was killed by signal 9" in said and "it was killed by signal 9" in done.stderr


def test_destination_qemu_killed_while_the_source_is_silent(pair: Pair) -> None:
    """A receiver whose QEMU is dead before PREPARED has nothing to wait for."""
    name = pair.vm()
    receive, ticket = pair.receive("--grace", f"{patient(80):g}")
    process = pair.migrate(name, ticket, stop_at="copy")
    worker = pair.worker()
    wait_stopped(worker)
    os.kill(pair.b.qemu_pid(name), signal.SIGKILL)
    assert f"QEMU of VM {name} died on host-b" in finish(receive, 1, patient(40)).stderr
    os.kill(worker, signal.SIGCONT)
    assert "runs on host-a" in finish(process, 1).stderr
    pair.check_next_try(name)


@pytest.mark.parametrize(
    "phase", ["copy", "freeze", pytest.param("commit", marks=pytest.mark.kvm)]
)
def test_source_qemu_killed(pair: Pair, phase: str) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, stop_at=phase)
    worker = pair.worker()
    wait_stopped(worker)
    os.kill(pair.a.qemu_pid(name), signal.SIGKILL)
    os.kill(worker, signal.SIGCONT)
    done = finish(process, 7)
    assert "lost" in done.stderr
    said = finish(receive, 7).stderr
    assert f"VM {name} is lost" in said and "restore it" in said
    assert pair.b.jobs("receive")[-1]["state"] == "lost"
    assert pair.b.vm_state(name) == "absent"


def everything_killed_on_a(pair: Pair, process: subprocess.Popen[str], name: str) -> str:
    """The worker, the front end and QEMU; the id of the job that is left."""
    worker = pair.worker()
    process.kill()
    finish(process, None)
    os.kill(worker, signal.SIGKILL)
    qemu = pair.a.qemu_pid(name)
    os.kill(qemu, signal.SIGKILL)
    for pid in (worker, qemu):
        until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), "it to go")
    return str(pair.a.jobs("migrate")[-1]["id"])


def test_source_host_dies_after_the_guest_has_gone(pair: Pair) -> None:
    """job resume asks the destination: not proven while it is away, then moved."""
    name = pair.vm()
    receive, ticket = pair.receive(stop_at="there-released")
    process = pair.migrate(name, ticket)
    wait_stopped(receive.pid)
    job = everything_killed_on_a(pair, process, name)
    receive.kill()
    finish(receive, None)
    done = pair.a.run("job", "resume", job, expect=5)
    assert f"where VM {name} is has not been proven" in done.stderr
    again = pair.b.start("job", "resume", pair.b.jobs("receive")[-1]["id"])
    until(lambda: pair.a.run("job", "resume", job, expect=None).returncode == 0, "the answer")
    finish(again, 0)
    pair.check_one_side(name, "b")
    assert pair.a.jobs("migrate")[-1]["state"] == "done"
    assert "ticket" not in pair.a.jobs("migrate")[-1]["data"]


@pytest.mark.parametrize("phase", ["copy", "run"])
def test_source_host_dies_with_the_guest(pair: Pair, phase: str) -> None:
    """In the copy, or with a COMMIT that was signed and never left: nobody can run this guest
    any more. job resume says so on both hosts, and the long grace is in nobody's way."""
    name = pair.vm()
    receive, ticket = pair.receive("--grace", f"{patient(80):g}")
    process = pair.migrate(name, ticket, stop_at=phase)
    wait_stopped(pair.worker())
    job = everything_killed_on_a(pair, process, name)
    assert f"VM {name} is lost" in pair.a.run("job", "resume", job, expect=7).stderr
    assert f"VM {name} is lost" in finish(receive, 7, patient(40)).stderr
    assert (pair.a.vm_state(name), pair.b.vm_state(name)) == ("stopped", "absent")


def test_network_cut_longer_than_the_timeout(pair: Pair) -> None:
    """A stopped receiver is as silent as a cut network."""
    name = pair.vm()
    receive, ticket = pair.receive(stop_at="there-connected")
    process = pair.migrate(name, ticket)
    wait_stopped(receive.pid)
    done = finish(process, 1)
    assert "cannot be reached any more" in done.stderr
    assert "runs on host-a" in done.stderr
    receive.send_signal(signal.SIGCONT)
    finish(receive, 1)
    pair.check_one_side(name, "a")
    pair.check_next_try(name)
