# SPDX-License-Identifier: Apache-2.0
"""Moves a ring's bytes between shared memory and a TCP connection.

The bytes are the firmware's ciphertext, authenticated end to end, so they
travel on plain TCP next to the control connection and are never looked at.
The kernel copies straight between the socket and the mapped ring; this side
only moves head and tail. A pump blocks on its socket, and sleeps for short
moments only while the ring is empty (source) or full (destination).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cpcctl.config.patience import patient
from cpcctl.host.shm import Ring
from cpcctl.link.limit import Bucket

CHUNK = 2 << 20
SOCKET_BUFFER = 4 << 20
BATCH = 512 << 10
NAP_SHORT = 0.0002
NAP_LONG = 0.005
# Waking costs work on both sides: a slow host must not do only that.
REWAKE = patient(0.02)
GATHER = patient(0.001)
POLL = 0.25
KEEPALIVE_SECONDS, KEEPALIVE_PROBES = 5, 6
UNTAKEN_MS = int(patient(60.0) * 1000)


@dataclass(frozen=True)
class Port:
    """One hvCPU as a pump needs it.

    ring: its data ring.
    yielded: whether it sleeps inside a call, waiting for this side.
    wake: wakes it; may raise, which ends the pump.
    """

    ring: Ring
    yielded: Callable[[], bool]
    wake: Callable[[], None]


@dataclass(eq=False)
class Pump(threading.Thread):
    """Common to both directions: counters, stop and the error that ended it."""

    port: Port
    link: socket.socket
    bytes_moved: int = 0
    error: Exception | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(name="cpc-pump", daemon=True)
        self._woken_at = -1
        self._woken_when = 0.0

    def run(self) -> None:
        """Until stop is set, the peer closes, or an error is noted."""
        try:
            self._pump()
        except Exception as error:  # noqa: BLE001 - handed to the thread that owns the job
            self.error = error
        finally:
            self.link.close()

    def _pump(self) -> None:
        raise NotImplementedError

    def _wake_if_waiting(self, position: int) -> None:
        """Wake a yielded hvCPU, once for every position this side reached.

        It may fall asleep in the moment between this side's last progress and
        the look at its state, so a wake is repeated after REWAKE seconds.
        """
        if not self.port.yielded():
            return
        now = time.monotonic()
        if position != self._woken_at or now - self._woken_when > REWAKE:
            self._woken_at, self._woken_when = position, now
            self.port.wake()


@dataclass(eq=False)
class Sender(Pump):
    """Source: ring to socket. `finish` sends what is left and closes."""

    bucket: Bucket | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.finish = threading.Event()

    def _pump(self) -> None:
        ring, nap = self.port.ring, NAP_SHORT
        while not self.stop.is_set():
            last_look = self.finish.is_set()
            view = ring.readable(CHUNK)
            if not view:
                if last_look:
                    self.link.shutdown(socket.SHUT_WR)
                    return
                self._wake_if_waiting(ring.tail)
                time.sleep(nap)
                nap = min(nap * 1.5, NAP_LONG)
                continue
            nap = NAP_SHORT
            sent = self._send(view)
            if sent:
                ring.consume(sent)
                self.bytes_moved += sent
                # A wake costs a round trip to QEMU: leave it room worth one.
                if ring.free >= ring.size // 2:
                    self._wake_if_waiting(ring.tail)

    def _send(self, view: memoryview) -> int:
        allowed = len(view)
        if self.bucket is not None:
            allowed, pause = self.bucket.take(allowed, time.monotonic())
            if not allowed:
                self.stop.wait(min(pause, POLL))
                return 0
        try:
            sent = self.link.send(view[:allowed])
        except TimeoutError:  # the destination is not reading; look at stop again
            sent = 0
        if self.bucket is not None:
            self.bucket.give_back(allowed - sent)
        return sent


class Receiver(Pump):
    """Destination: socket to ring, until the source closes the stream."""

    ended: bool = False

    @property
    def starved(self) -> bool:
        """The source closed the stream, and the firmware waits for more of it."""
        # In this order: it has taken everything, and then fell asleep in the call.
        return self.ended and self.port.ring.used == 0 and self.port.yielded()

    def _pump(self) -> None:
        ring, nap = self.port.ring, NAP_SHORT
        while not self.stop.is_set():
            room = ring.writable(CHUNK)
            if not room:
                self._wake_if_waiting(ring.head)
                time.sleep(nap)
                nap = min(nap * 1.5, NAP_LONG)
                continue
            nap = NAP_SHORT
            try:
                got = self.link.recv_into(room)
            except TimeoutError:
                self._wake_if_waiting(ring.head)
                self._patience(POLL)
                continue
            if got == 0:
                self._wake_if_waiting(ring.head)
                self.ended = True
                return
            ring.produce(got)
            self.bytes_moved += got
            # A wake costs a round trip to QEMU: give it a batch, or what there
            # is as soon as the network pauses.
            if ring.used >= BATCH:
                self._wake_if_waiting(ring.head)
                self._patience(POLL)
            else:
                self._patience(GATHER)

    def _patience(self, seconds: float) -> None:
        if self.link.gettimeout() != seconds:
            self.link.settimeout(seconds)


def tune(link: socket.socket) -> None:
    """Large buffers, no Nagle delay, a timeout so that stop is seen, and probes: a path
    that carries nothing any more breaks although the control connection has another."""
    enlarge(link)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    # The same for bytes that are on their way, which keepalive leaves to retransmission.
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_MS)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.settimeout(POLL)


def enlarge(link: socket.socket) -> None:
    """Large buffers where root may force them; otherwise the kernel's own
    tuning is better than the small limit it grants to a plain request."""
    with contextlib.suppress(PermissionError):
        link.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SOCKET_BUFFER)
        link.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, SOCKET_BUFFER)


_SO_SNDBUFFORCE = 32  # asm-generic/socket.h; the socket module has no names for them
_SO_RCVBUFFORCE = 33
