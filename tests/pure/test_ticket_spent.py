# SPDX-License-Identifier: Apache-2.0
"""A ticket is for one source: once that has a secret of its own, nobody else gets in with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cpcctl.link import tls
from cpcctl.link.listener import Listener
from cpcctl.link.ticket import Ticket

SECRET, FRESH = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[Listener, Ticket]]:
    identity = tls.make_identity(tmp_path, "b" * 32)
    listener = Listener("127.0.0.1", 0, tls.server_context(identity), SECRET)
    yield listener, Ticket("127.0.0.1", listener.port, identity.fingerprint, SECRET)
    listener.close()


def test_a_spent_ticket_is_refused(listening: tuple[Listener, Ticket]) -> None:
    listener, ticket = listening
    with tls.connect(ticket, 5):
        listener.control(5)[0].close()
    listener.renew(FRESH)
    with pytest.raises(tls.LinkRefused, match="does not accept this ticket"):
        tls.connect(ticket, 5)
    with tls.connect(replace(ticket, secret=FRESH), 5) as link:
        there, _ = listener.control(5)
        there.sendall(b"x")
        assert tls.read_exact(link, 1) == b"x"
        there.close()


def test_one_that_waited_with_it_is_too_late(listening: tuple[Listener, Ticket]) -> None:
    """Two have seen the ticket; the second was admitted before the first had spent it."""
    listener, ticket = listening
    with tls.connect(ticket, 5) as second:
        listener.renew(FRESH)
        with tls.connect(replace(ticket, secret=FRESH), 5) as first:
            there, _ = listener.control(5)
            there.sendall(b"x")
            assert tls.read_exact(first, 1) == b"x"
            there.close()
        with pytest.raises(EOFError):
            tls.read_exact(second, 1)
    with pytest.raises(TimeoutError):
        listener.control(0.01)
