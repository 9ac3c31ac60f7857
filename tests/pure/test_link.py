# SPDX-License-Identifier: Apache-2.0
"""TLS with the ticket, requests and replies, on the loopback interface."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cpcctl.errors import CpcError, ExitCode
from cpcctl.link import listener as listener_module
from cpcctl.link import replies, rpc, tls
from cpcctl.link.listener import Listener, open_stream
from cpcctl.link.ticket import Ticket
from cpcctl.migrate.machine import DestinationFact

SECRET = bytes(range(32))


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[Listener, Ticket]]:
    identity = tls.make_identity(tmp_path)
    listener = Listener("127.0.0.1", 0, tls.server_context(identity), SECRET)
    yield listener, Ticket("127.0.0.1", listener.port, identity.fingerprint, SECRET)
    listener.close()


def test_files_are_private(tmp_path: Path) -> None:
    identity = tls.make_identity(tmp_path)
    assert identity.key.stat().st_mode & 0o777 == 0o600
    assert tls.load_identity(tmp_path) == identity


def test_connects(listening: tuple[Listener, Ticket]) -> None:
    listener, ticket = listening
    with tls.connect(ticket, 5) as link:
        assert link.version() == "TLSv1.3"
        server, peer = listener.control(5)
        assert peer == "127.0.0.1"
        link.sendall(b"x")
        assert server.recv(1) == b"x"
        server.close()


def test_wrong_fingerprint_gets_no_secret(listening: tuple[Listener, Ticket]) -> None:
    listener, ticket = listening
    with pytest.raises(tls.LinkRefused, match="another certificate"):
        tls.connect(replace(ticket, fingerprint=bytes(32)), 5)
    with pytest.raises(TimeoutError):
        listener.control(0.1)


def test_wrong_secret_then_right_one(listening: tuple[Listener, Ticket]) -> None:
    listener, ticket = listening
    with pytest.raises(tls.LinkRefused, match="does not accept"):
        tls.connect(replace(ticket, secret=bytes(32)), 5)
    tls.connect(ticket, 5).close()
    listener.control(5)[0].close()


def test_wrong_tries_do_not_shut_the_door(listening: tuple[Listener, Ticket]) -> None:
    """Anybody can fail as often as they like; the right ticket gets in between."""
    listener, ticket = listening
    for number in range(200):
        with socket.create_connection((ticket.host, ticket.port), 5) as raw:
            raw.sendall(b"X")
            assert _ends(raw)
        if number % 20 == 0:
            with pytest.raises(tls.LinkRefused):
                tls.connect(replace(ticket, secret=bytes(32)), 5)
    tls.connect(ticket, 5).close()
    listener.control(5)[0].close()


def _silent(ticket: Ticket, count: int, say: bytes) -> list[socket.socket]:
    """Connections that have greeted a little and now keep their place."""
    found = []
    for _ in range(count):
        found.append(socket.create_connection((ticket.host, ticket.port), 5))
        found[-1].sendall(say)
    return found


@pytest.mark.parametrize("say", [b"", b"D" + bytes(5), b"C", b"C\x16\x03\x01"])
def test_room_is_made_for_the_right_ticket(
    listening: tuple[Listener, Ticket], say: bytes
) -> None:
    """All room is held by connections that greet too slowly: the oldest goes."""
    listener, ticket = listening
    slow = _silent(ticket, 3 * listener_module.PENDING_MAX, say)
    assert _ends(slow[0])
    token = listener.expect_stream()
    with tls.connect(ticket, 5):
        listener.control(5)[0].close()
    with open_stream(ticket.host, ticket.port, token, 5):
        listener.stream(token, 5).close()
    for link in slow:
        link.close()


def test_who_is_in_is_not_pushed_out(listening: tuple[Listener, Ticket]) -> None:
    listener, ticket = listening
    with tls.connect(ticket, 5) as link:
        server, _ = listener.control(5)
        slow = _silent(ticket, 3 * listener_module.PENDING_MAX, b"C")
        assert _ends(slow[0])
        link.sendall(b"x")
        assert server.recv(1) == b"x"
        server.close()
    for entry in slow:
        entry.close()


def test_a_busy_address_makes_room_from_its_own(listening: tuple[Listener, Ticket]) -> None:
    """A slow honest host stays while another one floods the port."""
    _, ticket = listening
    honest = socket.create_connection((ticket.host, ticket.port), 5, ("127.0.0.9", 0))
    slow = _silent(ticket, 4 * listener_module.PENDING_MAX, b"")
    assert _ends(slow[0])
    honest.settimeout(0.05)
    with pytest.raises(TimeoutError):
        honest.recv(1)
    for entry in (honest, *slow):
        entry.close()


@pytest.mark.parametrize("first", [b"D", b"C"])
def test_the_whole_greeting_has_one_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    """A byte now and then does not keep a connection alive."""
    monkeypatch.setattr(listener_module, "GREETING_SECONDS", 0.5)
    context = tls.server_context(tls.make_identity(tmp_path))
    listener = Listener("127.0.0.1", 0, context, SECRET)
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", listener.port), 5) as drip:
        # A TLS record header that promises 512 bytes, then one after the other.
        drip.sendall(first + (b"\x16\x03\x01\x02\x00" if first == b"C" else b""))
        drip.settimeout(0.1)
        ended = False
        while not ended and time.monotonic() - begin < 5:
            try:
                drip.sendall(b"\x01")
                ended = drip.recv(64) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
    assert ended
    assert time.monotonic() - begin < 2
    listener.close()


def test_old_tls_is_refused(listening: tuple[Listener, Ticket]) -> None:
    _, ticket = listening
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((ticket.host, ticket.port), 5) as raw:
        raw.sendall(tls.CONTROL)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(raw)


@pytest.mark.parametrize("junk", [b"", b"X", b"GET / HTTP/1.1\r\n\r\n", b"C" + bytes(999), b"D"])
def test_junk_does_not_stop_it(listening: tuple[Listener, Ticket], junk: bytes) -> None:
    listener, ticket = listening
    # It may have hung up before all of it is sent.
    with (
        socket.create_connection((ticket.host, ticket.port), 5) as raw,
        contextlib.suppress(OSError),
    ):
        raw.sendall(junk)
        raw.shutdown(socket.SHUT_WR)
    tls.connect(ticket, 5).close()
    listener.control(5)[0].close()


def test_data_stream_needs_its_token(listening: tuple[Listener, Ticket]) -> None:
    listener, ticket = listening
    token = listener.expect_stream()
    with open_stream(ticket.host, ticket.port, bytes(32), 5) as wrong:
        assert _ends(wrong)
    with open_stream(ticket.host, ticket.port, token, 5) as right:
        server = listener.stream(token, 5)
        right.sendall(b"ring")
        assert tls.read_exact(server, 4) == b"ring"
        server.close()
    listener.forget_streams()
    with open_stream(ticket.host, ticket.port, token, 5) as again:
        assert _ends(again)


def test_port_in_use(listening: tuple[Listener, Ticket], tmp_path: Path) -> None:
    listener, _ = listening
    context = tls.server_context(tls.load_identity(tmp_path))
    with pytest.raises(CpcError, match="cannot listen") as caught:
        Listener("127.0.0.1", listener.port, context, SECRET)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "in use" in (caught.value.cause or "")


# ---- requests and replies ---------------------------------------------------


class Pair:
    """Client and server over a socket pair, the server in a thread."""

    def __init__(self, handler: rpc.Handler, timeout: float = 5.0) -> None:
        ours, self.theirs = socket.socketpair()
        self.ended: rpc.LinkLost | None = None
        self.thread = threading.Thread(target=self._serve, args=(handler, timeout))
        self.thread.start()
        self.client = rpc.Client(ours, "host-b", timeout)

    def _serve(self, handler: rpc.Handler, timeout: float) -> None:
        try:
            rpc.serve(self.theirs, handler, timeout)
        except rpc.LinkLost as error:
            self.ended = error

    def close(self) -> None:
        self.client.close()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.theirs.close()


def test_call_and_error_word_for_word() -> None:
    def handler(method: str, params: rpc.Params) -> rpc.Params:
        if method == "fail":
            raise CpcError("no room", exit_code=ExitCode.REFUSED, cause="ENOSPC", hint="df")
        if method == "defect":
            raise KeyError("x")
        return {"method": method, **params}

    pair = Pair(handler)
    assert pair.client.call("echo", {"a": 1}) == {"method": "echo", "a": 1}
    with pytest.raises(rpc.RemoteError) as caught:
        pair.client.call("fail")
    assert caught.value.exit_code is ExitCode.REFUSED
    assert caught.value.host == "host-b"
    assert caught.value.cause == 'no room\nENOSPC\nhost-b suggests: "df"'
    assert caught.value.hint is None
    with pytest.raises(rpc.RemoteError) as caught:
        pair.client.call("defect")
    assert caught.value.exit_code is ExitCode.DEFECT
    assert pair.client.call("echo") == {"method": "echo"}
    pair.close()
    assert "closed" in str(pair.ended)


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
    assert replies.read("hello", {}, {"host": ESCAPES})["host"].isprintable()
    check = {"name": ESCAPES, "ok": False, "reason": "r" * 9999, "fix": ESCAPES}
    (found,) = replies.read("preflight", {}, {"checks": [check]})["checks"]
    assert found["name"].isprintable()
    assert all(line.isprintable() for line in found["fix"].splitlines())
    assert len(found["reason"]) < 2100


@pytest.mark.parametrize("code", [5, 6, 7, 130, 143, 0, 99])
def test_where_the_guest_is_is_not_for_the_peer_to_say(code: int) -> None:
    error = rpc.RemoteError("host-b", {"message": "no", "exit_code": code})
    assert error.exit_code is ExitCode.FAILED


class Answers:
    """A client whose peer answers every request with the same body."""

    def __init__(self, body: bytes) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.sendall(struct.pack(">I", len(body)) + body)
        self.theirs.shutdown(socket.SHUT_WR)
        self.client = rpc.Client(ours, "host-b", 5)

    def call(self, method: str, params: rpc.Params) -> rpc.Params:
        try:
            return self.client.call(method, params)
        finally:
            self.client.close()
            self.theirs.close()


GOOD: dict[str, rpc.Params] = {
    "ping": {"time": 1.5},
    "hello": {"host": "b"},
    "clock": {"time": 1.0},
    "preflight": {"checks": [{"name": "n", "ok": True, "reason": "", "fix": ""}]},
    "prepare": {
        "hvcpus": 2, "cores": 4, "idle": 3.5, "machine": "boot", "open": {"1": 1e9, "4": 2e8},
    },
    "handshake": {"hello": "AA==", "confirmation": "AA=="},
    "confirm": {"tokens": ["AA=="]},
    "watch": {"taken": 7},
    "complete": {"token": "AA=="},
    "run": {"token": "AA==", "released_at": 1.5},
    "query": {"fact": "RUNNING", "token": ""},
    "abort": {"token": ""},
    "done": {},
}
NONSENSE: list[object] = [None, [], {}, True, -1, 1e300, "\x00", [[]], [1], {"a": 1}, "AAA", "é"]


def test_every_answer_has_a_shape() -> None:
    destination = Path(listener_module.__file__).parents[1] / "migrate" / "destination.py"
    handlers = r'^            "(\w+)": (?:self\.|lambda)'
    table = destination.read_text().split("self._handlers", 1)[1].split("def ", 1)[0]
    named = set(re.findall(handlers, table, re.M))
    assert "preflight" in named
    assert named | {"ping"} == set(replies.SHAPES) == set(GOOD)
    assert set(replies.FACTS) | {"UNREACHABLE"} == set(DestinationFact.__members__)


@pytest.mark.parametrize("method", sorted(GOOD))
def test_answers_of_wrong_types_are_a_lost_link(method: str) -> None:
    params = {"streams": 1}
    whole = {"id": 1, "result": GOOD[method]}
    assert Answers(json.dumps(whole).encode()).call(method, params) == GOOD[method]
    for key, right in GOOD[method].items():
        bad = [{k: v for k, v in GOOD[method].items() if k != key}]
        bad += [{**GOOD[method], key: value} for value in NONSENSE]
        for result in bad:
            try:
                found = Answers(json.dumps({"id": 1, "result": result}).encode()).call(
                    method, params
                )
            except rpc.LinkLost:
                continue
            assert type(found[key]) is type(right)


@pytest.mark.parametrize(
    "reply",
    [
        {"error": {"exit_code": []}}, {"error": {"exit_code": {}}}, {"error": {}}, {"error": []},
        {"error": {"exit_code": 1, "message": []}}, {"error": {"exit_code": 1, "host": 1}},
        {"error": {"exit_code": True}}, {"result": {}, "error": {"exit_code": 1}}, {},
        {"result": []}, {"alive": []}, {"id": True, "result": {}}, {"id": [], "result": {}},
    ],
)
def test_malformed_replies_are_a_lost_link(reply: rpc.Params) -> None:
    with pytest.raises(rpc.LinkLost):
        Answers(json.dumps({"id": 1, **reply}).encode()).call("echo", {})


@pytest.mark.parametrize("number", [b"1e999", b"NaN", b"Infinity", b"9" * 5000, b"9" * 400])
def test_no_number_in_a_reply(number: bytes) -> None:
    with pytest.raises(rpc.LinkLost):
        Answers(b'{"id":1,"result":{"time":' + number + b"}}").call("clock", {})


def test_fuzz_replies() -> None:
    """Any reply gives a result of the right types, RemoteError or LinkLost."""
    chance = random.Random(11)
    seeds = [
        (method, json.dumps({"id": 1, "result": result}).encode())
        for method, result in GOOD.items()
    ]
    error = {"message": "m", "exit_code": 3, "host": "b", "cause": "c", "hint": None}
    seeds.append(("run", json.dumps({"id": 1, "error": error}).encode()))
    for _ in range(1500):
        method, seed = chance.choice(seeds)
        data = bytearray(seed)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b'[]{}",:0123456789-.etrufalsn\\')
        with contextlib.suppress(rpc.LinkLost, rpc.RemoteError):
            found = Answers(bytes(data)).call(method, {"streams": 1})
            assert set(found) == set(GOOD[method])


def test_slow_request_is_kept_alive() -> None:
    def handler(method: str, params: rpc.Params) -> rpc.Params:
        time.sleep(2.5)  # longer than the peer timeout below
        return {}

    pair = Pair(handler, timeout=1.6)
    assert pair.client.call("slow") == {}
    pair.close()


def test_idle_client_pings() -> None:
    pair = Pair(lambda method, params: {}, timeout=1.6)
    pair.thread.join(2.5)
    assert pair.thread.is_alive()
    pair.close()


def test_silent_server_is_lost() -> None:
    ours, theirs = socket.socketpair()
    client = rpc.Client(ours, "host-b", 0.3)
    with pytest.raises(rpc.LinkLost, match="silent"):
        client.call("anything")
    with pytest.raises(rpc.LinkLost):
        client.call("again")
    client.close()
    theirs.close()


def test_silent_client_is_lost() -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(rpc.LinkLost, match="silent"):
        rpc.serve(theirs, lambda method, params: {}, 0.2)
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"\xff", b"{", b'{"id": 1}', b'{"id": true, "method": "x", "params": {}}',
     b'{"id": 1, "method": [], "params": {}}', b"[" * 100_000],
)
def test_server_drops_nonsense(body: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(struct.pack(">I", len(body)) + body)
    with pytest.raises(rpc.LinkLost):
        rpc.serve(theirs, lambda method, params: {}, 5)
    ours.close()
    theirs.close()


def test_length_is_bounded() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(rpc.LinkLost, match="4294967295"):
        rpc.receive(theirs)
    with pytest.raises(ValueError, match="too large"):
        rpc.encode({"x": "y" * rpc.FRAME_MAX})
    ours.close()
    theirs.close()


def test_fuzz_frames() -> None:
    """Any bytes give an object or LinkLost, and never another exception."""
    chance = random.Random(7)
    seed = json.dumps({"id": 3, "method": "prepare", "params": {"spec": {"memory": 1}}}).encode()
    for _ in range(3000):
        data = bytearray(seed)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(rpc.LinkLost):
            assert isinstance(rpc.decode(bytes(data)), dict)


def test_reply_to_another_question_ends_it() -> None:
    ours, theirs = socket.socketpair()
    client = rpc.Client(ours, "host-b", 5)
    theirs.sendall(rpc.encode({"id": 99, "result": {}}))
    with pytest.raises(rpc.LinkLost, match="another question"):
        client.call("x")
    client.close()
    theirs.close()


def _ends(link: socket.socket) -> bool:
    link.settimeout(5)
    try:
        return link.recv(1) == b""
    except ConnectionError:
        return True
