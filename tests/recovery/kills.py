# SPDX-License-Identifier: Apache-2.0
"""One case of the kill matrix: what dies at which point, and what the operator does then."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from cpcctl.host.process import ProcessId
from tests.lib.fork_server import Command, ForkServer
from tests.patience import patient
from tests.recovery.hosts import GRACE_SECONDS, VM, Host, Scene, finish, kill, told

# Long enough for an operator who is told to resume a job.
OPERATOR_SECONDS = patient(30.0)


@dataclass(frozen=True)
class Point:
    """Where a machine stops: that of `host` before or after a command or call.

    phase: the source's. committed: COMMIT was asked of the source's firmware
    """

    phase: str
    host: str
    at: str
    committed: bool = False

    @property
    def id(self) -> str:
        """For the test's name."""
        return f"{self.phase}-{self.host}-{self.at.replace(' ', '-')}"


POINTS = (
    Point("preflight", "a", "before query-status"),
    Point("handshake", "a", "before OPEN"),
    Point("handshake", "b", "before ACCEPT"),
    Point("copy", "a", "before SEND"),
    Point("freeze", "a", "before FREEZE"),
    Point("freeze", "a", "after FREEZE"),
    Point("final", "a", "before blockdev-set-active"),
    Point("final", "b", "before cpc-load-device-state"),
    Point("state", "a", "before STATE"),
    Point("prepare", "b", "before PREPARE"),
    Point("prepare", "b", "after PREPARE"),
    Point("commit", "a", "before COMMIT", committed=True),
    Point("commit", "a", "after COMMIT", committed=True),
    Point("run", "b", "before RUN", committed=True),
    Point("run", "b", "after RUN", committed=True),
    Point("finished", "a", "before FINISH", committed=True),
    Point("finished", "a", "after FINISH", committed=True),
)
VICTIMS = ("source-qemu", "destination-qemu", "source-controller", "destination-controller", "link")


@dataclass
class Outcome:
    """How it ended.

    codes:   exit code of the last command on each side, `job resume` included; -9: killed
    states:  of the VM on host-a and host-b
    jobs:    state and exit code that `job show` has of each side's job
    runs:    the kernel says that a living machine runs the guest
    journal: who ran it
    errors:  what each side's last command said
    again:   exit codes of another migration afterwards, where one was tried
    """

    codes: dict[str, int] = field(default_factory=dict)
    states: tuple[str, str] = ("", "")
    jobs: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    runs: bool = False
    journal: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    again: tuple[int, int] | None = None


def play(server: ForkServer, point: Point, victim: str, again: bool) -> Outcome:
    """One case to its end. again: then the guest is migrated once more."""
    scene = Scene(server)
    try:
        case = Case(scene, point, victim)
        return case.play(again)
    finally:
        scene.close()


class Case:
    """One guest that moves, and one thing that fails."""

    def __init__(self, scene: Scene, point: Point, victim: str) -> None:
        self.scene, self.point, self.victim = scene, point, victim
        scene.vm()
        grace = OPERATOR_SECONDS if point.phase in ("commit", "run") else GRACE_SECONDS
        self.receive, self.ticket = scene.receive(grace=grace)
        self.held = scene.a if point.host == "a" else scene.b
        scene.stage.hold(self.held.name, point.at)
        self.migrate = scene.migrate(self.ticket)

    def play(self, again: bool) -> Outcome:
        """Strike, help as an operator would, look how it ended."""
        scene = self.scene
        scene.wait_held(self.held)
        self.strike()
        scene.stage.release(self.held.name)
        self.help()
        out = Outcome(codes={"migrate": finish(self.migrate), "receive": finish(self.receive)})
        out.states = (scene.a.state(), scene.b.state())
        out.runs = scene.stage.runs_somewhere()
        out.errors = {"migrate": told(self.migrate), "receive": told(self.receive)}
        for host, kind in ((scene.a, "migrate"), (scene.b, "receive")):
            shown = host.json("job", "show", host.job(kind)["id"])
            out.jobs[kind] = (shown["state"], shown["exit_code"])
        if again:
            receive, ticket = scene.receive()
            out.again = finish(scene.migrate(ticket)), finish(receive)
        out.journal = scene.stage.lines()
        return out

    def strike(self) -> None:
        """The failure itself."""
        if self.victim == "source-qemu":
            kill(qemu(self.scene.a))
        elif self.victim == "destination-qemu":
            kill(qemu(self.scene.b))
        elif self.victim == "source-controller":
            worker = self.scene.worker()
            self.migrate.kill()
            finish(self.migrate)
            kill(worker)
        elif self.victim == "destination-controller":
            self.receive.kill()
            finish(self.receive)
        else:
            self.scene.cable.cut()

    def help(self) -> None:
        """What an operator does who reads what he is told."""
        if self.victim == "source-controller":
            self.migrate = resume(self.scene.a, "migrate")
        if self.victim == "destination-controller" and self.disks_are_there:
            self.receive = resume(self.scene.b, "receive")
        if self.victim == "link":
            if not self.point.committed:
                finish(self.migrate)
            self.scene.cable.cut(False)
        if self.point.phase == "preflight":
            # It was asked for nothing, and waits for another source.
            finish(self.migrate)
            self.receive.kill(signal.SIGTERM)

    @property
    def disks_are_there(self) -> bool:
        """The destination has the disks already: without it the source cannot go on."""
        return self.point.committed or self.point.phase == "prepare"


def resume(host: Host, kind: str) -> Command:
    """Start `job resume` of the newest job of a kind there."""
    return host.start("job", "resume", host.job(kind)["id"])


def qemu(host: Host) -> ProcessId:
    """The machine of a host, which has one."""
    found = host.qemu()
    assert found is not None, f"VM {VM} has no QEMU on {host.name}"
    return found
