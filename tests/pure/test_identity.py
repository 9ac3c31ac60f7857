# SPDX-License-Identifier: Apache-2.0
"""Hosts are told apart by an id of their own, whatever they are called."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cpcctl.errors import CpcError
from cpcctl.host import identity
from cpcctl.link import tls
from cpcctl.link.listener import Listener
from cpcctl.link.ticket import Ticket


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    one = identity.host_id(tmp_path / "a")
    assert identity.host_id(tmp_path / "a") == one
    assert identity.host_id(tmp_path / "b") != one
    assert (tmp_path / "a/host-id").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["host-id"]


def test_a_copied_host_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = identity.host_id(tmp_path)
    (tmp_path / "boot").write_text("another\n")
    monkeypatch.setattr(identity, "BOOT_ID", tmp_path / "boot")
    assert identity.host_id(tmp_path) != one


def test_of_many_that_make_it_one_wins(tmp_path: Path) -> None:
    found: list[str] = []
    makers = [
        threading.Thread(target=lambda: found.append(identity.host_id(tmp_path / "s")))
        for _ in range(8)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("text", ["", "x", "a" * 32, "A" * 32 + "\n", "\xff"])
def test_a_damaged_one_is_not_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / "host-id").write_bytes(text.encode("latin-1"))
    with pytest.raises(CpcError) as caught:
        identity.host_id(tmp_path)
    assert "holds no id" in (caught.value.cause or "")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("0" * 32 + "\n")
    (tmp_path / "host-id").symlink_to(tmp_path / "other")
    with pytest.raises(CpcError):
        identity.host_id(tmp_path)


@pytest.mark.parametrize("own", ["a" * 32, "b" * 32])
def test_a_ticket_of_this_host_is_known(own: str, tmp_path: Path) -> None:
    """Before its secret is shown, and whatever name or address it has."""
    made = tls.make_identity(tmp_path, "a" * 32)
    listener = Listener("127.0.0.1", 0, tls.server_context(made), bytes(32))
    ticket = Ticket("127.0.0.1", listener.port, made.fingerprint, bytes(32))
    try:
        if own == "a" * 32:
            with pytest.raises(tls.OwnTicket, match="this ticket is from this host"):
                tls.connect(ticket, 5, own)
            with pytest.raises(TimeoutError):
                listener.control(0.1)
        else:
            tls.connect(ticket, 5, own).close()
    finally:
        listener.close()
