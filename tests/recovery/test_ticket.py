# SPDX-License-Identifier: Apache-2.0
"""Who sees the ticket of a migration that has begun can do nothing with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcctl.link import ticket as tickets
from cpcctl.link import tls
from tests.recovery.hosts import Scene, finish


def test_a_ticket_is_for_one_source(scene: Scene) -> None:
    scene.vm()
    receive, text = scene.receive()
    scene.stage.hold("host-a", "before FREEZE")
    (scene.folder / "ticket").write_text(text)
    migrate = scene.a.start("migrate", "t", "--ticket-file", str(scene.folder / "ticket"))
    scene.wait_held(scene.a)
    ticket = tickets.parse(text)
    with pytest.raises(tls.LinkRefused, match="does not accept this ticket"):
        tls.connect(ticket, 5)
    # The source has one of its own, and keeps it to itself.
    kept = tickets.parse(scene.a.job("migrate")["data"]["ticket"])
    assert kept.fingerprint == ticket.fingerprint
    assert kept.secret != ticket.secret
    worker = Path(f"/proc/{scene.worker().pid}")
    for secret in (text, kept.text()):
        for place in ("cmdline", "environ"):
            assert secret.rpartition(":")[2].encode() not in (worker / place).read_bytes()
    scene.stage.release("host-a")
    assert (finish(migrate), finish(receive)) == (0, 0)
