# SPDX-License-Identifier: Apache-2.0
"""Requests and replies: frames, signs of life, bounds of every field, on a socket pair."""

from __future__ import annotations

import contextlib
import ctypes
import json
import random
import socket
import ssl
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import pytest

from cpcctl import abi
from cpcctl.errors import CpcError, ExitCode
from cpcctl.link import channel as channels
from cpcctl.link import message as kinds
from cpcctl.link import rpc, tls
from cpcctl.link.channel import Channel, LinkLost
from cpcctl.link.listener import Listener
from cpcctl.link.message import Malformed, Message, Request
from cpcctl.link.ticket import Ticket
from cpcctl.migrate import messages
from cpcctl.migrate.machine import DestinationFact


@dataclass(frozen=True)
class Text(Message):
    text: Annotated[str, kinds.Words(2000)]
    more: Annotated[bytes, kinds.Attached(1 << 20)] = b""


@dataclass(frozen=True)
class Echo(Request[Text]):
    text: Annotated[str, kinds.Words(2000)]
    more: Annotated[bytes, kinds.Attached(1 << 20)]


REQUESTS: dict[str, type[Request[Any]]] = {"echo": Echo, "clock": messages.Clock}


class Pair:
    """Client and server over two sockets, the server in a thread."""

    def __init__(
        self,
        handler: rpc.Handler,
        timeout: float = 5.0,
        ends: tuple[socket.socket, socket.socket] | None = None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        ours, self.theirs = ends or socket.socketpair()
        self.ended: LinkLost | None = None
        self.thread = threading.Thread(target=self._serve, args=(handler, timeout, lost))
        self.thread.start()
        self.client = rpc.Client(ours, "host-b", timeout)

    def _serve(self, handler: rpc.Handler, timeout: float, lost: Callable[[], None]) -> None:
        try:
            rpc.serve(self.theirs, REQUESTS, handler, timeout, lost)
        except LinkLost as error:
            self.ended = error

    def close(self) -> None:
        self.client.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


def echo(request: Request[Any]) -> Message:
    assert isinstance(request, Echo)
    if request.text == "fail":
        raise CpcError("no room", exit_code=ExitCode.REFUSED, cause="ENOSPC", hint="df")
    if request.text == "defect":
        raise KeyError("x")
    return Text(request.text, request.more)


def frame(message: object, attached: bytes = b"") -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">II", len(body), len(attached)) + body + attached


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_ask_and_error_word_for_word() -> None:
    pair = Pair(echo)
    assert pair.client.ask(Echo("a", b"1")) == Text("a", b"1")
    with pytest.raises(rpc.RemoteError) as caught:
        pair.client.ask(Echo("fail", b"1"))
    assert caught.value.exit_code is ExitCode.REFUSED
    assert caught.value.host == "host-b"
    assert caught.value.cause == 'no room\nENOSPC\nhost-b suggests: "df"'
    assert caught.value.hint is None
    with pytest.raises(rpc.RemoteError) as caught:
        pair.client.ask(Echo("defect", b"1"))
    assert caught.value.exit_code is ExitCode.DEFECT
    assert pair.client.ask(Echo("a", b"1")) == Text("a", b"1")
    pair.close()
    assert "closed" in str(pair.ended)


def test_over_tls_and_large(tmp_path: Path) -> None:
    """Both ends write while they read: a large message, and signs of life meanwhile."""
    identity = tls.make_identity(tmp_path, "b" * 32)
    listener = Listener("127.0.0.1", 0, tls.server_context(identity), bytes(32))
    ours = tls.connect(Ticket("127.0.0.1", listener.port, identity.fingerprint, bytes(32)), 5)
    theirs, _ = listener.control(5)
    assert isinstance(ours, ssl.SSLSocket)
    pair = Pair(echo, ends=(ours, theirs))
    more = random.Random(3).randbytes(1 << 20)
    for number in range(8):
        assert pair.client.ask(Echo(str(number), more)) == Text(str(number), more)
    pair.close()
    listener.close()


ESCAPES = "\x1b]0;own\x07\x1b[2J\r\u202e\ud800\x9b"


def test_remote_words_cannot_steer_a_terminal() -> None:
    reported = {"message": ESCAPES * 1000, "cause": f"a\n{ESCAPES}", "hint": f"rm{ESCAPES}",
                "host": ESCAPES, "exit_code": 3}
    error = rpc.RemoteError("host-b", reported)
    text = error.render()
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b]0;own" in text
    assert "  try:" not in text
    assert len(text) < 20_000
    assert messages.Helloed.read({"host": ESCAPES}).host.isprintable()
    check = {"name": ESCAPES, "ok": False, "reason": "r" * 9999, "fix": ESCAPES}
    (found,) = messages.Checks.read({"checks": [check]}).checks
    assert found.name.isprintable()
    assert all(line.isprintable() for line in found.fix.splitlines())
    assert len(found.reason) < 2100


@pytest.mark.parametrize("code", [5, 6, 7, 129, 130, 143, 0, 99])
def test_where_the_guest_is_is_not_for_the_peer_to_say(code: int) -> None:
    error = rpc.RemoteError("host-b", {"message": "no", "exit_code": code})
    assert error.exit_code is ExitCode.FAILED


# ---- every field of every message --------------------------------------------

TOKEN = bytes(range(100)) * 9
TOKEN = TOKEN[: ctypes.sizeof(abi.Token)]
HELLO = bytes(ctypes.sizeof(abi.Hello))
GOOD: list[Message] = [
    messages.Hello("a", 2), messages.Helloed("b", 2), messages.Clock(), messages.Time(1.5),
    messages.Preflight({"name": "t"}, {"cpu": ["x"]}), messages.Prepare({"name": "t"}, {}),
    messages.Checks((messages.CheckResult("n", False, "r", "f"),)),
    messages.Launched(2, 4, 3.5, "boot", {"1": 1e9, "4": 2e8}, bytes(32)),
    messages.Handshake(HELLO, 7), messages.Shaken(HELLO, bytes(32)),
    messages.Confirm(bytes(32), 2), messages.StreamTokens((bytes(32), bytes(32))),
    messages.Watch(), messages.Taken(7), messages.Complete(b"state", bytes(32)),
    messages.Prepared(TOKEN),
    messages.Run(TOKEN), messages.Released(TOKEN, 1.5), messages.Query(),
    messages.Fact("ABORTED", TOKEN), messages.Fact("RUNNING", b""), messages.Abort("why", True),
    messages.Aborted(b""), messages.Done(), messages.Empty(),
]  # fmt: skip
NONSENSE: list[object] = [
    None, [], True, -1, 1e300, 1 << 70, "\x00" * 99_999, [[]], [1], {"a": 1}, "AAA", "é",
    ["AA=="] * 99,
    {"a": [[[[[[[[[[]]]]]]]]]]}, {"a": [0] * 5000},
]


def test_every_message_is_among_the_good_ones() -> None:
    replies = {kind.reply for kind in messages.REQUESTS.values()}
    assert {type(good) for good in GOOD} == replies | set(messages.REQUESTS.values())
    assert set(messages.FACTS) | {"UNREACHABLE"} == set(DestinationFact.__members__)


@pytest.mark.parametrize("good", GOOD, ids=lambda good: type(good).__name__)
def test_fields_are_bounded_on_both_ends(good: Message) -> None:
    params, attached = good.write()
    params = json.loads(json.dumps(params))
    assert type(good).read(params, attached, strict=True) == good
    for name in params:
        for odd in NONSENSE:
            try:
                found = type(good).read({**params, name: odd}, attached, strict=True)
            except Malformed as error:
                assert len(str(error)) < 200
                continue
            value, right = getattr(found, name), getattr(good, name)
            assert type(value) is type(right)
            assert len(json.dumps(found.write()[0])) < 40_000
    with pytest.raises(Malformed, match="unknown field"):
        type(good).read({**params, "more": 1}, attached, strict=True)
    if not attached:
        with pytest.raises(Malformed, match="attached"):
            type(good).read(params, b"x")


def test_attached_bytes_have_a_size() -> None:
    for attached in (b"", bytes((16 << 20) + 1)):
        with pytest.raises(Malformed):
            messages.Complete.read({}, attached)


def test_a_request_that_is_malformed_is_refused_by_name() -> None:
    pair = Pair(echo)
    with pytest.raises(rpc.RemoteError) as caught:
        pair.client.ask(Echo("a", b""))
    assert caught.value.cause is not None and "malformed request 'echo'" in caught.value.cause
    assert caught.value.exit_code is ExitCode.REFUSED
    with pytest.raises(rpc.RemoteError, match="reports an error") as caught:
        pair.client.ask(messages.Watch())
    assert caught.value.cause == "this version knows no request 'watch'"
    pair.close()


class Answers:
    """A client whose peer answers every request with the same body."""

    def __init__(self, body: bytes, attached: bytes = b"") -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.sendall(frame(body, attached))
        self.theirs.shutdown(socket.SHUT_WR)
        self.client = rpc.Client(ours, "host-b", 5)

    def ask(self, request: Request[Any]) -> Message:
        try:
            found: Message = self.client.ask(request)
            return found
        finally:
            self.client.close()
            self.theirs.close()


@pytest.mark.parametrize(
    "reply",
    [
        {"error": {"exit_code": []}}, {"error": {"exit_code": {}}}, {"error": {}}, {"error": []},
        {"error": {"exit_code": 1, "message": []}}, {"error": {"exit_code": 1, "host": 1}},
        {"error": {"exit_code": True}}, {"result": {}, "error": {"exit_code": 1}}, {},
        {"result": []}, {"alive": []}, {"id": True, "result": {}}, {"id": [], "result": {}},
        {"result": {}}, {"result": {"time": "1"}}, {"result": {"time": None}},
    ],
)
def test_malformed_replies_are_a_lost_link(reply: dict[str, Any]) -> None:
    with pytest.raises(LinkLost):
        Answers(json.dumps({"id": 1, **reply}).encode()).ask(messages.Clock())


@pytest.mark.parametrize("number", [b"1e999", b"NaN", b"Infinity", b"9" * 5000, b"9" * 400])
def test_no_number_in_a_reply(number: bytes) -> None:
    with pytest.raises(LinkLost):
        Answers(b'{"id":1,"result":{"time":' + number + b"}}").ask(messages.Clock())


def test_fuzz_replies() -> None:
    """Any reply gives a message of the right type, RemoteError or LinkLost."""
    chance = random.Random(11)
    blank = {kind.reply: kind for kind in messages.REQUESTS.values()}
    seeds = [
        (blank[type(good)], json.dumps({"id": 1, "result": good.write()[0]}).encode())
        for good in GOOD
        if type(good) in blank
    ]
    error = {"message": "m", "exit_code": 3, "host": "b", "cause": "c", "hint": None}
    seeds.append((messages.Run, json.dumps({"id": 1, "error": error}).encode()))
    asked = {type(good): good for good in GOOD}
    for _ in range(1000):
        kind, seed = chance.choice(seeds)
        data = bytearray(seed)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b'[]{}",:0123456789-.etrufalsn\\')
        request = asked[kind]
        assert isinstance(request, Request)
        with contextlib.suppress(LinkLost, rpc.RemoteError):
            assert type(Answers(bytes(data)).ask(request)) is kind.reply


def test_the_dearest_frame_takes_little_memory() -> None:
    """JSON may take many times its own size once it is read."""
    dearest = b'{"a":[' + b",".join([b"[]"] * ((channels.JSON_MAX - 8) // 3)) + b"]}"
    assert len(dearest) <= channels.JSON_MAX
    tracemalloc.start()
    try:
        found = channels.decode(dearest)
        with pytest.raises(Malformed):
            messages.Preflight.read({"spec": found, "source": {}})
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_fuzz_frames() -> None:
    """Any bytes give an object or LinkLost, and never another exception."""
    chance = random.Random(7)
    seed = json.dumps({"id": 3, "method": "prepare", "params": {"spec": {"memory": 1}}}).encode()
    for _ in range(3000):
        data = bytearray(seed)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(LinkLost):
            assert isinstance(channels.decode(bytes(data)), dict)


def test_fuzz_requests() -> None:
    """Any object as parameters gives a message within its bounds, or is malformed."""
    chance = random.Random(5)
    for _ in range(2000):
        good = chance.choice(GOOD)
        params, attached = good.write()
        for _ in range(chance.randint(1, 3)):
            name = chance.choice([*(entry.name for entry in fields(good)), "x"])  # type: ignore[arg-type]
            params[name] = chance.choice(NONSENSE)
        with contextlib.suppress(Malformed):
            assert type(type(good).read(params, attached, strict=True)) is type(good)


def test_reply_to_another_request_ends_it(ends: tuple[socket.socket, socket.socket]) -> None:
    client = rpc.Client(ends[0], "host-b", 5)
    ends[1].sendall(frame({"id": 99, "result": {}}))
    with pytest.raises(LinkLost, match="reply id does not match the request"):
        client.ask(messages.Clock())
    client.close()


def test_a_closed_channel_carries_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    channel = Channel(ends[0], 5)
    channel.close()
    channel.close()
    for use in (channel.receive, lambda: channel.send({})):
        with pytest.raises(LinkLost, match="this side closed"):
            use()


def test_replies_may_say_more_than_is_known() -> None:
    assert messages.Time.read({"time": 1, "more": 2}) == messages.Time(1.0)
    assert replace(messages.Time(1.0), time=2.0).write() == ({"time": 2.0}, b"")
