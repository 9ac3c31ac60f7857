# SPDX-License-Identifier: Apache-2.0
"""The ticket: exactly one spelling, everything else refused with exit 2."""

from __future__ import annotations

import random

import pytest

from cpcctl.errors import CpcError, ExitCode
from cpcctl.link.ticket import Ticket, parse

GOOD = Ticket("192.0.2.7", 16509, bytes(range(32)), bytes(range(32, 64)))


@pytest.mark.parametrize("host", ["192.0.2.7", "host-b", "host-b.example.org", "2001:db8::7"])
def test_round_trip(host: str) -> None:
    ticket = Ticket(host, 1, GOOD.fingerprint, GOOD.secret)
    assert parse(ticket.text()) == ticket
    assert parse("  " + ticket.text() + "\n") == ticket


def test_secret_is_hidden() -> None:
    encoded = GOOD.text().rsplit(":", 1)[1]
    assert encoded not in repr(GOOD)
    assert repr(GOOD.secret) not in repr(GOOD)
    assert GOOD.address == "192.0.2.7:16509"
    assert Ticket("::1", 5, b"", b"").address == "[::1]:5"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cpc1:", "cpc2:"),
        ("cpc1:", ""),
        ("192.0.2.7", "192.0.2.700"),
        ("192.0.2.7", "-oProxyCommand=x"),
        ("192.0.2.7", "host b"),
        ("192.0.2.7", "[zz::]"),
        ("192.0.2.7", "[:::::]"),
        ("192.0.2.7", "1.2.3"),
        ("192.0.2.7", ""),
        (":16509:", ":0:"),
        (":16509:", ":65536:"),
        (":16509:", ":+1:"),
        (":16509:", ":\N{ARABIC-INDIC DIGIT ONE}:"),
    ],
)
def test_refused(old: str, new: str) -> None:
    with pytest.raises(CpcError) as caught:
        parse(GOOD.text().replace(old, new, 1))
    assert caught.value.exit_code is ExitCode.USAGE
    assert "cpcctl receive" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["", "cpc1", GOOD.text() + "A", GOOD.text()[:-1], "x" * 9999])
def test_wrong_length(text: str) -> None:
    with pytest.raises(CpcError):
        parse(text)


def test_one_spelling_only() -> None:
    # 32 bytes leave two unused bits in the last character of base64.
    text = GOOD.text()
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = last[last.index(text[-1]) + 1]
    with pytest.raises(CpcError, match="canonical"):
        parse(text[:-1] + other)


def test_fuzz() -> None:
    """A changed ticket is refused or is another ticket; nothing else happens."""
    chance = random.Random(20)
    text = GOOD.text()
    for _ in range(5000):
        letters = list(text)
        for _ in range(chance.randint(1, 4)):
            what = chance.random()
            at = chance.randrange(len(letters))
            if what < 0.5:
                letters[at] = chr(chance.randrange(chance.choice([127, 4096])))
            elif what < 0.75:
                del letters[at]
            else:
                letters.insert(at, chance.choice(":[].A0-_"))
        changed = "".join(letters)
        try:
            ticket = parse(changed)
        except CpcError as error:
            assert error.exit_code is ExitCode.USAGE
        else:
            assert ticket.text() == changed.strip() or ":" in ticket.host or "." in ticket.host
            assert len(ticket.secret) == len(ticket.fingerprint) == 32
