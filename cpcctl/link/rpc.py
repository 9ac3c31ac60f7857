# SPDX-License-Identifier: Apache-2.0
"""Requests and replies between the two controllers, after TLS.

A frame is a 4-byte big-endian length and that many bytes of JSON, one object.
The source asks {"id", "method", "params"}; the destination answers
{"id", "result"} or {"id", "error"} and, while it works on a request, sends
{"id", "alive": true} every second. The source pings when it has nothing to
ask. So either end hears from the other at least once a second, and a cut
network shows as a socket timeout after `peer_timeout` seconds.
"""

from __future__ import annotations

import concurrent.futures
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from cpcctl.errors import CpcError, ExitCode, shown, shown_lines
from cpcctl.link import replies
from cpcctl.link.tls import read_exact

FRAME_MAX = 64 << 20  # a device state is some kilobytes; this only bounds nonsense
ALIVE_SECONDS = 1.0
_LENGTH = struct.Struct(">I")

Params = dict[str, Any]
Handler = Callable[[str, Params], Params]


class LinkLost(Exception):
    """The control connection ended, timed out or carried nonsense."""


class RemoteError(CpcError):
    """The destination refused or failed: its words and its exit code.

    Its words are shown as its own: escaped, of bounded length, and what it
    suggests to do is part of the cause, never a hint of ours. An exit code
    that says where the guest is counts as plain failure: this side finds out
    for itself.
    :raise LinkLost: (the constructor) this is no error at all.
    """

    def __init__(self, host: str, reported: Params) -> None:
        code = reported.get("exit_code")
        texts = [reported.get(key) for key in ("message", "cause", "hint", "host")]
        if type(code) is not int or not all(t is None or isinstance(t, str) for t in texts):
            raise LinkLost("an error that makes no sense")
        message, cause, hint, named = texts
        name = shown(named or host, 256)
        words = [shown(message or "failed without a reason")]
        if cause:
            words.append(shown_lines(cause))
        if hint:
            words += [f'{name} suggests: "{line}"' for line in shown_lines(hint).splitlines()]
        super().__init__(
            "the destination reports an error",
            exit_code=ExitCode(code) if code in REMOTE_CODES else ExitCode.FAILED,
            host=name,
            cause="\n".join(words),
        )


REMOTE_CODES = frozenset(
    {
        ExitCode.FAILED, ExitCode.USAGE, ExitCode.REFUSED, ExitCode.UNREACHABLE,
        ExitCode.DEFECT, ExitCode.BUSY,
    }
)


def encode(message: Params) -> bytes:
    """One frame. :raise ValueError: larger than FRAME_MAX."""
    body = json.dumps(message, separators=(",", ":")).encode("utf-8")
    if len(body) > FRAME_MAX:
        raise ValueError(f"a message of {len(body)} bytes is too large")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Params:
    """The object in a frame's body. :raise LinkLost: when it is not one."""
    try:
        message = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise LinkLost(f"a message that is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise LinkLost("a message that is not an object")
    return message


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def receive(link: socket.socket) -> Params:
    """Read one frame. :raise LinkLost: whatever goes wrong with it."""
    try:
        (size,) = _LENGTH.unpack(read_exact(link, _LENGTH.size))
        if size > FRAME_MAX:
            raise LinkLost(f"a message of {size} bytes")
        return decode(read_exact(link, size))
    except EOFError as error:
        raise LinkLost("the other side closed the connection") from error
    except TimeoutError as error:
        raise LinkLost("the other side has gone silent") from error
    except OSError as error:
        raise LinkLost(f"the connection broke: {error}") from error


class Client:
    """The source's end. Thread-safe; one request at a time."""

    def __init__(self, link: socket.socket, host: str, peer_timeout: float) -> None:
        self._link = link
        self._host = host
        self._lock = threading.Lock()
        self._next = 1
        self._last = time.monotonic()
        self._closed = threading.Event()
        self.lost: LinkLost | None = None
        link.settimeout(peer_timeout)
        self._pinger = threading.Thread(target=self._ping, name="cpc-ping", daemon=True)
        self._pinger.start()

    def call(self, method: str, params: Params | None = None) -> Params:
        """Ask and wait for the answer.

        :raise RemoteError: the destination's own error.
        :raise LinkLost: no answer, or none that makes sense; whether it acted
            is unknown.
        """
        with self._lock:
            return self._call(method, params or {})

    def close(self) -> None:
        """End the connection; the destination treats it as lost."""
        self._closed.set()
        self._link.close()

    def _call(self, method: str, params: Params) -> Params:
        if self.lost is not None:
            raise self.lost
        number = self._next
        self._next += 1
        try:
            try:
                self._link.sendall(encode({"id": number, "method": method, "params": params}))
            except OSError as error:
                raise LinkLost(f"the connection broke: {error}") from error
            while True:
                reply = receive(self._link)
                if type(reply.get("id")) is not int or reply["id"] != number:
                    raise LinkLost("an answer to another question")
                if reply.get("alive") is not True:
                    break
            self._last = time.monotonic()
            return self._result(method, params, reply)
        except LinkLost as error:
            self.lost = error
            raise

    def _result(self, method: str, params: Params, reply: Params) -> Params:
        error, result = reply.get("error"), reply.get("result")
        if isinstance(error, dict) and "result" not in reply:
            raise RemoteError(self._host, error)
        if not isinstance(result, dict) or "error" in reply:
            raise LinkLost("an answer without a result")
        try:
            return replies.read(method, params, result)
        except ValueError as nonsense:
            raise LinkLost(f"an answer that makes no sense: {nonsense}") from nonsense

    def _ping(self) -> None:
        while not self._closed.wait(ALIVE_SECONDS):
            if time.monotonic() - self._last < ALIVE_SECONDS or self.lost is not None:
                continue
            # A busy lock means a call is waiting; it hears the alive frames.
            if self._lock.acquire(blocking=False):
                try:
                    self._call("ping", {})
                except (LinkLost, RemoteError):
                    continue
                finally:
                    self._lock.release()


def serve(link: socket.socket, handler: Handler, peer_timeout: float) -> None:
    """The destination's end: answer requests until the connection ends.

    handler raises CpcError for what it refuses; anything else is a defect and
    is answered as one (exit code 70).
    :raise LinkLost: always, when the connection is over, with the reason.
    """
    link.settimeout(peer_timeout)
    with concurrent.futures.ThreadPoolExecutor(1, "cpc-request") as pool:
        while True:
            request = receive(link)
            number, method, params = request.get("id"), request.get("method"), request.get("params")
            if type(number) is not int or type(method) is not str or type(params) is not dict:
                raise LinkLost("a request without id, method or params")
            if method == "ping":
                _send(link, {"id": number, "result": {"time": time.time()}})
                continue
            work = pool.submit(_answer, handler, method, params)
            while not concurrent.futures.wait([work], ALIVE_SECONDS).done:
                _send(link, {"id": number, "alive": True})
            _send(link, {"id": number, **work.result()})


def _answer(handler: Handler, method: str, params: Params) -> Params:
    try:
        return {"result": handler(method, params)}
    except CpcError as error:
        return {"error": error.as_dict()}
    except Exception as error:  # noqa: BLE001 - the other host must hear of our defect
        words = f"a defect: {type(error).__name__}: {error}"
        return {"error": {"message": words, "exit_code": int(ExitCode.DEFECT)}}


def _send(link: socket.socket, message: Params) -> None:
    try:
        link.sendall(encode(message))
    except OSError as error:
        raise LinkLost(f"the connection broke: {error}") from error
