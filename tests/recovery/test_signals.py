# SPDX-License-Identifier: Apache-2.0
"""A signal at any moment of a verb that acts on a VM: the exit code and the text say what became
of it, and what is begun is finished or undone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.fork_server import Command
from tests.patience import patient
from tests.recovery.hosts import VM, Scene, finish, told, until

TOP = Path(__file__).resolve().parents[2]
# Signals itself just before or just after a function of cpcctl, at its first call.
STUB = """
import importlib, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
from cpcctl import __main__ as entry
when, name, number = sys.argv[1:4]
place, _, attribute = name.partition(":")
holder = importlib.import_module(place)
*path, attribute = attribute.split(".")
for part in path:
    holder = getattr(holder, part)
real = getattr(holder, attribute)
def wrapped(*args, **more):
    setattr(holder, attribute, real)
    if when == "before":
        os.kill(os.getpid(), int(number))
    try:
        return real(*args, **more)
    finally:
        if when == "after":
            os.kill(os.getpid(), int(number))
if name == "sys:exit":
    class Last:
        def __del__(self, kill=os.kill, pid=os.getpid(), number=int(number)):
            kill(pid, number)
    sys.last_words = Last()  # deleted with its module, when handlers are gone
else:
    setattr(holder, attribute, wrapped)
sys.exit(entry.main(sys.argv[4:]))
"""


def signalled(
    scene: Scene, at: str, *argv: str, number: int = signal.SIGTERM
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command on a."""
    stub = scene.folder / "stub.py"
    stub.write_text(STUB)
    done = subprocess.run(
        [sys.executable, str(stub), *at.split(), str(int(number)), *argv],
        env={**scene.a.env, "PYTHONPATH": str(TOP)}, capture_output=True, text=True, check=False,
        timeout=patient(60.0),
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def definition(scene: Scene) -> str:
    path = scene.folder / f"{VM}.yaml"
    path.write_text(json.dumps({"name": VM, "memory": "32M", "ring_size": "2M", "hvcpu_max": 2}))
    return str(path)


@pytest.mark.parametrize(
    ("at", "runs"),
    [
        ("before cpcctl.vm.lifecycle:_check_memory", False),
        ("after subprocess:Popen", False),  # a QEMU that is only asked what it can do
        ("before cpcctl.qemu.watcher:start", False),
        ("before cpcctl.qemu.watcher:Child", False),
        ("after cpcctl.qemu.watcher:start", False),
        ("before cpcctl.vm.lifecycle:_add_hvcpus", False),
        ("after cpcctl.vm.lifecycle:_launch", True),
        ("after cpcctl.vm.lifecycle:start", True),
        ("before cpcctl.migrate.recovery.moved:note_started", True),
        ("before cpcctl.vm.lifecycle:status", True),
        ("after cpcctl.vm.protection:line", True),
        ("before cpcctl.ui.output:Output.result", True),
        ("after cpcctl.ui.interrupts:all_is_said", True),
        ("after sys:exit", True),  # Python has begun to end
    ],
)
def test_vm_start(scene: Scene, at: str, runs: bool) -> None:
    # Each kind of signal at some of the points.
    number = signal.SIGINT if "lifecycle" in at else signal.SIGTERM
    file = definition(scene)
    code, out, err = signalled(scene, at, "vm", "start", file, number=number)
    if runs:
        assert (code, scene.a.state()) == (0, "running"), err
        assert out.startswith(f"started {VM}")
        return
    word = "terminated" if number == signal.SIGTERM else "interrupted"
    assert (code, out) == (128 + number, ""), err
    assert f"error: VM {VM} was not started: {word}\n" in err
    scene.a.check_nothing_left()


def test_vm_start_of_one_that_runs(scene: Scene) -> None:
    """It goes on, whatever comes."""
    file = definition(scene)
    scene.a.run("vm", "start", file)
    code, _, err = signalled(scene, "before cpcctl.vm.lifecycle:look", "vm", "start", file)
    assert (code, scene.a.state()) == (143, "running"), err
    assert "not started" not in err


ACTS = [
    ("cpcctl.host.qmp:Qmp.execute", ("hvcpu", "add", VM, "--count", "1")),
    ("cpcctl.ui.output:Output.result", ("hvcpu", "add", VM)),
    ("cpcctl.ui.output:Output.result", ("hvcpu", "remove", VM, "0")),
    ("cpcctl.vm.live:run_state", ("vm", "pause", VM)),
    ("cpcctl.ui.output:Output.result", ("vm", "pause", VM)),
    ("cpcctl.vm.registry:Vm.kill", ("vm", "stop", "--force", VM)),
    ("cpcctl.ui.output:Output.result", ("vm", "stop", "--force", VM)),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("at", "argv"), ACTS)
def test_what_is_begun_is_finished(
    scene: Scene, when: str, at: str, argv: tuple[str, ...]
) -> None:
    scene.a.run("vm", "start", definition(scene))
    code, out, err = signalled(scene, f"{when} {at}", *argv)
    assert code == 0, err
    assert out
    states = {"pause": "paused", "stop": "absent"}
    assert scene.a.state() == states.get(argv[1], "running")
    if argv[0] == "hvcpu":
        listed = scene.a.json("hvcpu", "list", VM)
        active = sum(entry["state"] != "inactive" for entry in listed)
        assert active == (2 if argv[1] == "add" else 0)
    if argv[1] == "pause":
        scene.a.run("vm", "resume", VM)


def test_vm_stop_that_does_not_wait_for_the_guest(scene: Scene) -> None:
    scene.a.run("vm", "start", definition(scene))
    at = "before cpcctl.vm.registry:Vm.wait_gone"
    code, _, err = signalled(scene, at, "vm", "stop", VM)
    if code == 0:
        assert scene.a.state() == "absent"
        return
    assert code == 143
    assert f"VM {VM} was asked to shut down, and was not waited for; it runs still" in err


@contextlib.contextmanager
def stalled(path: Path) -> Iterator[None]:
    """A pipe there that is full, and that nobody reads."""
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, bytes(4096))
    yield
    os.close(pipe)


def wait_to_speak(command: Command) -> None:
    """Until it has done all but that, and has a thread that ends it by a signal."""
    until(lambda: len(os.listdir(f"/proc/{command.pid}/task")) > 1, "the end of its work")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nobody_reads_the_result(scene: Scene, number: signal.Signals) -> None:
    """The verb ends by a signal, with the code that says where the VM is."""
    migrate, receive = scene.moving(scene.a, "before SEND")
    job, out = scene.a.job("migrate")["id"], scene.folder / "stalled"
    migrate.kill(signal.SIGKILL)
    with stalled(out):
        wait = scene.a.start("job", "wait", job, "--progress", "plain", out=out)
        until(lambda: wait.err.exists() and "copy" in wait.err.read_text(), "it to follow")
        scene.stage.release("host-a")
        wait_to_speak(wait)
        wait.kill(number)
        assert finish(wait, patient(10.0)) == 0
    assert finish(receive) == 0, told(receive)
    assert scene.b.state() == "running"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nobody_reads_what_migrate_says(scene: Scene, number: signal.Signals) -> None:
    scene.vm()
    receive, ticket = scene.receive()
    with stalled(scene.folder / "stalled"):
        migrate = scene.a.start("migrate", VM, ticket, out=scene.folder / "stalled")
        assert finish(receive) == 0, told(receive)
        wait_to_speak(migrate)
        migrate.kill(number)
        assert finish(migrate, patient(10.0)) == 0
    assert scene.b.state() == "running"


def test_nobody_reads_that_it_is_cancelled(scene: Scene) -> None:
    receive, _ = scene.receive()
    with stalled(scene.folder / "stalled"):
        job = scene.b.job("receive")["id"]
        cancel = scene.b.start("job", "cancel", job, out=scene.folder / "stalled")
        assert finish(receive) == 143, told(receive)
        wait_to_speak(cancel)
        cancel.kill(signal.SIGTERM)
        assert finish(cancel, patient(10.0)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nobody_reads_the_remarks(scene: Scene, number: signal.Signals) -> None:
    """One signal cancels, and ends what it was sent to when the job has ended."""
    scene.vm()
    receive, ticket = scene.receive()
    file = scene.folder / "ticket"
    file.write_text(ticket)
    scene.stage.hold("host-a", "before SEND")
    with stalled(scene.a.folder / "2.err"):
        migrate = scene.a.start("migrate", VM, "--ticket-file", str(file))
        scene.wait_held(scene.a)
        migrate.kill(number)
        scene.stage.release("host-a")
        assert finish(migrate, patient(20.0)) == 128 + number
    assert scene.a.job("migrate")["state"] == "cancelled"
    assert finish(receive) == 1, told(receive)
    assert scene.a.state() == "running"


def test_nobody_reads_the_error(scene: Scene) -> None:
    with stalled(scene.a.folder / "1.err"):
        status = scene.a.start("vm", "status", "nothing")
        wait_to_speak(status)
        status.kill(signal.SIGTERM)
        assert finish(status, patient(10.0)) == 2
