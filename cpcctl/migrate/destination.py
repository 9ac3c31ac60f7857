# SPDX-License-Identifier: Apache-2.0
"""The destination's half: answers the source's requests, one at a time.

Nothing here decides; it does what the source asks when the firmware allows
it, and gives the guest up when the source stays away.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from cpcctl import abi
from cpcctl.config.patience import patient
from cpcctl.config.settings import Settings
from cpcctl.errors import RESTORE, CpcError, ExitCode
from cpcctl.host import cores
from cpcctl.host.qmp import QmpError, QmpGone
from cpcctl.host.shm import CallError
from cpcctl.host.state import Folders, VmLock
from cpcctl.jobs.store import Job
from cpcctl.link import pump
from cpcctl.link.listener import Listener
from cpcctl.link.message import Message, Request
from cpcctl.link.ticket import SECRET_BYTES
from cpcctl.migrate import (
    admit,
    checks,
    facts,
    messages,
    network,
    order,
    session,
    sharing,
)
from cpcctl.migrate.machine import DestinationFact
from cpcctl.migrate.network import Network
from cpcctl.migrate.order import Stage
from cpcctl.migrate.recovery import outcome, stale
from cpcctl.migrate.side import EVENT_SECONDS, Side
from cpcctl.migrate.streams import Streams
from cpcctl.ui.check import Check, refusal
from cpcctl.vm import lifecycle, live, registry
from cpcctl.vm import spec as specs
from cpcctl.vm.ending import Ending
from cpcctl.vm.files import Files
from cpcctl.vm.spec import VmSpec

STREAM_SECONDS = patient(30.0)
RECV_SECONDS = 24 * 3600.0
COMPLETE_LOOK = 0.25
GONE_SECONDS = patient(2.0)
LOOKS_MAX = 32
PASSED_SECONDS = 60.0


class Destination:
    """One guest that arrives. `stage` says how far it is."""

    def __init__(
        self, settings: Settings, job: Job, listener: Listener, network: Network
    ) -> None:
        self.settings = settings
        self.job = job
        self.listener = listener
        self.network = network
        self._digests = sharing.Digests()
        self._cores = cores.Look()
        self.side: Side | None = None
        self.lock: VmLock | None = None
        self.streams: Streams | None = None
        self.stage = Stage.IDLE
        # Until PREPARE has been called nothing can have been committed.
        self.prepared = False
        self._looks = 0
        self.at: type[Request[Any]] | None = None  # which request it is working on
        self.finished = threading.Event()
        self.error: CpcError | None = None
        self.failure: CpcError | None = None  # of the last request; the source was told
        self._recvs: list[object] = []
        # What preflight has found good, and when.
        self._passed: tuple[Any, Any, float] | None = None
        self._handlers: dict[type[Request[Any]], Callable[[Any], Message]] = {
            messages.Hello: self._hello,
            messages.Clock: lambda _: messages.Time(time.time()),
            messages.Preflight: self._preflight,
            messages.Prepare: self._prepare,
            messages.Handshake: self._handshake,
            messages.Confirm: self._confirm,
            messages.Watch: self._watch,
            messages.Complete: self._complete,
            messages.Run: self._run,
            messages.Query: self._query,
            messages.Abort: self._abort,
            messages.Done: self._done,
        }

    @property
    def fact(self) -> DestinationFact:
        """How far it is, as the source is told."""
        return self.stage.fact

    def handle(self, request: Request[Any]) -> Message:
        """Answer one request. :raise CpcError: what it was refused for."""
        order.check(request.name, self.stage)
        ok, self.at = False, type(request)
        try:
            answer = self._handlers[type(request)](request)
            ok = True
            return answer
        except QmpGone as error:
            # A process that was killed closes its sockets before it is gone.
            deadline = time.monotonic() + GONE_SECONDS
            while self.dead() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            self.failure = self.dead() or error
            raise self.failure from error
        except CpcError as error:
            self.failure = error
            raise
        finally:
            self.at = None
            self.stage = order.after(request.name, self.stage, ok=ok)

    def source_lost(self) -> None:
        """The connection has ended: whatever still waits for its data does so in vain."""
        if self.stage is not Stage.PREPARED and self.streams is not None:
            self.streams.cancelled.set()

    # ---- before anything is sent ----------------------------------------------

    def _hello(self, request: messages.Hello) -> messages.Helloed:
        if request.protocol != messages.PROTOCOL:
            raise CpcError(
                f"this host speaks version {messages.PROTOCOL} of the protocol, the source "
                f"version {request.protocol}",
                exit_code=ExitCode.REFUSED,
                hint="use the same version of cpcctl on both hosts",
            )
        self.job.record.data["source"] = request.host
        self._cores = cores.Look()
        return messages.Helloed(self.settings.host, messages.PROTOCOL)

    def _preflight(self, request: messages.Preflight) -> messages.Checks:
        self._passed = None
        spec = specs.read(request.spec, "the VM that the source sends")
        with admit.open_allowed(spec, admit.folders(self.settings)) as files:
            found, digests = self._checks(request, spec, files)
        self.failure = refusal(found)
        if self.failure is None:
            self._passed = (request.spec, request.source, time.monotonic())
        return messages.Checks(tuple(checks.result(check) for check in found), digests)

    def _checks(
        self, request: messages.Preflight | messages.Prepare, spec: VmSpec, files: Files
    ) -> tuple[list[Check], tuple[str, ...]]:
        """What is found of a VM whose files are open; and the files whose digest may help."""
        # Each look tells the source something of this host's files.
        self._looks += 1
        if self._looks > LOOKS_MAX:
            raise CpcError(
                "this receive has looked at VMs often enough",
                exit_code=ExitCode.REFUSED,
                hint="take a fresh ticket from `cpcctl receive`",
            )
        source, host = facts.read_source(request.source), self.settings.host
        found = admit.judge(spec, files, host)
        if refusal(found) is not None:
            return found, ()  # and the source is told nothing of the files
        shared = sharing.verify(files, request.files, source.host, self._digests)
        found += sharing.checks(files, shared.unproven, host)
        found += network.checks(spec, self.network, facts.network_devices(), host)
        if not self._known(request):
            orphan = stale.removable(self.settings, spec.name)
            here = facts.of_destination(self.settings, spec, source, orphan)
            found += checks.destination_checks(spec, source, here)
        return found, shared.digests

    def _known(self, request: messages.Preflight | messages.Prepare) -> bool:
        """Whether this host, not the files, was found good for this VM a moment ago."""
        if self._passed is None:
            return False
        *passed, when = self._passed
        return passed == [request.spec, request.source] and time.monotonic() - when < PASSED_SECONDS

    def _prepare(self, request: messages.Prepare) -> messages.Launched:
        spec = specs.read(request.spec, "the VM that the source sends")
        # What is looked at now is what QEMU gets, whatever was found earlier.
        with admit.open_allowed(spec, admit.folders(self.settings)) as files:
            error = refusal(self._checks(request, spec, files)[0])
            if error is not None:
                raise error
            return self._launch(spec, files)

    def _launch(self, spec: VmSpec, files: Files) -> messages.Launched:
        self.job.record.vm = spec.name
        # Before QEMU and its hvCPUs make this machine look busy.
        idle = self._cores.idle() if spec.hvcpus > 1 else float(cores.count())
        lock = VmLock.take(Folders.of(self.settings), spec.name, f"receive {self.job.id}")
        secret = secrets.token_bytes(SECRET_BYTES)
        before = dict(self.job.record.data)
        try:
            stale.remove(self.settings, spec.name)
            self.job.record.data.update(
                launched=spec.name, secret=base64.b64encode(secret).decode("ascii")
            )
            self.job.phase("prepare")
            # Leaves nothing when it fails; what has this name then is somebody else's.
            vm = lifecycle.start(
                self.settings, network.fit(spec, self.network), incoming=True, lock=lock,
                files=files,
            )  # fmt: skip
            try:
                self.side = Side.attach(vm)
            except BaseException:
                lifecycle.discard(self.settings, spec.name)
                raise
        except BaseException:
            self.job.record.data = before
            with contextlib.suppress(CpcError):
                self.job.save()
            if Folders.of(self.settings).vm(spec.name).state.exists():
                lock.release()
            else:
                lock.remove()
            raise
        self.lock = lock
        speeds = self.side.speeds(abi.SPEED_OPEN)
        # From here on nobody but this source gets in.
        self.listener.renew(secret)
        return messages.Launched(
            len(self.side.hvcpus), cores.count(), idle, cores.machine(),
            {str(suite): speed for suite, speed in speeds.items()}, secret,
        )  # fmt: skip

    def _handshake(self, request: messages.Handshake) -> messages.Shaken:
        side = self._side()
        hello = session.open_session(side.main, abi.ROLE_DESTINATION, request.suites)
        return messages.Shaken(hello, session.accept(side.main, request.hello))

    def _confirm(self, request: messages.Confirm) -> messages.StreamTokens:
        side, count = self._side(), request.streams
        if count > len(side.hvcpus):
            raise CpcError(
                f"{count} data streams for {len(side.hvcpus)} hvCPUs", exit_code=ExitCode.REFUSED
            )
        session.confirm(side.main, request.confirmation)
        self.job.phase("receive")
        tokens = [self.listener.expect_stream() for _ in range(count)]
        streams = self.streams = Streams(count)
        self._recvs = [streams.submit(lambda s=s: self._recv(s)) for s in range(count)]  # type: ignore[misc]
        self._connected = streams.submit(lambda: self._start_pumps(tokens))
        return messages.StreamTokens(tuple(tokens))

    def _start_pumps(self, tokens: list[bytes]) -> None:
        side, streams = self._side(), self._streams()
        links = [self._link(token) for token in tokens]
        streams.start_pumps(
            [pump.Receiver(side.port(stream), link) for stream, link in enumerate(links)]
        )

    def _link(self, token: bytes) -> socket.socket:
        """The data stream with that token, unless everything is called off."""
        deadline = time.monotonic() + STREAM_SECONDS
        while True:
            try:
                return self.listener.stream(token, 0.25)
            except TimeoutError:
                if self._streams().cancelled.is_set() or time.monotonic() > deadline:
                    raise

    def _recv(self, stream: int) -> None:
        streams = self._streams()
        session.recv(
            self._side().hvcpus[stream], stream, streams.cancelled.is_set, RECV_SECONDS
        )

    def _watch(self, _: messages.Watch) -> messages.Taken:
        """How many bytes the firmware has taken; fails with the cause when a stream has failed."""
        self._check_alive()
        streams = self._streams()
        streams.check()
        for call in (self._connected, *self._recvs):
            if call.done():  # type: ignore[attr-defined]
                call.result()  # type: ignore[attr-defined]
        return messages.Taken(streams.bytes_taken)

    def ended_since(self) -> CpcError | None:
        """How a guest that ran here ended, if it has, and nobody stopped it or moved it on."""
        name, host = self.job.record.vm, self.settings.host
        paths = Folders.of(self.settings).vm(name)
        gone = registry.gone(self.settings, name) if self.side is None else not self.side.vm.alive
        if not gone or not paths.definition.exists():
            return None
        ending = live.ended(paths.log)
        return outcome.ended_since(name, host, ending)

    def dead(self) -> CpcError | None:
        """What to say when QEMU here has died."""
        side = self.side
        if side is None or side.vm.alive:
            return None
        if self.prepared and side.vm.ending.by_guest:
            return self.ended_since()
        return CpcError(
            f"QEMU of VM {side.vm.name} died on {self.settings.host}",
            host=self.settings.host,
            # Here, since the log goes with everything else of a guest that did not arrive.
            cause=side.vm.last_words,
            hint=f"dmesg | tail, on {self.settings.host}: whether the kernel ended it",
        )

    def _check_alive(self) -> None:
        error = self.dead()
        if error is not None:
            raise error

    # ---- the handover ----------------------------------------------------------

    def _complete(self, request: messages.Complete) -> messages.Prepared:
        side, streams = self._side(), self._streams()
        streams.wait(self._recvs, self._check_alive, COMPLETE_LOOK)  # type: ignore[arg-type]
        side.load_devices(request.devices, request.digest.hex())
        side.disks(True)
        self.prepared = True
        return messages.Prepared(session.prepare(side.main))

    def _run(self, request: messages.Run) -> messages.Released:
        data = self.job.record.data
        if self.stage is Stage.RUNNING and "running" in data:
            # It ran here, and the answer was lost on its way; what came then is another story.
            token = base64.b64decode(data["running"])
            return messages.Released(token, data.get("released", time.time()))
        side = self._side()
        again = self.stage is Stage.RUNNING
        self.job.go_on()
        token = session.run(side.main, request.token)
        self.stage = Stage.RUNNING  # whatever fails from here on
        try:
            released = side.event_time("CPC_RELEASED", 0.0 if again else EVENT_SECONDS)
        except TimeoutError:  # asked again: another controller has had the event
            released = time.time()
        self._announce()
        data.update(running=base64.b64encode(token).decode("ascii"), released=released)
        self.job.phase("running")
        return messages.Released(token, released)

    def _announce(self) -> None:
        """Tell the network where the guest is now; the switchover is ours, not QEMU's."""
        with contextlib.suppress(QmpError):
            self._side().qmp.execute("announce-self", initial=50, max=550, rounds=5, step=100)

    def _query(self, _: messages.Query) -> messages.Fact:
        """How far the firmware is; with the token that proves it where there is one."""
        with contextlib.suppress(CpcError):
            self.refresh()
        token = self._token() if self.stage is Stage.ABORTED else b""
        return messages.Fact(self.fact.name, token)

    def refresh(self) -> None:
        """Ask the firmware anew; for an incoming VM found after a crash too.

        :raise CpcError: it cannot be asked.
        """
        if self.side is None or self.stage in (Stage.ABORTED, Stage.ENDED, Stage.IDLE):
            return
        vm = self.side.vm
        if not vm.alive:
            self.stage = self.after_its_end(vm.ending)
            return
        # Who asks has stopped sending: a stream still waiting would be in the way.
        if self.streams is not None:
            self.streams.stop()
        try:
            self.side.settle_calls()
            phase = self.side.query().phase
        except CpcError:
            gone = vm.wait_gone(GONE_SECONDS)
            self.stage = self.after_its_end(vm.ending) if gone else Stage.UNKNOWN
            raise
        self.stage = {
            abi.PHASE_PREPARED: Stage.PREPARED,
            abi.PHASE_RUNNING: Stage.RUNNING,
            abi.PHASE_ABORTED: Stage.ABORTED,
            abi.PHASE_FAILED: Stage.FAILED,
        }.get(phase, Stage.BROKEN)

    def after_its_end(self, ending: Ending) -> Stage:
        """What a QEMU that is gone leaves to be told."""
        told = "running" in self.job.record.data
        return order.after_its_end(by_guest=ending.by_guest, prepared=self.prepared, told=told)

    def _done(self, _: messages.Done) -> messages.Empty:
        self.finished.set()
        return messages.Empty()

    # ---- giving up ---------------------------------------------------------------

    def _abort(self, request: messages.Abort) -> messages.Aborted:
        error = self.dead() or self._own_failure() or CpcError(
            "the source gave the migration up",
            host=self.job.record.data.get("source"),
            cause=request.reason,
        )
        name = self.side.vm.name if self.side is not None else None
        if request.ended:
            error.exit_code = ExitCode.ENDED
            error.message += f"; the guest{f' of VM {name}' if name else ''} ended by itself there"
        if request.lost:
            # Here it is aborted permanently, or give_up() says that it cannot be. That it is no
            # more there is the source's word, so it is shown as that.
            source = self.job.record.data.get("source", "the source")
            error.exit_code = ExitCode.LOST
            error.message += f"; {source} says that {f'VM {name}' if name else 'its VM'} is lost"
            error.hint = f"cpcctl vm status {name or 'VM'}, on {source}; then {RESTORE}"
        token = self.give_up(error)
        self.finished.set()
        return messages.Aborted(token)

    def _own_failure(self) -> CpcError | None:
        """What failed here, which the source was told and only repeats."""
        if self.failure is None:
            return None
        own, host = self.failure, self.settings.host
        cause = "\n".join(filter(None, (own.message, own.cause)))
        what = f"the incoming migration failed on {host}"
        return CpcError(what, host=host, cause=cause, hint=own.hint)

    def give_up(self, reason: CpcError) -> bytes:
        """Abort for ever, keep the token, end QEMU, remove what is left.

        :raise CpcError: (5) the guest may be running here.
        """
        if self.stage is Stage.ABORTED or self.side is None:
            self.error = self.error or reason
            if stale.forget_dead(self.settings, self.job.record) and self.lock is not None:
                self.lock.remove()
            self.stage = Stage.ABORTED if self._token() else Stage.ENDED
            return self._token()
        side = self.side
        if self.streams is not None:
            self.streams.stop()
        token = b""
        if side.vm.alive:
            try:
                side.settle_calls()
                token = side.abort()
            except QmpGone as gone:
                # Of a QEMU that lives and does not answer: the firmware may have had its COMMIT.
                if self.prepared and not side.vm.wait_gone(GONE_SECONDS):
                    raise self.not_given_up(gone) from gone
            except CallError as error:
                raise self.not_given_up(error) from error
        self.job.record.data["abort"] = base64.b64encode(token).decode("ascii")
        self.job.record.data.pop("launched", None)
        with contextlib.suppress(CpcError):  # a full disk must not keep the shell alive
            self.job.save()
        self.stage = Stage.ABORTED if token else Stage.ENDED
        self.error = self.error or reason
        side.close()
        lifecycle.discard(self.settings, side.vm.name)
        self.side = None
        if self.lock is not None:
            self.lock.remove()
        return token

    def _token(self) -> bytes:
        """ABORT's token, when there is one."""
        return base64.b64decode(self.job.record.data.get("abort", ""))

    def not_given_up(self, why: CpcError) -> CpcError:
        """(5) The guest may run here, or may yet."""
        return outcome.not_given_up(
            self._side().vm.name, self.settings.host, self.job.id, why.cause or why.message
        )

    def close(self) -> None:
        """Hang up; the guest stays as it is."""
        if self.streams is not None:
            self.streams.stop()
        if self.side is not None:
            self.side.close()
        if self.lock is not None:
            self.lock.release()

    def _side(self) -> Side:
        if self.side is None:
            raise CpcError("no VM is being received", exit_code=ExitCode.REFUSED)
        return self.side

    def _streams(self) -> Streams:
        if self.streams is None:
            raise CpcError("no data stream is open", exit_code=ExitCode.REFUSED)
        return self.streams
