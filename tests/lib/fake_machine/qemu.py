# SPDX-License-Identifier: Apache-2.0
"""The process that cpcctl takes for QEMU: command line, main loop, end."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tests.lib.fake_machine.command_line import options, read, values
from tests.lib.fake_machine.monitor import VERSION, Handler, Monitor
from tests.lib.fake_machine.stage import Stage

if TYPE_CHECKING:
    from tests.lib.fake_machine.machine import Machine

MACHINES = [{"name": "pc-q35-10.0", "alias": "q35"}, {"name": "pc-i440fx-10.0", "alias": "pc"}]
# QEMU's numbers in its trace.
CAUSES = {
    "host-qmp-quit": 2, "host-signal": 4, "guest-shutdown": 6, "guest-reset": 7, "guest-panic": 8,
}  # fmt: skip
JOB_MONITOR = "qmp-job"
# What every CPU model has here.
CPU = {"aes": True, "avx2": True, "pcid": False}
# Of a machine with a cpc device; it is known whether or not there is one.
COMMANDS = (
    "query-cpc", "cpc-hvcpu-add", "cpc-hvcpu-remove", "cpc-wake", "cpc-dirty-log",
    "cpc-dirty-sync", "cpc-save-device-state", "cpc-load-device-state",
)  # fmt: skip


class Qemu:
    """What the command line asks for."""

    def __init__(self, argv: list[str], library: str, stage: Stage) -> None:
        self.host = os.environ.get("CPCCTL_HOST", "host")
        self.stage = stage
        self.loop = selectors.DefaultSelector()
        self.machine: Machine | None = None
        self.deaf = False
        self.traced = "qemu_system_shutdown_request" in values(argv, "-trace")
        self.wanted = ""  # why it is to end
        self.files: list[str] = []  # to be removed at the end
        chardevs = {words["id"]: words for words in map(options, values(argv, "-chardev"))}
        if "-device" in argv:
            self._make_machine(argv, library, chardevs)
        for serial in values(argv, "-serial"):
            self._console(chardevs[serial.removeprefix("chardev:")])
        listed = [options(text)["chardev"] for text in values(argv, "-mon")]
        self.monitors = [self._monitor(name, chardevs[name]) for name in listed]
        self._hear_signals()

    def _make_machine(
        self, argv: list[str], library: str, chardevs: dict[str, dict[str, str]]
    ) -> None:
        # Not needed by one that is only asked what it can do, of which there are many.
        from tests.lib.fake_machine.machine import Machine

        who = f"{self.host} {os.getpid()}"
        config = read(argv)
        machine = Machine(library, config, who, self.stage.journal, self.stage.guest)
        self.machine = machine
        self._hear(machine.news, self._news)
        self._doorbell(machine, chardevs[config.doorbell]["path"])
        self._listen_to_orders()

    # ---- what it listens to ----------------------------------------------------------

    def _hear(self, file: Any, heard: Callable[[], None]) -> None:
        self.loop.register(file, selectors.EVENT_READ, heard)

    def _monitor(self, name: str, chardev: dict[str, str]) -> Monitor:
        monitor = Monitor(name, self.loop, self._around)
        monitor.commands = {
            "qmp_capabilities": lambda _: {},
            "query-version": lambda _: VERSION,
            "query-commands": lambda _: [{"name": name} for name in self._names()],
            "query-machines": lambda _: MACHINES,
            "query-cpu-model-expansion": lambda given: {
                "model": {"name": given["model"]["name"], "props": CPU}
            },
            "quit": lambda _: self._asked("host-qmp-quit"),
            "system_powerdown": self._powerdown,
            **(self.machine.commands() if self.machine else {}),
        }
        monitor.commands["getfd"] = monitor.get_fd
        if (machine := self.machine) is not None:
            monitor.commands["cpc-load-device-state"] = lambda given: machine.load(
                monitor.take(given["fdname"]), given["sha256"]
            )
        link = self._socket(chardev)
        if link.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            monitor.listen(link)
        else:
            monitor.talk(link)
        return monitor

    def _socket(self, chardev: dict[str, str]) -> socket.socket:
        """The one that was inherited, or one that listens at a path."""
        if "fd" in chardev:
            return socket.socket(fileno=int(chardev["fd"]))
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(chardev["path"])
        server.listen(1)
        self.files.append(chardev["path"])
        return server

    def _names(self) -> list[str]:
        return sorted({*self.monitors[0].commands, *COMMANDS})

    def _around(self, monitor: str, name: str, run: Handler) -> Handler:
        """On the jobs' monitor: points before and after a command."""
        if monitor != JOB_MONITOR or self.machine is None:
            return run

        def held(arguments: dict[str, Any]) -> Any:
            self._reach(f"before {name}")
            answer = run(arguments)
            self._reach(f"after {name}")
            return answer

        return held

    def _reach(self, point: str) -> None:
        self.stage.reach(self.host, point, self._obey)

    def _doorbell(self, machine: Machine, path: str) -> None:
        """A byte for each hvCPU that is to be woken; points before and after its call."""
        bell = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

        def rung() -> None:
            for hvcpu in os.read(bell, 16):
                call = machine.call_of(hvcpu)
                after = f"after {call}"
                if call:
                    self._reach(f"before {call}")
                if call and self.stage.wanted(self.host, after):
                    machine.answer_late(hvcpu, partial(self._reach, after))
                else:
                    machine.wake(hvcpu)

        self._hear(bell, rung)

    def _console(self, chardev: dict[str, str]) -> None:
        Path(chardev["logfile"]).touch()
        server = self._socket(chardev)
        self._hear(server, lambda: server.accept()[0].close())

    def _listen_to_orders(self) -> None:
        path = self.stage.orders(self.host)
        # Of a machine that was killed; its successor is the one that is meant.
        path.unlink(missing_ok=True)
        self.orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.orders.bind(str(path))
        self.orders.setblocking(False)
        self._hear(self.orders, self._obey)

    def _hear_signals(self) -> None:
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Only the byte in the pipe counts: the main loop ends it, if it does not hang.
            signal.signal(number, lambda *_: None)
        self._hear(read, lambda: self._signalled(os.read(read, 1)[0]))

    def _signalled(self, number: int) -> None:
        print(f"qemu-system-x86_64: terminating on signal {number}", file=sys.stderr, flush=True)
        self.end("host-signal")

    # ---- what happens ----------------------------------------------------------------

    def event(self, name: str, stamp: float | None = None, **data: Any) -> None:
        """To every client."""
        for monitor in self.monitors:
            monitor.event(name, stamp, data or None)

    def _news(self) -> None:
        assert self.machine is not None
        frozen, stamp = self.machine.told()
        self.event("STOP" if frozen else "RESUME", stamp)
        self.event("CPC_FROZEN" if frozen else "CPC_RELEASED", stamp)

    def _obey(self) -> None:
        assert self.machine is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                self._do(self.machine, self.orders.recv(64).decode())

    def _do(self, machine: Machine, order: str) -> None:
        if order == "crash":
            os.abort()
        elif order in ("deaf", "hear"):
            self.deaf = order == "deaf"
        elif order == "dead-hvcpus":
            for number in machine.kill_hvcpus():
                self.event("CPC_HVCPU_DEAD", id=number, reason="triple fault")
        elif order in ("mute-hvcpus", "wake-hvcpus"):
            machine.mute(order == "mute-hvcpus")
        elif not machine.runs:
            return  # a guest that stands still does nothing
        elif order == "shutdown":
            self.end("guest-shutdown")
        elif order == "panic":
            self.event("GUEST_PANICKED", action="poweroff")
            self.end("guest-panic")
        elif order == "reset" and machine.reset():
            self.event("RESET", guest=True, reason="guest-reset")

    def _powerdown(self, _: dict[str, Any]) -> Any:
        self.event("POWERDOWN")
        if self.machine is not None and self.machine.runs:
            self.wanted = "guest-shutdown"
        return {}

    def _asked(self, reason: str) -> Any:
        """It ends once the command has been answered."""
        self.wanted = reason
        return {}

    def end(self, reason: str) -> NoReturn:
        """As QEMU ends: clients and, if that was asked for, the log are told why."""
        if self.traced:
            words = f"qemu_system_shutdown_request reason={CAUSES[reason]}"
            print(words, file=sys.stderr, flush=True)
        self.event("SHUTDOWN", guest=reason.startswith("guest-"), reason=reason)
        for path in self.files:
            Path(path).unlink(missing_ok=True)
        # Without a look back: hvCPUs and the guest are threads that never end.
        os._exit(0)

    def run(self) -> NoReturn:
        """The main loop."""
        while True:
            for key, _ in self.loop.select():
                key.data()
            if self.wanted:
                self.end(self.wanted)
            while self.deaf:
                select.select([self.orders], [], [])
                self._obey()


def main(library: str, stage: str) -> NoReturn:
    """Be QEMU."""
    Qemu(sys.argv[1:], library, Stage(Path(stage))).run()
