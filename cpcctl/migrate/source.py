# SPDX-License-Identifier: Apache-2.0
"""The source's half of a migration: drives both machines phase by phase.

What to do when something goes wrong is decided in machine.py and done in
recovery/; this file is the way it goes when nothing does.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TypeVar

from cpcctl import abi
from cpcctl.config.patience import patient
from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.host import cores, identity, suite_speed
from cpcctl.host.state import VmPaths
from cpcctl.jobs.store import Job
from cpcctl.link import listener, pump, rpc, tls
from cpcctl.link.limit import Bucket
from cpcctl.link.message import Message, Params, Request
from cpcctl.link.ticket import Ticket
from cpcctl.migrate import (
    checks,
    converge,
    facts,
    messages,
    parallel,
    running,
    session,
    sharing,
    suites,
)
from cpcctl.migrate.converge import Round
from cpcctl.migrate.machine import Action, Event, Phase, decide
from cpcctl.migrate.options import Options
from cpcctl.migrate.side import Absent, Side
from cpcctl.migrate.streams import Streams
from cpcctl.ui import hints
from cpcctl.ui.check import Check, refusal
from cpcctl.vm import live
from cpcctl.vm.ending import Ending

LOOK_SECONDS = patient(0.25)
NAP_SHORT, NAP_LONG = 0.002, 0.05
ROUND_SECONDS = 24 * 3600.0
# The guest stands still meanwhile.
PREPARED_SECONDS = patient(20.0)
STALL_SECONDS = patient(converge.STALL_SECONDS)
R = TypeVar("R", bound=Message)


class Stop(Exception):
    """The operator or a deadline ends the migration."""

    def __init__(self, event: Event, why: str = "") -> None:
        super().__init__(event.value)
        self.event = event
        self.why = why


class Source:
    """One migration. `run` moves the guest; `phase` says where it stood."""

    def __init__(
        self, job: Job, machine: Side | Absent, ticket: Ticket, options: Options
    ) -> None:
        self.job = job
        self.machine = machine
        self.name = job.record.vm
        self.here = job.record.host
        self.ticket = ticket
        self.options = options
        self.begin = time.monotonic()
        self.accepted = self.begin
        self.phase = Phase.PREFLIGHT
        self.cancel = threading.Event()
        self.client: rpc.Client | None = None
        self._shared: sharing.Holder | None = None
        self.streams: Streams | None = None
        self.rounds: list[Round] = []
        self.progress = converge.Progress(self.begin)
        self.paused = False
        self.device_bytes = 0
        self.host = ticket.address
        self.clock_offset = 0.0
        # Wall clock of this host. The guest stands still from the first of them.
        self.paused_at: float | None = None
        self.frozen_at = 0.0
        self.entered = self.begin
        self.downtime: float | None = None
        self.total: float | None = None
        self.suite = 0
        self.parallel = parallel.Parallel(0, "unknown")
        self.chosen = suites.Choice(0, "unknown")

    @property
    def side(self) -> Side:
        """The machine. :raise CpcError: (5) it cannot be had."""
        if isinstance(self.machine, Absent):
            raise CpcError(
                f"QEMU of VM {self.name} on {self.here} cannot be asked",
                exit_code=ExitCode.UNPROVEN,
                host=self.here,
                cause=self.machine.trouble.cause or self.machine.trouble.message,
            )
        return self.machine

    @property
    def gone(self) -> bool:
        """Whether it is proven that QEMU here is gone."""
        if isinstance(self.machine, Absent):
            return self.machine.gone
        return not self.machine.vm.alive

    @property
    def paths(self) -> VmPaths:
        """The VM's files here."""
        return self.machine.paths if isinstance(self.machine, Absent) else self.machine.vm.paths

    @property
    def ending(self) -> Ending:
        """Why QEMU here went, when it is gone."""
        return live.ended(self.paths.log)

    def run(self) -> None:
        """Move the guest. Raises what went wrong, see recovery.rollback.classify."""
        self.enter(Phase.PREFLIGHT)
        self.look()
        self.connect(self.look)
        self.preflight()
        self.look()
        self.accepted = time.monotonic()
        self.enter(Phase.HANDSHAKE)
        self.handshake()
        self.enter(Phase.COPY)
        self.copy()
        self.switch_over()

    def enter(self, phase: Phase) -> None:
        """Note the phase in the job file, then be in it."""
        self.job.phase(phase.word)
        self.entered = time.monotonic()
        self.phase = phase

    def look(self) -> None:
        """Called all the time: is there a reason to stop?"""
        if self.cancel.is_set():
            self._stop(Event.CANCEL)
        limit = self.options.timeout
        if limit is not None and time.monotonic() - self.begin > limit and not self.paused:
            self._stop(Event.TIMEOUT)

    def _look_for_progress(self, stalled: float, why: str) -> None:
        """Seconds without progress: is it enough? --timeout says something else."""
        if stalled >= STALL_SECONDS and self.options.timeout is None and not self.paused:
            self._stop(Event.STALLED, why)

    def _stop(self, event: Event, why: str = "") -> None:
        plan = decide(self.phase, event, pause_on_timeout=self.options.pause_on_timeout)
        if Action.PAUSE_GUEST in plan.actions:
            # Nothing gets dirty any more, so the next round is the last one.
            self.paused_at = time.time()
            self.side.qmp.execute("stop")
            self.paused = True
        elif Action.IGNORE not in plan.actions:
            raise Stop(event, why)

    # ---- preflight and handshake --------------------------------------------

    def connect(self, look: Callable[[], None] | None = None) -> None:
        """Open the control connection. look: as for ask().

        :raise CpcError: (4) or (3) it cannot be.
        """
        try:
            own = identity.host_id(self.paths.state.parents[1])
            link = tls.connect(self.ticket, self.options.peer_timeout, own)
        except tls.LinkRefused as error:
            raise CpcError(
                f"the destination {self.ticket.address} refused the connection",
                exit_code=ExitCode.REFUSED,
                cause=str(error),
                hint="run `cpcctl receive` on the host where the VM shall go"
                if isinstance(error, tls.OwnTicket)
                else "take a fresh ticket from `cpcctl receive` on the destination",
            ) from error
        except OSError as error:
            raise CpcError(
                f"the destination {self.ticket.address} cannot be reached",
                exit_code=ExitCode.UNREACHABLE,
                cause=reason(error),
                hint=hints.unreachable(error, self.ticket.host, self.ticket.port),
            ) from error
        self.client = rpc.Client(link, self.ticket.address, self.options.peer_timeout)
        hello = messages.Hello(self.here, messages.PROTOCOL)
        self.host = self.ask(hello, look).host

    def preflight(self) -> None:
        """Every named check, on both sides. :raise CpcError: (3) with what failed."""
        error = refusal(self.checks_here()) or refusal(self.checks_there(), peer=True)
        if error is not None:
            raise error

    def checks_here(self) -> list[Check]:
        """What this side can tell alone."""
        vm, hvcpus = self.side.vm, len(self.side.hvcpus)
        found = [*running.look(vm, self.side.qmp), *self.shared().checks()]
        return [*found, parallel.check(vm.host, vm.name, hvcpus, self.options.parallel)]

    def checks_there(self) -> list[Check]:
        """What the destination finds, which looks at it as often as it is asked."""
        answer = self.ask(messages.Preflight(*self.offer()), self.look)
        if answer.digests:
            self.shared().add_digests(answer.digests)
            answer = self.ask(messages.Preflight(*self.offer()), self.look)
        return checks.read(answer.checks, self.host)

    def shared(self) -> sharing.Holder:
        """The VM's files, which are held until the destination has opened them."""
        if self._shared is None:
            vm = self.side.vm
            self._shared = sharing.Holder(vm.spec, vm.host, vm.process.pid)
        return self._shared

    def _let_go(self) -> None:
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def offer(self) -> tuple[Params, Params, tuple[messages.FileClaim, ...]]:
        """What the destination must know: this VM, with the hvCPUs it has now, its host, and
        its files."""
        spec = replace(self.side.vm.spec, hvcpus=len(self.side.hvcpus))
        source = facts.source_document(facts.of_source(self.side))
        return spec.document(), source, tuple(self.shared().claims.values())

    def handshake(self) -> None:
        """Launch the shell there, agree on keys, open the data streams."""
        self.side.settle_calls()
        with ThreadPoolExecutor(1) as beside:
            # The destination looks at its cores, and then launches QEMU, in the same time.
            measured = beside.submit(self._measure)
            launched = self.ask(messages.Prepare(*self.offer()), self.look)
        here, sealing = measured.result()
        self._let_go()
        # The ticket is spent: who comes back for this job shows what was given in its place.
        self.ticket = replace(self.ticket, secret=launched.secret)
        self.job.record.data["ticket"] = self.ticket.text()
        self.job.save()
        there = parallel.Room(launched.hvcpus, launched.cores, launched.idle, launched.machine)
        self.parallel = parallel.choose(here, there, self.options.parallel)
        count = self.parallel.streams
        self.chosen = suites.choose(
            self.options.suites,
            sealing,
            suite_speed.read(launched.opening),
        )
        self.measure_clock()
        hello = session.open_session(self.side.main, abi.ROLE_SOURCE, self.chosen.suites)
        answer = self.ask(messages.Handshake(hello, self.options.suites), self.look)
        ours = session.accept(self.side.main, answer.hello)
        session.confirm(self.side.main, answer.confirmation)
        tokens = self.ask(messages.Confirm(ours, count), self.look).tokens
        if len(tokens) != count:
            raise rpc.LinkLost(f"{len(tokens)} stream tokens where {count} were asked for")
        opened = self.side.query()
        self.suite = opened.suite
        # Only a job that finds this session again may think that it was given away.
        self.job.record.data["session"] = opened.session.hex()
        bucket = Bucket(self.options.bandwidth, time.monotonic())
        pumps = []
        for stream, token in enumerate(tokens):
            link = listener.open_stream(
                self.ticket.host, self.ticket.port, token, self.options.peer_timeout
            )
            pumps.append(pump.Sender(self.side.port(stream), link, bucket=bucket))
        self.streams = Streams(count)
        self.streams.start_pumps(pumps)

    def _measure(self) -> tuple[parallel.Room, suite_speed.Speeds]:
        idle = self._idle_cores()
        here = parallel.Room(len(self.side.hvcpus), cores.count(), idle, cores.machine())
        return here, self.side.speeds(abi.SPEED_SEAL)

    def _idle_cores(self) -> float:
        """Looked for only where there is a number of streams to choose."""
        choice = len(self.side.hvcpus) > 1 and not self.options.parallel
        return cores.Look().idle() if choice else float(cores.count())

    def measure_clock(self) -> None:
        """How far the destination's clock is ahead, from the shortest of three asks."""
        best = 1e9
        for _ in range(3):
            before = time.time()
            there = self.ask(messages.Clock(), self.look).time
            after = time.time()
            if after - before < best:
                best = after - before
                self.clock_offset = there - (before + after) / 2

    # ---- rounds --------------------------------------------------------------

    def copy(self) -> None:
        """Rounds of precopy until the rest fits into the allowed downtime."""
        self.side.dirty_log(True)
        self.progress = converge.Progress(time.monotonic())
        while True:
            self.send_round(abi.SEND_FULL if not self.rounds else 0)
            dirty = self.side.dirty_sync()
            last = self.rounds[-1]
            self.rounds[-1] = Round(**{**asdict(last), "dirty": dirty})
            self.look()
            decision = converge.decide(
                self.rounds, self.options.max_downtime, self.options.bandwidth, self.paused
            )
            rates = converge.rates(self.rounds[-1])
            stalled = self.progress.after_round(dirty, time.monotonic())
            behind = converge.behind(stalled, rates)
            rounds, left_out = converge.kept(self.rounds)
            self.job.progress(
                rounds=[asdict(entry) for entry in rounds],
                rounds_left_out=left_out,
                expected_downtime_seconds=round(decision.expected, 3),
                dirty_bytes_per_second=round(rates.dirty),
                copy_bytes_per_second=round(rates.copy),
                note=behind,
            )
            if decision.switch:
                return
            self._look_for_progress(stalled, behind)

    def send_round(self, flags: int) -> None:
        """One round on every stream."""
        streams, number = self._streams(), len(self.rounds) + 1
        begin = time.monotonic()
        calls = [
            streams.submit(
                lambda s=stream: session.send(  # type: ignore[misc]
                    self.side.hvcpus[s], s, streams.count, number, flags,
                    streams.cancelled.is_set, ROUND_SECONDS,
                )
            )
            for stream in range(streams.count)
        ]
        done = streams.wait(calls, self._look_while_copying, LOOK_SECONDS)
        if not flags & abi.SEND_FINAL:
            self._wait_until_taken()
        self.rounds.append(
            Round(
                number,
                sum(p.pages for p in done),
                sum(p.zero_pages for p in done),
                sum(p.bytes for p in done),
                round(time.monotonic() - begin, 6),
            )
        )

    def _wait_until_taken(self) -> None:
        """Until the destination's firmware has what this round sent.

        What it had not taken would be waited for while the guest stands still, and
        the round would look faster than the destination is.
        """
        streams, nap, told = self._streams(), NAP_SHORT, time.monotonic()
        while streams.bytes_sent != self.ask(messages.Watch(), self.look).taken:
            streams.check()
            self.look()
            if time.monotonic() - told > LOOK_SECONDS:
                self.job.progress(bytes_sent=streams.bytes_moved)
                self._look_for_movement()
                told = time.monotonic()
            time.sleep(nap)
            nap = min(nap * 1.5, NAP_LONG)

    def _look_for_prepared(self) -> None:
        self.look()
        still = time.monotonic() - self.entered
        if still > PREPARED_SECONDS:
            raise rpc.LinkLost(f"it has everything, and was not ready within {still:.0f} s")

    def _look_for_movement(self, sealed: object = None) -> None:
        if self.phase is Phase.COPY:
            moved = (len(self.rounds), self._streams().bytes_moved, sealed)
            still = self.progress.within_round(moved, time.monotonic())
            self._look_for_progress(still, f"nothing was sent for {still:.0f} s")

    def _look_while_copying(self) -> None:
        if self.phase < Phase.FREEZE:
            self.ask(messages.Watch())
        self.look()
        now = [self.side.hvcpus[s].mailbox.progress() for s in range(self._streams().count)]
        pages, zero_pages = sum(p.pages for p in now), sum(p.zero_pages for p in now)
        last = self.rounds[-1].dirty if self.rounds else None
        self._look_for_movement((pages, zero_pages))
        self.job.progress(
            round=len(self.rounds) + 1,
            pages=pages,
            zero_pages=zero_pages,
            bytes_sent=self._streams().bytes_moved,
            # Of this round's memory, whatever becomes of it on the wire.
            bytes_done=(pages + zero_pages) * abi.PAGE_SIZE,
            bytes_expected=self.side.vm.spec.memory if last is None else last * abi.PAGE_SIZE,
        )

    # ---- switchover ----------------------------------------------------------

    def switch_over(self) -> None:
        """From the freeze to the source's end."""
        streams, side = self._streams(), self.side
        self.enter(Phase.FREEZE)
        if self.paused:
            # The platform freezes a guest that runs; what it writes in this
            # moment is found by the sync below.
            side.qmp.execute("cont")
            self.paused = False
        session.freeze(side.main)
        self.frozen_at = side.event_time("CPC_FROZEN")
        # Devices may touch memory while they are saved: sync after that.
        devices, digest = side.save_devices()
        self.device_bytes = len(devices)
        side.dirty_sync()
        self.phase = Phase.FINAL
        final = streams.submit(lambda: self.send_round(abi.SEND_FINAL))
        side.disks(False)
        complete = messages.Complete(devices, digest)
        prepared = streams.submit(lambda: self.ask(complete, streams.look))
        streams.wait([final], self.look, LOOK_SECONDS)
        self.phase = Phase.STATE
        session.state(side.main, streams.count, streams.cancelled.is_set)
        for entry in streams.pumps:
            assert isinstance(entry, pump.Sender)
            entry.finish.set()
        self.phase = Phase.PREPARE
        self.entered = time.monotonic()
        (answer,) = streams.wait([prepared], self._look_for_prepared, LOOK_SECONDS)
        token = answer.token
        self.look()
        self.job.record.data["prepared"] = _text(token)
        # Saved before the call: from now on a dead controller means: settle.
        self.enter(Phase.COMMIT)
        self.job.go_on()
        commit = session.commit(side.main, token)
        self.give_away(commit)

    def give_away(self, commit: bytes) -> None:
        """The source has committed: make the destination run, then leave."""
        self.job.record.data["commit"] = _text(commit)
        self.phase = Phase.RUN
        answer = self.ask(messages.Run(commit))
        self.total = time.monotonic() - self.accepted
        self.job.phase(Phase.RUN.word)
        self.entered = time.monotonic()
        released = answer.released_at - self.clock_offset
        if self.frozen_at:
            begin = self.frozen_at if self.paused_at is None else self.paused_at
            self.downtime = max(0.0, released - begin)
        session.finish(self.side.main, answer.token)
        self.phase = Phase.FINISHED

    def ask(self, request: Request[R], look: Callable[[], None] | None = None) -> R:
        """Ask the destination; see rpc.Client.ask, also for what is raised."""
        if self.client is None:
            raise rpc.LinkLost("there is no connection")
        return self.client.ask(request, look)

    def _streams(self) -> Streams:
        if self.streams is None:
            raise rpc.LinkLost("there is no data stream")
        return self.streams

    def close(self) -> None:
        """Hang up everywhere; the machines stay as they are."""
        self._let_go()
        if self.streams is not None:
            self.streams.stop()
        if self.client is not None:
            self.client.close()
        if isinstance(self.machine, Side):
            self.machine.close()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
