# SPDX-License-Identifier: Apache-2.0
"""Requests and replies between the two controllers, after TLS.

The source asks {"id", "method", "params"}; the destination answers {"id", "result"}
or {"id", "error"}. Either end hears from the other at least once a second, see
channel.py, so a cut network and a host that hangs show after `peer_timeout` seconds.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cpcctl.config.patience import patient
from cpcctl.errors import CpcError, ExitCode, quoted, shown, shown_lines
from cpcctl.link.channel import Channel, Frame, Params
from cpcctl.link.channel import LinkLost as LinkLost
from cpcctl.link.message import Malformed, Message, Request

WORDS_MAX = 2000
METHOD_MAX = 32

R = TypeVar("R", bound=Message)
Handler = Callable[[Request[Any]], Message]
Work = concurrent.futures.Future[None]


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
            raise LinkLost("a malformed error")
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


class Client:
    """The source's end. Thread-safe; one request at a time."""

    def __init__(self, link: socket.socket, host: str, peer_timeout: float) -> None:
        self._channel = Channel(link, peer_timeout)
        self._peer_timeout = peer_timeout
        self._host = host
        self._lock = threading.Lock()
        self._next = 1
        self.lost: LinkLost | None = None

    def ask(self, request: Request[R], look: Callable[[], None] | None = None) -> R:
        """Ask and wait for the answer; a peer that is alive and does not answer is lost too.

        look: called about once a second meanwhile. What it raises comes out of here: after the
        answer, so that more can be asked, or without it once `peer_timeout` more has passed.
        :raise RemoteError: the destination's own error.
        :raise LinkLost: no answer, or a malformed one; whether it acted is unknown.
        """
        with self._lock:
            if self.lost is not None:
                raise self.lost
            limit = _Limit(request, look, self._peer_timeout)
            try:
                answer = self._ask(request, limit.look)
            except LinkLost as error:
                self.lost = error
                # Its signs of life would tell the destination that we are still there.
                self._channel.close()
                raise limit.stop or error from None
            if limit.stop is not None:
                raise limit.stop
            return answer

    def close(self) -> None:
        """End the connection; the destination treats it as lost."""
        self._channel.close()

    def _ask(self, request: Request[R], look: Callable[[], None]) -> R:
        number = self._next
        self._next += 1
        params, attached = request.write()
        self._channel.send({"id": number, "method": request.name, "params": params}, attached)
        reply = self._channel.receive(look)
        error, result = reply.message.get("error"), reply.message.get("result")
        if type(reply.message.get("id")) is not int or reply.message["id"] != number:
            raise LinkLost("reply id does not match the request")
        if isinstance(error, dict) and "result" not in reply.message:
            raise RemoteError(self._host, error)
        if not isinstance(result, dict) or "error" in reply.message:
            raise LinkLost("a reply without a result")
        try:
            return request.reply.read(result, reply.attached)  # type: ignore[return-value]
        except Malformed as odd:
            raise LinkLost(f"malformed reply to {quoted(request.name)}: {odd}") from odd


class _Limit:
    """How long one answer is waited for. stop: what `look` has raised."""

    def __init__(
        self, request: Request[Any], look: Callable[[], None] | None, grace: float
    ) -> None:
        self._name = request.name
        self._seconds = patient(request.seconds)
        self._look = look
        self._grace = grace
        self._deadline = time.monotonic() + self._seconds
        self.stop: Exception | None = None

    def look(self) -> None:
        """:raise LinkLost: it has been too long."""
        if self._look is not None and self.stop is None:
            try:
                self._look()
            except Exception as stop:  # noqa: BLE001 - raised by ask(), in its time
                self.stop = stop
                self._deadline = min(self._deadline, time.monotonic() + self._grace)
        if time.monotonic() > self._deadline:
            raise LinkLost(f"no reply to {quoted(self._name)} within {self._seconds:g} s")


def serve(
    link: socket.socket,
    requests: Mapping[str, type[Request[Any]]],
    handler: Handler,
    peer_timeout: float,
    lost: Callable[[], None] = lambda: None,
    look: Callable[[], None] = lambda: None,
) -> None:
    """The destination's end: answer requests until the connection ends.

    handler raises CpcError for what it refuses; anything else is a defect and
    is answered as one (exit code 70). It runs in a thread of its own.
    lost: called when the connection is over, before a request that is still
    being worked on is waited for
    look: called about once a second; what it raises ends the connection and comes out of here
    :raise LinkLost: always, when the connection is over, with the reason.
    """
    channel = Channel(link, peer_timeout)
    pool = concurrent.futures.ThreadPoolExecutor(1, "cpc-request")
    work: Work | None = None
    try:
        while True:
            frame = channel.receive(look)
            if work is not None and not work.done():
                raise LinkLost("a request before the last one was answered")
            number, method, params = _envelope(frame)
            answer = _Answer(requests, handler, method, params, frame.attached)
            work = pool.submit(_work, channel, number, answer)
    finally:
        _wind_up(lost, channel, work)
        pool.shutdown()


def _wind_up(lost: Callable[[], None], channel: Channel, work: Work | None) -> None:
    """Hang up and wait for the last request, also when asked to stop meanwhile: what it
    launches must not come beside what is done to leave nothing."""
    asked: KeyboardInterrupt | None = None
    while True:
        try:
            lost()
            channel.close()
            # Not by joining the thread: Python 3.11 takes one for ended whose join was interrupted.
            concurrent.futures.wait([work] if work else [])
            break
        except KeyboardInterrupt as stop:
            asked = stop
    if asked is not None:
        raise asked


def _envelope(frame: Frame) -> tuple[int, str, Params]:
    number, method, params = (frame.message.get(key) for key in ("id", "method", "params"))
    if (
        type(number) is not int
        or not isinstance(method, str)
        or len(method) > METHOD_MAX
        or not isinstance(params, dict)
    ):
        raise LinkLost("a request without id, method or params")
    return number, method, params


class _Answer:
    """One request, on its way to its reply."""

    def __init__(
        self, requests: Mapping[str, type[Request[Any]]], handler: Handler, method: str,
        params: Params, attached: bytes,
    ) -> None:  # fmt: skip
        self._kind = requests.get(method)
        self._handler = handler
        self._method = shown(method, METHOD_MAX)
        self._frame = Frame(params, attached)

    def reply(self) -> tuple[Params, bytes]:
        """What is sent beside the id, and what is attached."""
        try:
            result, attached = self._handler(self._request()).write()
            return {"result": result}, attached
        except CpcError as error:
            return {"error": _cut(error)}, b""
        except Exception as error:  # noqa: BLE001 - the other host must hear of our defect
            words = f"a defect: {type(error).__name__}: {error}"[:WORDS_MAX]
            return {"error": {"message": words, "exit_code": int(ExitCode.DEFECT)}}, b""

    def _request(self) -> Request[Any]:
        if self._kind is None:
            raise CpcError(
                f"this version knows no request {quoted(self._method)}", exit_code=ExitCode.REFUSED
            )
        try:
            return self._kind.read(self._frame.message, self._frame.attached, strict=True)
        except Malformed as error:
            raise CpcError(
                f"malformed request {quoted(self._method)}",
                exit_code=ExitCode.REFUSED,
                cause=str(error),
            ) from error


def _work(channel: Channel, number: int, answer: _Answer) -> None:
    message, attached = answer.reply()
    # Whoever reads finds out by itself that nobody is there to take it.
    with contextlib.suppress(LinkLost):
        channel.send({"id": number, **message}, attached)


def _cut(error: CpcError) -> Params:
    """An error for the wire: no text longer than the other side shows of it."""
    document = error.as_dict()
    return {
        key: value[:WORDS_MAX] if isinstance(value, str) else value
        for key, value in document.items()
    }
