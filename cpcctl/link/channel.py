# SPDX-License-Identifier: Apache-2.0
"""Frames over one connection, and signs of life of both its ends.

A frame is two 4-byte big-endian lengths, that many bytes of JSON (one object),
and that many bytes attached to it. Each end sends {"alive": true} every second,
whatever it is doing, so silence of `peer_timeout` seconds means that the other
one, or the network, is gone.

One thread may read while others write. OpenSSL takes one call at a time for a
connection, so each call has the lock, and none of them waits in it.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

JSON_MAX = 256 << 10
ATTACHED_MAX = 16 << 20
ALIVE_SECONDS = 1.0
_LENGTHS = struct.Struct(">II")
_CHUNK = 256 << 10

Params = dict[str, Any]


class LinkLost(Exception):
    """The control connection ended, timed out or carried nonsense."""


@dataclass(frozen=True)
class Frame:
    """One JSON object, and the bytes attached to it."""

    message: Params
    attached: bytes = b""


def encode(message: Params, attached: bytes = b"") -> bytes:
    """One frame. :raise ValueError: a part of it is too large."""
    body = json.dumps(message, separators=(",", ":")).encode("utf-8")
    if len(body) > JSON_MAX or len(attached) > ATTACHED_MAX:
        raise ValueError(f"a message of {len(body)} and {len(attached)} bytes is too large")
    return _LENGTHS.pack(len(body), len(attached)) + body + attached


def decode(body: bytes) -> Params:
    """The object in a frame. :raise LinkLost: when it is not one."""
    try:
        message = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise LinkLost(f"not a JSON message: {error}") from error
    if not isinstance(message, dict):
        raise LinkLost("not a JSON object")
    return message


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number")


class Channel:
    """One end. `close` may come from any thread and ends what waits in the others."""

    def __init__(self, link: socket.socket, peer_timeout: float) -> None:
        self._link = link
        self._silence = peer_timeout
        self._calls = threading.Lock()
        self._writer = threading.Lock()
        self._closed = threading.Event()
        link.setblocking(False)
        self._beat = threading.Thread(target=self._live, name="cpc-alive", daemon=True)
        self._beat.start()

    def send(self, message: Params, attached: bytes = b"") -> None:
        """Write a frame. :raise LinkLost: nobody takes it. :raise ValueError: too large."""
        data = memoryview(encode(message, attached))
        with self._writer:
            deadline = time.monotonic() + self._silence
            while data:
                try:
                    with self._calls:
                        self._check_open()
                        sent = self._link.send(data[:_CHUNK])
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    self._wait(deadline, write=True)
                    continue
                except (OSError, ValueError) as error:
                    raise LinkLost(f"the connection broke: {error}") from error
                data = data[sent:]
                deadline = time.monotonic() + self._silence

    def receive(self, look: Callable[[], None] = lambda: None) -> Frame:
        """The next frame that is not a sign of life. One thread at a time.

        look: called about once a second meanwhile; what it raises goes through, and the
        connection is of no use after that
        :raise LinkLost: whatever goes wrong with it, silence among it.
        """
        while True:
            body, attached = _LENGTHS.unpack(self._exactly(_LENGTHS.size, look))
            if body > JSON_MAX or attached > ATTACHED_MAX:
                raise LinkLost(f"a message of {body} and {attached} bytes")
            message = decode(self._exactly(body, look))
            if message != {"alive": True} or attached:
                return Frame(message, self._exactly(attached, look))

    def close(self) -> None:
        """Hang up. May be called twice."""
        self._closed.set()
        with self._calls:
            with contextlib.suppress(OSError):  # it has ended already
                self._link.shutdown(socket.SHUT_RDWR)
            self._link.close()
        if threading.current_thread() is not self._beat:
            self._beat.join(self._silence + ALIVE_SECONDS)

    def _check_open(self) -> None:
        # A socket that TLS has left would carry the bytes as they are.
        if self._closed.is_set():
            raise LinkLost("this side closed the connection")

    def _live(self) -> None:
        while not self._closed.wait(ALIVE_SECONDS):
            try:
                self.send({"alive": True})
            except LinkLost:
                return  # who reads or writes next is told

    def _exactly(self, size: int, look: Callable[[], None]) -> bytes:
        buffer = bytearray(size)
        view, got = memoryview(buffer), 0
        deadline = time.monotonic() + self._silence
        while got < size:
            look()
            try:
                with self._calls:
                    self._check_open()
                    step = self._link.recv_into(view[got : got + _CHUNK])
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self._wait(deadline, write=False)
                continue
            except (OSError, ValueError) as error:
                raise LinkLost(f"the connection broke: {error}") from error
            if step == 0:
                raise LinkLost("the other side closed the connection")
            got += step
            deadline = time.monotonic() + self._silence
        return bytes(buffer)

    def _wait(self, deadline: float, *, write: bool) -> None:
        """Until the connection is ready. :raise LinkLost: it is not in time."""
        left = deadline - time.monotonic()
        poll = select.poll()
        try:
            poll.register(self._link, select.POLLOUT if write else select.POLLIN)
            ready = left > 0 and poll.poll(min(left, ALIVE_SECONDS) * 1000)
        except (OSError, ValueError) as error:
            raise LinkLost(f"the connection broke: {error}") from error
        if not ready and time.monotonic() >= deadline:
            raise LinkLost("the other side has gone silent")
