# SPDX-License-Identifier: Apache-2.0
"""The destination's half: answers the source's requests, one at a time.

Nothing here decides; it does what the source asks when the firmware allows
it, and gives the guest up when the source stays away.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from collections.abc import Callable

from cpcctl import abi
from cpcctl.config.patience import patient
from cpcctl.config.settings import Settings
from cpcctl.errors import RESTORE, CpcError, ExitCode, shown
from cpcctl.host import cores
from cpcctl.host.qmp import QmpError, QmpGone
from cpcctl.host.shm import CallError
from cpcctl.host.state import Folders, VmLock
from cpcctl.jobs.store import Job
from cpcctl.link import pump, rpc
from cpcctl.link.listener import Listener
from cpcctl.migrate import admit, checks, facts, hold, leftover, parallel, session
from cpcctl.migrate.machine import DestinationFact
from cpcctl.migrate.side import Side, check_device_state
from cpcctl.migrate.streams import Streams
from cpcctl.ui.check import Check, refusal
from cpcctl.vm import lifecycle
from cpcctl.vm import spec as specs
from cpcctl.vm.spec import VmSpec

STREAM_SECONDS = patient(30.0)
RECV_SECONDS = 24 * 3600.0
COMPLETE_LOOK = 0.25
GONE_SECONDS = patient(2.0)
LOOKS_MAX = 32


class Destination:
    """One guest that arrives. `fact` says how far it is."""

    def __init__(
        self, settings: Settings, job: Job, listener: Listener, taps: dict[str, str]
    ) -> None:
        self.settings = settings
        self.job = job
        self.listener = listener
        self.taps = taps
        self.side: Side | None = None
        self.lock: VmLock | None = None
        self.streams: Streams | None = None
        self.fact = DestinationFact.NOTHING
        # Until PREPARE has been called nothing can have been committed.
        self.prepared = False
        self._looks = 0
        self.finished = threading.Event()
        self.error: CpcError | None = None
        self._recvs: list[object] = []
        self._passed: rpc.Params | None = None  # what preflight has found good
        self._handlers: dict[str, Callable[[rpc.Params], rpc.Params]] = {
            "hello": self._hello,
            "clock": lambda _: {"time": time.time()},
            "preflight": self._preflight,
            "prepare": self._prepare,
            "handshake": self._handshake,
            "confirm": self._confirm,
            "watch": self._watch,
            "complete": self._complete,
            "run": self._run,
            "query": self._query,
            "abort": self._abort,
            "done": self._done,
        }

    def handle(self, method: str, params: rpc.Params) -> rpc.Params:
        """Answer one request. :raise CpcError: what it was refused for."""
        handler = self._handlers.get(method)
        if handler is None:
            raise CpcError(f"this version knows no request {method!r}", exit_code=ExitCode.REFUSED)
        try:
            return handler(params)
        except (KeyError, TypeError, ValueError) as error:
            raise CpcError(
                f"the request {method!r} makes no sense",
                exit_code=ExitCode.REFUSED,
                cause=f"{type(error).__name__}: {error}",
            ) from error
        except QmpGone as error:
            # A process that was killed closes its sockets before it is gone.
            deadline = time.monotonic() + GONE_SECONDS
            while self.dead() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            raise self.dead() or error from error

    # ---- before anything is sent ----------------------------------------------

    def _hello(self, params: rpc.Params) -> rpc.Params:
        self.job.record.data["source"] = shown(params["host"], 256)
        return {"host": self.settings.host}

    def _preflight(self, params: rpc.Params) -> rpc.Params:
        found = self._checks(params)[1]
        self._passed = params if refusal(found) is None else None
        return {"checks": [check.document() for check in found]}

    def _checks(self, params: rpc.Params) -> tuple[VmSpec, list[Check]]:
        # Each look tells the source something of this host's files.
        self._looks += 1
        if self._looks > LOOKS_MAX:
            raise CpcError(
                "this receive has looked at VMs often enough",
                exit_code=ExitCode.REFUSED,
                hint="take a fresh ticket from `cpcctl receive`",
            )
        spec = specs.read(params["spec"], "the VM that the source sends")
        source = facts.read_source(params["source"])
        found = admit.look(
            spec, admit.folders(self.settings.allow_paths), self.settings.host
        )
        if refusal(found) is not None:
            return spec, found  # and nothing that it names was opened
        orphan = leftover.removable(self.settings, spec.name)
        here = facts.of_destination(self.settings, spec, source, self.taps, orphan)
        return spec, found + checks.destination_checks(spec, source, here)

    def _prepare(self, params: rpc.Params) -> rpc.Params:
        if self.side is not None:
            raise CpcError("a VM is being received already", exit_code=ExitCode.BUSY)
        if params == self._passed:
            spec = specs.read(params["spec"], "the VM that the source sends")
        else:
            spec, found = self._checks(params)
            error = refusal(found)
            if error is not None:
                raise error
        self.job.record.vm = spec.name
        # Before QEMU and its hvCPUs make this machine look busy.
        idle = cores.idle() if spec.hvcpus > 1 else float(cores.count())
        lock = VmLock.take(Folders.of(self.settings), spec.name, f"receive {self.job.id}")
        try:
            leftover.remove(self.settings, spec.name)
            self.job.record.data["launched"] = spec.name
            self.job.phase("prepare")
            # Leaves nothing when it fails; what has this name then is somebody else's.
            vm = lifecycle.start(
                self.settings, checks.fit_taps(spec, self.taps), incoming=True, lock=lock
            )
            try:
                self.side = Side.attach(vm)
            except BaseException:
                lifecycle.discard(self.settings, spec.name)
                raise
        except BaseException:
            self.job.record.data.pop("launched", None)
            with contextlib.suppress(CpcError):
                self.job.save()
            if Folders.of(self.settings).vm(spec.name).state.exists():
                lock.release()
            else:
                lock.remove()
            raise
        self.lock = lock
        self.fact = DestinationFact.RECEIVING
        hold.at("there-launched")
        room = parallel.Room(len(self.side.hvcpus), cores.count(), idle, cores.machine())
        return {**room.document(), "open": self.side.speeds(abi.SPEED_OPEN)}

    def _handshake(self, params: rpc.Params) -> rpc.Params:
        side, suites = self._side(), params["suites"]
        if type(suites) is not int or not 0 < suites < 1 << 32:
            raise ValueError("suites")
        hello = session.open_session(side.main, abi.ROLE_DESTINATION, suites)
        confirmation = session.accept(side.main, _bytes(params["hello"]))
        return {"hello": _text(hello), "confirmation": _text(confirmation)}

    def _confirm(self, params: rpc.Params) -> rpc.Params:
        side, count = self._side(), params["streams"]
        if type(count) is not int or not 1 <= count <= len(side.hvcpus):
            raise ValueError("streams")
        session.confirm(side.main, _bytes(params["confirmation"]))
        self.job.phase("receive")
        hold.at("there-connected")
        tokens = [self.listener.expect_stream() for _ in range(count)]
        streams = self.streams = Streams(count)
        self._recvs = [streams.submit(lambda s=s: self._recv(s)) for s in range(count)]  # type: ignore[misc]
        self._connected = streams.submit(lambda: self._start_pumps(tokens))
        return {"tokens": [_text(token) for token in tokens]}

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

    def _watch(self, _: rpc.Params) -> rpc.Params:
        """How many bytes the firmware has taken; fails with the cause when a stream has failed."""
        self._check_alive()
        streams = self._streams()
        streams.check()
        for call in (self._connected, *self._recvs):
            if call.done():  # type: ignore[attr-defined]
                call.result()  # type: ignore[attr-defined]
        return {"taken": streams.bytes_taken}

    def dead(self) -> CpcError | None:
        """What to say when QEMU here has died."""
        side = self.side
        if side is None or side.vm.alive:
            return None
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

    def _complete(self, params: rpc.Params) -> rpc.Params:
        devices = check_device_state(params["devices"])
        side, streams = self._side(), self._streams()
        streams.wait(self._recvs, self._check_alive, COMPLETE_LOOK)  # type: ignore[arg-type]
        hold.at("there-received")
        side.load_devices(devices)
        side.disks(True)
        self.prepared = True
        token = session.prepare(side.main)
        self.fact = DestinationFact.PREPARED
        return {"token": _text(token)}

    def _run(self, params: rpc.Params) -> rpc.Params:
        side = self._side()
        hold.at("there-prepared")
        token = session.run(side.main, _bytes(params["token"]))
        try:
            released = side.event_time("CPC_RELEASED")
        except TimeoutError:  # asked again: the event was taken the first time
            released = time.time()
        self.fact = DestinationFact.RUNNING
        hold.at("there-released")
        self._announce()
        self.job.record.data["running"] = _text(token)
        self.job.phase("running")
        return {"token": _text(token), "released_at": released}

    def _announce(self) -> None:
        """Tell the network where the guest is now; the switchover is ours, not QEMU's."""
        with contextlib.suppress(QmpError):
            self._side().qmp.execute(
                "announce-self", initial=50, max=550, rounds=5, step=100
            )

    def _query(self, _: rpc.Params) -> rpc.Params:
        """How far the firmware is; with the token that proves it where there is one."""
        self.refresh()
        aborted = self.fact is DestinationFact.ABORTED
        return {
            "fact": self.fact.name,
            "token": self.job.record.data.get("abort", "") if aborted else "",
        }

    def refresh(self) -> None:
        """Ask the firmware anew; for a shell found after a crash too."""
        if self.side is None or self.fact in (DestinationFact.ABORTED, DestinationFact.NOTHING):
            return
        if not self.side.vm.alive:
            self.fact = DestinationFact.DEAD
            return
        # Who asks has stopped sending: a stream still waiting would be in the way.
        if self.streams is not None:
            self.streams.stop()
        self.side.settle_calls()
        phase = self.side.query().phase
        self.fact = {
            abi.PHASE_PREPARED: DestinationFact.PREPARED,
            abi.PHASE_RUNNING: DestinationFact.RUNNING,
            abi.PHASE_ABORTED: DestinationFact.ABORTED,
            abi.PHASE_FAILED: DestinationFact.FAILED,
        }.get(phase, DestinationFact.RECEIVING)

    def _done(self, _: rpc.Params) -> rpc.Params:
        self.finished.set()
        return {}

    # ---- giving up ---------------------------------------------------------------

    def _abort(self, params: rpc.Params) -> rpc.Params:
        words = shown(params.get("reason", "it did not say why"), 512)
        error = self.dead() or CpcError(
            "the source gave the migration up",
            host=self.job.record.data.get("source"),
            cause=words,
        )
        if params.get("lost") is True:
            # Here it is given up for ever, or give_up() says that it cannot be. That it is no
            # more there is the source's word, so it is shown as that.
            source = self.job.record.data.get("source", "the source")
            name = self.side.vm.name if self.side is not None else None
            error.exit_code = ExitCode.LOST
            error.message += f"; {source} says that {f'VM {name}' if name else 'its VM'} is lost"
            error.hint = f"cpcctl vm status {name or 'VM'}, on {source}; then {RESTORE}"
        token = self.give_up(error)
        self.finished.set()
        return {"token": _text(token)}

    def give_up(self, reason: CpcError) -> bytes:
        """Abort for ever, keep the token, end QEMU, remove what is left.

        :raise CpcError: (5) the guest may be running here.
        """
        if self.fact is DestinationFact.ABORTED or self.side is None:
            self.error = self.error or reason
            return base64.b64decode(self.job.record.data.get("abort", ""))
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
                if self.prepared and not side.vm.process.wait_gone(GONE_SECONDS):
                    raise self._not_given_up(gone) from gone
            except CallError as error:
                raise self._not_given_up(error) from error
        self.job.record.data["abort"] = _text(token)
        self.job.record.data.pop("launched", None)
        with contextlib.suppress(CpcError):  # a full disk must not keep the shell alive
            self.job.save()
        self.fact = DestinationFact.ABORTED if token else DestinationFact.NOTHING
        self.error = self.error or reason
        side.close()
        lifecycle.discard(self.settings, side.vm.name)
        self.side = None
        if self.lock is not None:
            self.lock.remove()
        return token

    def _not_given_up(self, why: CpcError) -> CpcError:
        name = self._side().vm.name
        return CpcError(
            f"VM {name} cannot be given up on {self.settings.host}",
            exit_code=ExitCode.UNPROVEN,
            host=self.settings.host,
            cause=why.cause or why.message,
            hint=f"cpcctl vm status {name}, on both hosts",
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


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: object) -> bytes:
    return base64.b64decode(str(text), validate=True)
