# SPDX-License-Identifier: Apache-2.0
"""A dry run looks at both hosts and writes nothing on either."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.recovery.hosts import Host, Scene, finish


def files(host: Host) -> dict[str, tuple[int, bytes]]:
    """Every file below a host's two folders but sockets, pipes and what QEMU itself writes."""
    found = {}
    for path in sorted(Path(host.folder).glob("[rs]/**/*")):
        if path.is_file() and path.name not in ("ring", "t"):
            found[str(path)] = path.stat().st_mtime_ns, path.read_bytes()
    return found


def test_a_dry_run_writes_nothing(scene: Scene) -> None:
    scene.vm()
    receive, ticket = scene.receive()
    (scene.folder / "ticket").write_text(ticket)
    dry = ("migrate", "t", "--ticket-file", str(scene.folder / "ticket"), "--dry-run")
    scene.a.run(*dry)  # an id of this host is made at its first use, whatever that is
    before = files(scene.a), files(scene.b)
    assert before[0] and before[1]
    scene.a.run(*dry)
    assert (files(scene.a), files(scene.b)) == before
    assert scene.a.job("migrate") == {}
    receive.kill(signal.SIGTERM)
    assert finish(receive) == 143
