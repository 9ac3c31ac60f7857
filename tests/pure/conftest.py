# SPDX-License-Identifier: Apache-2.0
"""Helpers of the pure tests: golden files and a server that speaks real QMP."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"
Handler = Callable[[dict[str, Any]], Any]


class Refusal(Exception):
    """What a handler raises to make the server answer with an error."""

    def __init__(self, text: str, error_class: str = "GenericError") -> None:
        super().__init__(text)
        self.error_class = error_class


class QmpServer:
    """One client at a time, as QEMU. handlers: command name to a function."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handlers: dict[str, Handler] = {"query-status": lambda _: {"status": "running"}}
        self.commands: list[str] = []
        self.greet = True
        self._connection: socket.socket | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(4)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def event(self, name: str, **data: Any) -> None:
        """Send an event to the client."""
        stamp = {"seconds": 0, "microseconds": 0}
        self._send({"event": name, "data": data, "timestamp": stamp})

    def die(self) -> None:
        """Hang up and listen no more, as a QEMU that was killed."""
        for end in (self._socket, self._connection):
            with contextlib.suppress(OSError):
                if end is not None:
                    end.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(5)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._connection is not None
        self._connection.sendall(json.dumps(message).encode() + b"\r\n")

    def _serve(self) -> None:
        while True:
            try:
                self._connection, _ = self._socket.accept()
            except OSError:
                return
            if self.greet:
                version = {"qemu": {"major": 10, "minor": 0, "micro": 13}, "package": ""}
                self._send({"QMP": {"version": version, "capabilities": ["oob"]}})
            with self._connection, contextlib.suppress(OSError):
                self._converse(self._connection)

    def _converse(self, connection: socket.socket) -> None:
        # Clients send no line ends: a message is over when its JSON is.
        text, decoder = "", json.JSONDecoder()
        while data := connection.recv(1 << 20):
            text += data.decode()
            while text and text.rstrip().endswith("}"):
                try:
                    message, end = decoder.raw_decode(text)
                except ValueError:
                    break
                text = text[end:].lstrip()
                self._answer(message)

    def _answer(self, message: dict[str, Any]) -> None:
        name = message["execute"]
        self.commands.append(name)
        reply: dict[str, Any] = {"id": message.get("id")}
        if reply["id"] is None:
            del reply["id"]
        handler = self.handlers.get(name)
        if name == "qmp_capabilities":
            reply["return"] = {}
        elif handler is None:
            words = f"The command {name} has not been found"
            reply["error"] = {"class": "CommandNotFound", "desc": words}
        else:
            try:
                reply["return"] = handler(message.get("arguments", {}))
            except Refusal as refusal:
                reply["error"] = {"class": refusal.error_class, "desc": str(refusal)}
        self._send(reply)


@pytest.fixture
def qmp_server(tmp_path: Path) -> Iterator[QmpServer]:
    """A QMP server on a socket of its own."""
    server = QmpServer(tmp_path / "q.sock")
    yield server
    server.die()


@pytest.fixture
def refusal() -> type[Refusal]:
    """The exception that makes the server answer with an error."""
    return Refusal


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with a file; CPC_UPDATE_GOLDEN=1 writes it instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("CPC_UPDATE_GOLDEN"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden file {path}"
        assert text == path.read_text()

    return compare
