# SPDX-License-Identifier: Apache-2.0
"""TLS with the ticket, and the listening port, on the loopback interface."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cpcctl.errors import CpcError, ExitCode
from cpcctl.link import listener as listener_module
from cpcctl.link import tls
from cpcctl.link.listener import Listener, open_stream
from cpcctl.link.ticket import Ticket

SECRET = bytes(range(32))


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[Listener, Ticket]]:
    identity = tls.make_identity(tmp_path, "b" * 32)
    listener = Listener("127.0.0.1", 0, tls.server_context(identity), SECRET)
    yield listener, Ticket("127.0.0.1", listener.port, identity.fingerprint, SECRET)
    listener.close()


def test_files_are_private(tmp_path: Path) -> None:
    identity = tls.make_identity(tmp_path, "b" * 32)
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
    context = tls.server_context(tls.make_identity(tmp_path, "b" * 32))
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
        # Spent with the first use, not only once its stream was asked for.
        with open_stream(ticket.host, ticket.port, token, 5) as second:
            assert _ends(second)
        server.close()
    listener.forget_streams()
    with open_stream(ticket.host, ticket.port, token, 5) as again:
        assert _ends(again)


def test_data_streams_have_probes(listening: tuple[Listener, Ticket]) -> None:
    """A path that carries nothing any more breaks, whatever the control connection does."""
    listener, ticket = listening
    token = listener.expect_stream()
    with (
        open_stream(ticket.host, ticket.port, token, 5) as ours,
        listener.stream(token, 5) as theirs,
    ):
        for link in (ours, theirs):
            assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 60
            assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) >= 10_000


def test_port_in_use(listening: tuple[Listener, Ticket], tmp_path: Path) -> None:
    listener, _ = listening
    context = tls.server_context(tls.load_identity(tmp_path))
    with pytest.raises(CpcError, match="cannot listen") as caught:
        Listener("127.0.0.1", listener.port, context, SECRET)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "in use" in (caught.value.cause or "")


def _ends(link: socket.socket) -> bool:
    link.settimeout(5)
    try:
        return link.recv(1) == b""
    except ConnectionError:
        return True
