# SPDX-License-Identifier: Apache-2.0
"""The destination's listening port: one control connection, n data streams.

The first byte says which. A control connection continues with TLS and the
ticket; a data stream with the 32-byte one-time token that its source got over
the control connection. Anything else is dropped, and `receive` goes on.

Anybody can connect. A secret of 32 bytes is not guessed, so nothing counts
wrong tries; and who does not authenticate in time, or is the oldest that has
not when the room is taken, makes way. The room is taken from the address that
has most of it, so one host alone cannot push another's connection out.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import queue
import secrets
import socket
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass

from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.link import pump, tls
from cpcctl.ui import hints

STREAM = b"D"
TOKEN_BYTES = 32
GREETING_SECONDS = 10.0
PENDING_MAX = 16
BACKLOG = 128
ACCEPT_PAUSE = 0.1


@dataclass(frozen=True, eq=False)
class _Guest:
    """A connection that has not authenticated yet; link is a second handle of it."""

    peer: str
    link: socket.socket


class Listener:
    """Accepts in the background; `control` and `stream` wait for what arrived."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, secret: bytes) -> None:
        """:raise CpcError: (exit 2) address unknown or port in use."""
        self._context = context
        self._secret = secret
        self._controls: queue.Queue[tuple[ssl.SSLSocket, str, bytes]] = queue.Queue()
        self._streams: dict[bytes, queue.Queue[socket.socket]] = {}
        self._unspent: set[bytes] = set()
        self._lock = threading.Lock()
        self._guests: list[_Guest] = []  # oldest first
        self._closed = threading.Event()
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="cpc-accept", daemon=True)
        self._thread.start()

    def control(self, timeout: float | None) -> tuple[ssl.SSLSocket, str]:
        """The next authenticated control connection and its peer's address.

        :raise TimeoutError: none within timeout seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                link, peer, shown = self._controls.get(timeout=left)
            except queue.Empty:
                raise TimeoutError("no source connected") from None
            # One that came with what is spent by now waited here in vain.
            if hmac.compare_digest(shown, self._secret):
                return link, peer
            link.close()

    def renew(self, secret: bytes) -> None:
        """Only this secret admits from now on; what admitted so far is spent."""
        self._secret = secret

    def expect_stream(self) -> bytes:
        """A fresh one-time token for one data stream."""
        token = secrets.token_bytes(TOKEN_BYTES)
        with self._lock:
            self._streams[token] = queue.Queue(1)
            self._unspent.add(token)
        return token

    def stream(self, token: bytes, timeout: float) -> socket.socket:
        """The data stream that showed token. :raise TimeoutError: none did."""
        with self._lock:
            slot = self._streams[token]
        try:
            return slot.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError("the source did not open its data stream") from None

    def forget_streams(self) -> None:
        """Tokens that were not used are worth nothing any more."""
        with self._lock:
            for slot in self._streams.values():
                with contextlib.suppress(queue.Empty):
                    slot.get_nowait().close()
            self._streams.clear()
            self._unspent.clear()

    def close(self) -> None:
        """Stop listening; connections already handed out stay open."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        self.forget_streams()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                raw, address = self._socket.accept()
            except OSError as error:
                if self._closed.is_set() or error.errno in (errno.EBADF, errno.EINVAL):
                    return
                # One that was gone before we looked, or no descriptor is free.
                self._closed.wait(ACCEPT_PAUSE)
                continue
            try:
                guest = self._admit(raw, str(address[0]))
                threading.Thread(
                    target=self._greet, args=(raw, guest), name="cpc-greet", daemon=True
                ).start()
            except (OSError, RuntimeError):  # no descriptor or no thread is free
                raw.close()

    def _admit(self, raw: socket.socket, peer: str) -> _Guest:
        """Give it room, if need be that of the oldest guest of the busiest address."""
        guest = _Guest(peer, raw.dup())
        with self._lock:
            self._guests.append(guest)
            if len(self._guests) > PENDING_MAX:
                busiest = Counter(g.peer for g in self._guests).most_common(1)[0][0]
                oldest = next(g for g in self._guests if g.peer == busiest)
                self._guests.remove(oldest)
                # Its thread wakes up with the end of the stream, and closes it.
                with contextlib.suppress(OSError):
                    oldest.link.shutdown(socket.SHUT_RDWR)
        return guest

    def _greet(self, raw: socket.socket, guest: _Guest) -> None:
        deadline = time.monotonic() + GREETING_SECONDS
        try:
            first = tls.read_exact(raw, 1, deadline)
            if first == tls.CONTROL:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                secret = self._secret
                link = tls.accept(raw, self._context, secret, deadline)
                if self._leave(guest):
                    self._controls.put((link, guest.peer, secret))
                else:
                    link.close()
                return
            shown = tls.read_exact(raw, TOKEN_BYTES, deadline) if first == STREAM else b""
            if shown and self._leave(guest) and self._claim(shown, raw):
                return
            raw.close()
        except (tls.LinkRefused, OSError, EOFError):
            raw.close()
        finally:
            self._leave(guest)
            guest.link.close()

    def _leave(self, guest: _Guest) -> bool:
        """It needs no room any more; False when it had lost it already."""
        with self._lock:
            if guest not in self._guests:
                return False
            self._guests.remove(guest)
            return True

    def _claim(self, shown: bytes, raw: socket.socket) -> bool:
        with self._lock:
            for token in self._unspent:
                if hmac.compare_digest(token, shown):
                    # Spent, whatever becomes of this connection.
                    self._unspent.remove(token)
                    pump.tune(raw)
                    self._streams[token].put_nowait(raw)
                    return True
        return False


def open_stream(host: str, port: int, token: bytes, timeout: float) -> socket.socket:
    """The source's half of a data stream. :raise OSError: unreachable."""
    link = socket.create_connection((host, port), timeout)
    try:
        link.sendall(STREAM + token)
        pump.tune(link)
    except BaseException:
        link.close()
        raise
    return link


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _not_listening(host, port, error) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Before listen, so that accepted connections get a large window.
        pump.enlarge(listening)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise _not_listening(host, port, error) from error
    return listening


def _not_listening(host: str, port: int, error: OSError) -> CpcError:
    return CpcError(
        f"cannot listen on {host}:{port}",
        exit_code=ExitCode.USAGE,
        cause=reason(error),
        hint=hints.not_listening(error, host, port),
    )
