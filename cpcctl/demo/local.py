# SPDX-License-Identifier: Apache-2.0
"""The demonstration without namespaces: two folders on one host, no own network.

What differs: the guests have QEMU's user-mode network, whose connections to the
outside end with the QEMU they began in. So the client works inside the guest,
over one TCP connection to the same Redis, and a relay that everything passes
through takes the place of the packet capture.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpcctl.demo import plain
from cpcctl.demo import run as demo
from cpcctl.demo.console import Console
from cpcctl.demo.guard import Guard
from cpcctl.demo.hosts import (
    TOP,
    Host,
    fresh_folder,
    make_host,
    place_environment,
    place_mark,
)
from cpcctl.demo.relay import Relay
from cpcctl.demo.report import Findings, Watched
from cpcctl.demo.scan import RingScanner
from cpcctl.demo.scene import USER_ADDRESS, Guest, Parts, call, cmdline
from cpcctl.link import ticket
from cpcctl.ui.ticker import Ticker

NETWORK = "user mode, no namespaces; the client works inside the guest"


class LocalPlace:
    """Two hosts that are only two folders. A context manager."""

    def __init__(self, cache: Path, settings: Mapping[str, str]) -> None:
        self.cache = cache
        self.settings = dict(settings)
        self.folder = fresh_folder()
        self._guard = Guard(place_mark(self.folder), self.folder)
        self._a = make_host("host-a", "127.0.0.1", self)
        self._b = make_host("host-b", "127.0.0.1", self)

    @property
    def a(self) -> Host:
        """host-a."""
        return self._a

    @property
    def b(self) -> Host:
        """host-b."""
        return self._b

    def popen(
        self, where: str, argv: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command; every place is this machine."""
        options.setdefault("text", True)
        options.setdefault("cwd", TOP)
        return subprocess.Popen(argv, env=place_environment(self.folder, env), **options)

    def __enter__(self) -> LocalPlace:
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.close()


def control(place: LocalPlace, parts: Parts, secret: str) -> Watched:
    """The same relay on QEMU's own migration of a small guest with that secret."""
    guest = parts.plain(cmdline(f"secret:{secret}", USER_ADDRESS), demo.CONTROL_MIB, None)
    source, destination = plain.pair(place, guest)
    relays: list[Relay] = []

    def through(port: int) -> int:
        relays.append(Relay(port, secret.encode()))
        return relays[0].port

    try:
        with Console(source.console) as console:
            console.wait_ready(source.log, demo.CONTROL_SECONDS)
        plain.migrate(
            source, destination, demo.CONTROL_DOWNTIME_MS, demo.CONTROL_SECONDS, through
        )
        return relays[0].close()
    finally:
        source.close()
        destination.close()


def client_count(guest: Guest, host: Host) -> int:
    """Operations the client in the guest has done."""
    with guest.console(host) as console:
        return int(console.run("cat /run/cpc/client.count"))


def run(place: LocalPlace, parts: Parts, shown: Ticker) -> Findings:
    """The whole demonstration. Raises CpcError where a cpcctl command fails."""
    secret = demo.fresh_secret()

    def compare() -> demo.Before:
        readings = demo.side_by_side(place, parts, shown.say)
        shown.say("control: the same check on QEMU's own plaintext migration")
        return readings, control(place, parts, secret)

    shown.doing(
        f"starting a {demo.MEMORY_MIB} MiB {demo.described(parts)}; Redis in it fills "
        f"{demo.LOAD_MIB} MiB"
    )
    jobs = f"redis,secret:{secret},load:{demo.LOAD_MIB},client"
    guest, status, before, (readings, seen) = demo.start(
        place, parts, jobs, None, shown, demo.Beside(compare)
    )
    scanner = RingScanner(guest.ring(place.a), secret.encode())
    scanner.start()
    time.sleep(demo.QUIET_SECONDS)
    relays: list[Relay] = []

    def through(text: str) -> str:
        parsed = ticket.parse(text)
        relays.append(Relay(parsed.port, secret.encode()))
        return dataclasses.replace(parsed, port=relays[0].port).text()

    shown.doing("cpcctl migrate demo: host-a to host-b")
    first = client_count(guest, place.a)
    incoming = demo.IncomingRing(guest, place, secret)
    incoming.start()
    try:
        with shown.silent():
            migration = guest.migrate(place.a, place.b, via=through, bar=shown.terminal)
    finally:
        incoming.join()
        scanners = [scanner, *incoming.scanners]
        for each in scanners:
            each.stop()
        passed = [relay.close() for relay in relays]
    second = client_count(guest, place.b)
    time.sleep(demo.QUIET_SECONDS)
    with guest.console(place.b) as console:
        told = re.search(r"CPC-CLIENT (\d+) (\d+) (\d+) (\d+)", console.run("cpc-job clientdone"))
    if told is None:
        raise RuntimeError("the client in the guest did not report")
    total, mismatched, broken, pause = (int(word) for word in told.groups())
    shown.doing("checking the guest's memory from inside")
    after = demo.digest(guest, place.b)
    readings += demo.after_move(place, parts, secret)
    call(place.b, "vm", "stop", "demo", "--force")
    return Findings(
        platform=str(status.get("platform", "plain")),
        accel=str(status["accel"]),
        network=NETWORK,
        migration=migration,
        client={
            "operations": total,
            "mismatched_reads": mismatched,
            "broken_connections": broken,
            "longest_pause_seconds": pause / 100,
            # Three moments stand for the tenths that a client outside counts.
            "tenths": [[0, first], [20, second - first], [40, total - second]],
        },
        window=(1.0, 3.0),
        capture=passed[0],
        control=seen,
        ring_hits=sum(s.hits for s in scanners),
        ring_passes=min(s.passes for s in scanners) if len(scanners) == 2 else 0,
        digest_before=before,
        digest_after=after,
        protection=demo.protection(str(status.get("platform", "plain"))),
        readings=readings,
        faults=[f"the ring scan failed: {s.error}" for s in scanners if s.error],
    )
