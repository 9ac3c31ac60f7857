# SPDX-License-Identifier: Apache-2.0
"""QMP as QEMU speaks it: one client a socket, any number of sockets, one main loop."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

Handler = Callable[[dict[str, Any]], Any]
Around = Callable[[str, str, Handler], Handler]
VERSION = {"qemu": {"major": 10, "minor": 0, "micro": 13}, "package": "fake"}


class Refused(Exception):
    """A command answers with an error."""

    def __init__(self, text: str, error_class: str = "GenericError") -> None:
        super().__init__(text)
        self.error_class = error_class


class Monitor:
    """One -mon: a listening socket, or a connection that was inherited."""

    def __init__(self, name: str, loop: selectors.BaseSelector, around: Around) -> None:
        """around: given the monitor, a command and its handler, what is run in its place."""
        self.name = name
        self.commands: dict[str, Handler] = {}
        self._loop = loop
        self._around = around
        self._server: socket.socket | None = None
        self._link: socket.socket | None = None
        self._text = ""
        self._files: list[int] = []  # sent by the client, not named yet
        self.named: dict[str, int] = {}  # by getfd

    def listen(self, server: socket.socket) -> None:
        """Wait for clients there; one at a time, the others wait in the kernel."""
        self._server = server
        self._server.listen(10)
        self._loop.register(self._server, selectors.EVENT_READ, self._accept)

    def talk(self, link: socket.socket) -> None:
        """Greet a client."""
        self._link, self._text = link, ""
        self._loop.register(link, selectors.EVENT_READ, self._read)
        self._send({"QMP": {"version": VERSION, "capabilities": ["oob"]}})

    def get_fd(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """getfd: a name for the file that was sent with it."""
        if not self._files:
            raise Refused("No file descriptor supplied via SCM_RIGHTS")
        self.named[arguments["fdname"]] = self._files.pop(0)
        return {}

    def take(self, name: str) -> bytes:
        """What is in a file that has been given that name, which is free again."""
        if name not in self.named:
            raise Refused(f"File descriptor named '{name}' has not been found")
        with open(self.named.pop(name), "rb") as file:
            file.seek(0)
            return file.read()

    def _accept(self) -> None:
        assert self._server is not None
        self._loop.unregister(self._server)
        self.talk(self._server.accept()[0])

    def _hang_up(self) -> None:
        if self._link is None:
            return
        self._loop.unregister(self._link)
        self._link.close()
        self._link = None
        if self._server is not None:
            self._loop.register(self._server, selectors.EVENT_READ, self._accept)

    def event(self, name: str, stamp: float | None, data: dict[str, Any] | None) -> None:
        """Tell the client, if there is one. stamp: of the wall clock; None: now."""
        seconds, rest = divmod(time.time() if stamp is None else stamp, 1)
        message = {"timestamp": {"seconds": int(seconds), "microseconds": int(rest * 1e6)}}
        self._send({**message, "event": name, **({} if data is None else {"data": data})})

    def _send(self, message: dict[str, Any]) -> None:
        if self._link is not None:
            # One that has hung up is noticed when it is read from.
            with contextlib.suppress(OSError):
                self._link.sendall(json.dumps(message).encode() + b"\r\n")

    def _read(self) -> None:
        assert self._link is not None
        try:
            data, files, _, _ = socket.recv_fds(self._link, 1 << 20, 4)
        except OSError:
            data, files = b"", []
        self._files += files
        if not data:
            self._hang_up()
            return
        self._text = (self._text + data.decode()).lstrip()
        while self._text.rstrip().endswith("}"):
            try:
                message, end = json.JSONDecoder().raw_decode(self._text)
            except ValueError:
                return
            self._text = self._text[end:].lstrip()
            self._answer(message)

    def _answer(self, message: dict[str, Any]) -> None:
        name = message["execute"]
        reply = {"id": message["id"]} if "id" in message else {}
        handler = self.commands.get(name)
        try:
            if handler is None:
                raise Refused(f"The command {name} has not been found", "CommandNotFound")
            run = self._around(self.name, name, handler)
            reply["return"] = run(message.get("arguments", {}))
        except Refused as refusal:
            reply["error"] = {"class": refusal.error_class, "desc": str(refusal)}
        self._send(reply)
