# SPDX-License-Identifier: Apache-2.0
"""A TCP relay on this machine that looks for a secret in all it passes on.

Stands in for the packet capture where there is no network of our own to watch.
Unlike a capture it cannot miss anything.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from cpcctl.demo.report import Watched
from cpcctl.demo.scan import Finder

CHUNK = 1 << 20


class Relay:
    """Listens on a free port of 127.0.0.1 and leads to another one there."""

    def __init__(self, port: int, secret: bytes) -> None:
        self._to = port
        self._secret = secret
        self._lock = threading.Lock()
        self._finders: list[Finder] = []
        self._bytes = 0
        self._links: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._links += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        finder = Finder(self._secret)
        with self._lock:
            self._finders.append(finder)
        buffer = memoryview(bytearray(CHUNK))
        with contextlib.suppress(OSError):
            while size := source.recv_into(buffer):
                finder.feed(buffer[:size])
                with self._lock:
                    self._bytes += size
                sink.sendall(buffer[:size])
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> Watched:
        """End it; what passed through."""
        self._listener.close()
        for link in self._links:
            link.close()
        with self._lock:
            return Watched(sum(f.hits for f in self._finders), self._bytes)
