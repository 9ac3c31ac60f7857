# SPDX-License-Identifier: Apache-2.0
"""Calls to the firmware: post in the mailbox, ring the doorbell, wait until done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cpcctl import abi
from cpcctl.abi_status import OP_NAMES, PLATFORM_NAMES, suites
from cpcctl.config.patience import patient
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.qmp import Event, Qmp
from cpcctl.host.shm import CallError, Mailbox, Reply, Ring, RingFile

# Waits between looks at the mailbox: short at first, since most calls take
# microseconds, then that part of the time the call has taken so far, for each look
# takes processor time from the hvCPU.
SHORTEST_WAIT = 0.00005
LONGEST_WAIT = 0.02
WAIT_PART = 0.02
# After this long without an answer, ask QEMU whether the hvCPU still lives: early in a call,
# for it may have been dead before, and then every second.
HEALTH_FIRST = 0.05
HEALTH_EVERY = 1.0
CANCEL_GRACE = patient(10.0)
CALL_SECONDS = patient(30.0)
PING_SECONDS = patient(5.0)

Pump = Callable[[], bool]


@dataclass(frozen=True)
class Ping:
    """What an hvCPU says about itself."""

    abi: int
    hvcpu: int
    suites: list[str]
    platform: str
    calls: int
    version: str
    seconds: float


class HvcpuDead(CpcError):
    """The hvCPU will never answer: a fault stopped it, or it is not active."""

    def __init__(self, qmp: Qmp, number: int, state: str, reason: str | None) -> None:
        name = qmp.label.removeprefix("VM ")
        super().__init__(
            f"hvCPU {number} is {state}",
            exit_code=ExitCode.UNREACHABLE,
            host=qmp.host,
            cause=reason,
            hint=f"cpcctl hvcpu remove {name} {number}, then cpcctl hvcpu add {name}",
        )


class Hvcpu:
    """One hvCPU of a running machine: its mailbox, its ring and how to wake it.

    Not for several threads at once; each stream of a migration has its own.
    grace: seconds that a call which is given up may take to end, 0 where nobody calls
    again; None: CANCEL_GRACE.
    """

    def __init__(
        self, qmp: Qmp, rings: RingFile, number: int, *, grace: float | None = None
    ) -> None:
        self.qmp = qmp
        self.number = number
        self._grace = grace
        self._rings = rings
        self.mailbox: Mailbox = rings.mailbox(number)
        self.ring: Ring = rings.ring(number)
        self._death: Event | None = None

    def wake(self) -> None:
        """Let a parked hvCPU look at its mailbox; of a dead one a call finds out."""
        self._rings.wake(self.number)

    @property
    def grace(self) -> float:
        """Seconds that a call which is given up may take to end."""
        return CANCEL_GRACE if self._grace is None else self._grace

    def call(
        self,
        op: int,
        args: tuple[int, ...] = (),
        payload: bytes = b"",
        *,
        timeout: float = CALL_SECONDS,
        pump: Pump | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Reply:
        """Run one call to its end and return its reply.

        timeout:   seconds; the call is cancelled then and CpcError (6) raised
        pump:      called again and again while the call runs; moves what it
                   can between the ring and the wire, without blocking longer
                   than some milliseconds, and returns True when a yielded
                   hvCPU would find something to do. Exceptions from it cancel
                   the call and go through. After an export, what the call left
                   in the ring is the caller's to take.
        cancelled: looked at all the time; True cancels the call, whose reply
                   then is CallError with S_CANCELLED
        Raises CallError for a status other than OK, CpcError (4) when the
        hvCPU or QEMU is dead, (75) when a call is pending in the mailbox.
        """
        request = self.mailbox.post(op, args, payload)
        deadline = time.monotonic() + timeout
        try:
            self.wake()
            finished = self._wait(request, deadline, pump, cancelled)
        except BaseException:
            self._give_up(request)
            raise
        if not finished:
            self._give_up(request)
            raise CpcError(
                f"call {OP_NAMES.get(op, hex(op))} on hvCPU {self.number} "
                f"took longer than {timeout:g} s and was cancelled",
                exit_code=ExitCode.TIMED_OUT,
                host=self.qmp.host,
            )
        reply = self.mailbox.reply()
        if reply.status != abi.S_OK:
            raise CallError(self.number, op, reply, self.qmp.host)
        return reply

    def ping(self, timeout: float = PING_SECONDS) -> Ping:
        """Ask the firmware who it is; refuses another ABI (3)."""
        begin = time.monotonic()
        reply = self.call(abi.OP_PING, timeout=timeout)
        seconds = time.monotonic() - begin
        if len(reply.payload) < 64:
            raise CpcError(
                f"hvCPU {self.number} gave a short answer to ping",
                exit_code=ExitCode.UNREACHABLE,
                cause=f"{len(reply.payload)} bytes",
            )
        answer = abi.PingReply.from_buffer_copy(reply.payload)
        if answer.abi != abi.ABI_VERSION:
            raise CpcError(
                f"the firmware speaks ABI {answer.abi}, this controller {abi.ABI_VERSION}",
                exit_code=ExitCode.REFUSED,
                host=self.qmp.host,
                hint="cpcctl doctor",
            )
        return Ping(
            answer.abi,
            answer.hvcpu,
            suites(answer.suites),
            PLATFORM_NAMES.get(answer.platform, f"unknown ({answer.platform})"),
            answer.calls,
            answer.version.decode("ascii", "replace"),
            seconds,
        )

    def settle(self, timeout: float = CANCEL_GRACE) -> None:
        """End a call that a controller which died left behind.

        Raises CpcError (4) when the hvCPU does not end it in time.
        """
        if not self.mailbox.pending:
            return
        request = self.mailbox.request
        self.mailbox.cancel(request)
        self.wake()
        if not self._wait(request, time.monotonic() + timeout, None, None, rewake=True):
            raise CpcError(
                f"hvCPU {self.number} does not end the call of an earlier controller",
                exit_code=ExitCode.UNREACHABLE,
                host=self.qmp.host,
                hint=f"cpcctl hvcpu list {self.qmp.label.removeprefix('VM ')}",
            )

    def _wait(
        self,
        request: int,
        deadline: float,
        pump: Pump | None,
        cancelled: Callable[[], bool] | None,
        rewake: bool = False,
    ) -> bool:
        busy = time.monotonic()
        health = busy + HEALTH_FIRST
        stopping = False
        while not self.mailbox.done(request):
            work = pump() if pump else False
            if self.mailbox.state == abi.STATE_YIELDED and (work or stopping or rewake):
                self.wake()
            if not stopping and cancelled and cancelled():
                stopping = True
                self.mailbox.cancel(request)
                self.wake()
                deadline = min(deadline, time.monotonic() + self.grace)
            now = time.monotonic()
            if now >= deadline:
                return self.mailbox.done(request)
            if now >= health or not self.qmp.alive:
                self._check_health()
                health = now + HEALTH_EVERY
            if work:
                busy = now
                continue
            self._check_dead_event()
            time.sleep(min(max((now - busy) * WAIT_PART, SHORTEST_WAIT), LONGEST_WAIT))
        return True

    def _give_up(self, request: int) -> None:
        """Cancel and wait a little, so that the next call finds the hvCPU free."""
        if self.mailbox.done(request) or not self.qmp.alive:
            return
        self.mailbox.cancel(request)
        try:
            self.wake()
            self._wait(request, time.monotonic() + self.grace, None, None, rewake=True)
        except HvcpuDead:
            # The next hvCPU of that number must not see what this one died of, if it did.
            self.mailbox.retract()
        except CpcError:
            pass  # what made us give up is the error to report

    def _check_dead_event(self) -> None:
        event = self.qmp.seen(self._is_my_death)
        # An hvCPU that was removed and added again lives; QEMU knows.
        if event is not None and event is not self._death:
            self._death = event
            self._check_health()

    def _is_my_death(self, event: Event) -> bool:
        return bool(event["event"] == "CPC_HVCPU_DEAD" and event["data"]["id"] == self.number)

    def _check_health(self) -> None:
        for entry in self.qmp.require_cpc()["hvcpus"]:
            if entry["id"] != self.number:
                continue
            if entry["state"] in ("dead", "inactive"):
                raise HvcpuDead(self.qmp, self.number, entry["state"], entry.get("reason"))
