# SPDX-License-Identifier: Apache-2.0
"""The cable between two hosts: a TCP relay that a test can cut, mend and make silent."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

CHUNK = 1 << 18


class Relay:
    """Listens on a free port of 127.0.0.1 and leads to another one there."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._loop = selectors.DefaultSelector()
        self._ends: dict[socket.socket, socket.socket] = {}
        self._near: set[socket.socket] = set()
        self.hung_up = threading.Event()  # the side that connects has closed a connection
        self.left = threading.Event()  # the other one has
        self._cut = self._silent = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._closed = False
        self._loop.register(self._server, selectors.EVENT_READ)
        self._loop.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def cut(self, broken: bool = True) -> None:
        """From now on every connection is broken and none is made; or it is mended."""
        self._cut, self._silent = broken, False
        self._wake.send(b"c")

    def hush(self) -> None:
        """From now on nothing gets through, and nobody is told; until it is cut or mended."""
        self._silent = True
        self._wake.send(b"c")

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._wake.send(b"c")
        self._thread.join(5)

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._loop.select():
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._woken:
                    self._told()
                elif end is self._server:
                    self._accept()
                elif end in self._ends:
                    self._pass(end)
        self._drop(list(self._ends))
        for end in (self._server, self._wake, self._woken):
            end.close()
        self._loop.close()

    def _told(self) -> None:
        self._woken.recv(64)
        broken = self._cut or self._silent
        while self._silent and not self._closed:
            self._woken.recv(64)
        if broken:
            self._drop(list(self._ends))

    def _accept(self) -> None:
        near = self._server.accept()[0]
        try:
            if self._cut:
                raise ConnectionError
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            near.close()
            return
        self._near.add(near)
        for one, other in ((near, far), (far, near)):
            self._ends[one] = other
            self._loop.register(one, selectors.EVENT_READ)

    def _pass(self, source: socket.socket) -> None:
        # What the other end does not take at once is waited for: tests move little.
        with contextlib.suppress(OSError):
            data = source.recv(CHUNK)
            if data:
                self._ends[source].sendall(data)
                return
        (self.hung_up if source in self._near else self.left).set()
        self._drop([source, self._ends[source]])

    def _drop(self, ends: list[socket.socket]) -> None:
        for end in ends:
            self._near.discard(end)
            if self._ends.pop(end, None) is not None:
                self._loop.unregister(end)
                end.close()
