# SPDX-License-Identifier: Apache-2.0
"""Requests and replies: signs of life, limits, and what a connection that is over carries."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import Any

import pytest

from cpcctl.link import channel as channels
from cpcctl.link import rpc
from cpcctl.link.channel import Channel, LinkLost
from cpcctl.link.message import Message, Request
from cpcctl.migrate import messages
from tests.pure.test_rpc import REQUESTS, Echo, Pair, Text, echo, ends, frame

__all__ = ["ends"]


def test_slow_request_is_kept_alive() -> None:
    """Both ends hear from the other although nothing is said for longer than the timeout."""

    def late(_: Request[Any]) -> Message:
        time.sleep(2.5)
        return Text("late", b"x")

    pair = Pair(late, timeout=1.6)
    assert pair.client.ask(Echo("a", b"x")) == Text("late", b"x")
    pair.close()


class Stopped(Exception):
    """What a look at the outside has found."""


class Late:
    """A destination that answers once it may. `look`: stop as soon as it was asked."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def __call__(self, request: Request[Any]) -> Message:
        self.asked.set()
        self.go.wait(30)
        return Text(request.text, b"x") if isinstance(request, Echo) else messages.Time(1.0)

    def look(self) -> None:
        if self.asked.is_set():
            raise Stopped


def test_an_answer_that_does_not_come_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer is alive all the time: its signs of life are no answer."""
    late = Late()
    monkeypatch.setattr(Echo, "seconds", 0.2)
    pair = Pair(late, timeout=10.0)
    with pytest.raises(LinkLost, match="no reply to 'echo' within"):
        pair.client.ask(Echo("a", b"x"))
    with pytest.raises(LinkLost, match="no reply"):  # what it answers now is not to this
        pair.client.ask(messages.Clock())
    late.go.set()
    pair.close()


def test_a_stop_waits_for_the_answer_and_then_comes_out() -> None:
    """So that the destination can be told at once."""
    late = Late()

    def look() -> None:
        if late.asked.is_set():
            late.go.set()
        late.look()

    pair = Pair(late, timeout=10.0)
    with pytest.raises(Stopped):
        pair.client.ask(Echo("a", b"x"), look)
    assert pair.client.ask(Echo("b", b"x")) == Text("b", b"x")
    pair.close()


def test_a_stop_does_not_wait_for_ever() -> None:
    late = Late()
    pair = Pair(late, timeout=1.2)
    with pytest.raises(Stopped):
        pair.client.ask(Echo("a", b"x"), late.look)
    assert "no reply" in str(pair.client.lost)
    late.go.set()
    pair.close()


def test_idle_client_is_kept_alive() -> None:
    pair = Pair(echo, timeout=1.6)
    pair.thread.join(2.5)
    assert pair.thread.is_alive()
    pair.close()


def test_silent_server_is_lost(ends: tuple[socket.socket, socket.socket]) -> None:
    client = rpc.Client(ends[0], "host-b", 0.3)
    with pytest.raises(LinkLost, match="silent"):
        client.ask(messages.Clock())
    with pytest.raises(LinkLost):
        client.ask(messages.Clock())
    # It has hung up: signs of life would say that somebody still waits here.
    while ends[1].recv(1 << 16):
        pass
    client.close()


def test_silent_client_is_lost(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(LinkLost, match="silent"):
        rpc.serve(ends[1], REQUESTS, echo, 0.2)


def test_silence_while_a_request_is_worked_on(ends: tuple[socket.socket, socket.socket]) -> None:
    """The source hangs while the destination waits for its data: that ends the wait."""
    called_off = threading.Event()

    def wait(_: Request[Any]) -> Message:
        assert called_off.wait(20)
        return Text("", b"x")

    ends[0].sendall(frame({"id": 1, "method": "echo", "params": {"text": ""}}, b"x"))
    begin = time.monotonic()
    with pytest.raises(LinkLost, match="silent"):
        rpc.serve(ends[1], REQUESTS, wait, 0.5, called_off.set)
    assert time.monotonic() - begin < 5


def test_an_interrupt_does_not_wait_for_the_request(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    called_off, begun = threading.Event(), threading.Event()

    def wait(_: Request[Any]) -> Message:
        begun.set()
        assert called_off.wait(20)
        return Text("", b"x")

    receive = Channel.receive

    def interrupted(self: Channel, _look: object) -> channels.Frame:
        if begun.is_set():
            raise KeyboardInterrupt
        found = receive(self)
        again = lambda *_: begun.wait(5) and interrupted(self, None)  # noqa: E731
        monkeypatch.setattr(Channel, "receive", again)
        return found

    monkeypatch.setattr(Channel, "receive", interrupted)
    ends[0].sendall(frame({"id": 1, "method": "echo", "params": {"text": ""}}, b"x"))
    with pytest.raises(KeyboardInterrupt):
        rpc.serve(ends[1], REQUESTS, wait, 30, called_off.set)
    assert called_off.is_set()


# ---- frames ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"\xff", b"{", b'{"id": 1}', b'{"id": true, "method": "x", "params": {}}',
     b'{"id": 1, "method": [], "params": {}}', b"[" * 100_000,
     b'{"id": 1, "method": "' + b"x" * 33 + b'", "params": {}}'],
)
def test_server_drops_nonsense(body: bytes, ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].sendall(frame(body))
    with pytest.raises(LinkLost):
        rpc.serve(ends[1], REQUESTS, echo, 5)


def test_one_request_at_a_time(ends: tuple[socket.socket, socket.socket]) -> None:
    release = threading.Event()

    def wait(_: Request[Any]) -> Message:
        assert release.wait(20)
        return Text("", b"x")

    request = frame({"id": 1, "method": "echo", "params": {"text": ""}}, b"x")
    ends[0].sendall(request + request)
    with pytest.raises(LinkLost, match="before the last one"):
        rpc.serve(ends[1], REQUESTS, wait, 5, release.set)


@pytest.mark.parametrize("lengths", [(0xFFFFFFFF, 0), (2, 0xFFFFFFFF), (channels.JSON_MAX + 1, 0)])
def test_lengths_are_bounded(
    lengths: tuple[int, int], ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[0].sendall(struct.pack(">II", *lengths))
    channel = Channel(ends[1], 5)
    with pytest.raises(LinkLost, match=str(max(lengths))):
        channel.receive()
    channel.close()
    with pytest.raises(ValueError, match="too large"):
        channels.encode({"x": "y" * channels.JSON_MAX})
    with pytest.raises(ValueError, match="too large"):
        channels.encode({}, bytes(channels.ATTACHED_MAX + 1))
