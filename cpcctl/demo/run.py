# SPDX-License-Identifier: Apache-2.0
"""The demonstration itself: one guest, two hosts, and somebody listening."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cpcctl.config.patience import patient
from cpcctl.demo import plain, reading, watch
from cpcctl.demo.console import Console
from cpcctl.demo.hosts import Host, Place, World
from cpcctl.demo.report import (
    MOVED_GUEST,
    PLAIN_GUEST,
    SNP_GUEST,
    Findings,
    Reading,
    Watched,
)
from cpcctl.demo.scan import RingScanner, wait_for_file
from cpcctl.demo.scene import USER_ADDRESS, Guest, Parts, cmdline, definition, hvcpu_count
from cpcctl.ui.ticker import Ticker

MEMORY_MIB = 2048
LOAD_MIB = 500
CONTROL_MIB = 256
CONTROL_DOWNTIME_MS = 300
CONTROL_SECONDS = patient(120.0)
# How long the client works before and after, so that there is something to compare.
QUIET_SECONDS = 2.0

Say = Callable[[str], None]
Before = tuple[list[Reading], Watched]


def fresh_secret() -> str:
    """Text, so that it survives a command line; 160 random bits."""
    return "CPC-SECRET-" + secrets.token_hex(20)


def watched(report: dict[str, Any]) -> Watched:
    """A capture's report."""
    return Watched(hits=report["hits"], bytes=report["bytes"], missed=report["missed"])


def control(world: World, parts: Parts, secret: str) -> Watched:
    """The same capture on QEMU's own migration of a small guest with that secret."""
    guest = parts.plain(cmdline(f"secret:{secret}"), CONTROL_MIB, "tap1")
    source, destination = plain.pair(world, guest)
    try:
        with Console(source.console) as console:
            console.wait_ready(source.log, CONTROL_SECONDS)
        capture = watch.capture(world, secret.encode())
        plain.migrate(source, destination, CONTROL_DOWNTIME_MS, CONTROL_SECONDS)
        return watched(capture.finish())
    finally:
        source.close()
        destination.close()


def digest(guest: Guest, where: Host) -> str:
    """The digest that Redis, in the guest, makes of the values it holds."""
    with guest.console(where) as console:
        found = re.search(r"CPC-DIGEST ([0-9a-f]{64})", console.run("cpc-job digest"))
    return found[1] if found else ""


def described(parts: Parts) -> str:
    """The guest that is migrated, in words."""
    return "guest" if parts.ovmf is None else f"{parts.platform} guest"


def side_by_side(place: Place, parts: Parts, say: Say) -> list[Reading]:
    """What the host reads of a small plain guest and of the same as an SEV-SNP guest;
    nothing where the demo has no SEV-SNP guest."""
    if parts.ovmf is None:
        return []
    say("side by side: what the host reads of a plain guest and of an SEV-SNP guest")
    both = parts.plain(cmdline(""), CONTROL_MIB, None)
    found: list[Reading] = []
    for name, guest in ((PLAIN_GUEST, both), (SNP_GUEST, replace(both, ovmf=parts.ovmf))):
        found += reading.small(place.a, guest, name, CONTROL_SECONDS)
    return found


def after_move(place: Place, parts: Parts, secret: str) -> list[Reading]:
    """What the destination reads of the guest that came, if it is an SEV-SNP guest."""
    if parts.ovmf is None:
        return []
    return reading.moved(place.b, "demo", MOVED_GUEST, MEMORY_MIB, secret.encode())


class Beside:
    """Work in a thread of its own, while the guest boots and fills its memory on one core."""

    def __init__(self, work: Callable[[], Before]) -> None:
        self._found: Before | None = None
        self._error: BaseException | None = None
        # A daemon: where the demo fails meanwhile, its end ends what this waits for.
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Before]) -> None:
        try:
            self._found = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error

    def result(self) -> Before:
        """What it found, or raises what it raised."""
        self._thread.join()
        if self._found is None:
            raise self._error or RuntimeError("the comparison did not run")
        return self._found


def wait_filled(guest: Guest, host: Host, shown: Ticker) -> None:
    """Until Redis in the guest holds everything, saying how much it does."""

    def seen(text: str) -> None:
        filled = re.findall(r"CPC-LOADED (\d+)", text)
        shown.detail(f"{filled[-1]} of {LOAD_MIB} MiB filled" if filled else "the guest boots")

    guest.wait_ready(host, seen=seen)


def start(
    place: Place, parts: Parts, jobs: str, tap: str | None, shown: Ticker, beside: Beside
) -> tuple[Guest, dict[str, Any], str, Before]:
    """Start the guest on host-a and fill it: the guest, its status, the digest of what it
    holds, and what was found beside that."""
    append = cmdline(jobs) if tap else cmdline(jobs, USER_ADDRESS)
    guest = Guest(place, definition("demo", parts, append, MEMORY_MIB, hvcpu_count(), tap))
    status = guest.start(place.a)
    wait_filled(guest, place.a, shown)
    shown.detail("the guest makes a digest of it")
    before = digest(guest, place.a)
    shown.detail("the comparison ends")
    return guest, status, before, beside.result()


def run(world: World, parts: Parts, shown: Ticker) -> Findings:
    """The whole demonstration. Raises CpcError where a cpcctl command fails."""
    secret = fresh_secret()

    def compare() -> Before:
        readings = side_by_side(world, parts, shown.say)
        shown.say("control: the same check on QEMU's own plaintext migration")
        return readings, control(world, parts, secret)

    shown.doing(
        f"starting a {MEMORY_MIB} MiB {described(parts)} on host-a; Redis in it fills "
        f"{LOAD_MIB} MiB"
    )
    jobs = f"redis,secret:{secret},load:{LOAD_MIB}"
    guest, status, before, (readings, seen) = start(
        world, parts, jobs, "tap0", shown, Beside(compare)
    )
    shown.doing("a client connects and works; everything on the wire is captured")
    client = watch.client(world)
    capture = watch.capture(world, secret.encode())
    scanners = [RingScanner(guest.ring(world.a), secret.encode())]
    scanners[0].start()
    time.sleep(QUIET_SECONDS)
    shown.doing("cpcctl migrate demo: host-a to host-b")
    begin = time.monotonic()
    incoming = IncomingRing(guest, world, secret)
    incoming.start()
    try:
        with shown.silent():
            migration = guest.migrate(world.a, world.b, bar=shown.terminal)
    finally:
        end = time.monotonic()
        incoming.join()
    time.sleep(QUIET_SECONDS)
    worked = client.finish()
    network = watched(capture.finish())
    scanners += incoming.scanners
    for scanner in scanners:
        scanner.stop()
    shown.doing("checking the guest's memory from inside")
    after = digest(guest, world.b)
    readings += after_move(world, parts, secret)
    faults = [f"the ring scan failed: {s.error}" for s in scanners if s.error]
    return Findings(
        platform=str(status.get("platform", "plain")),
        accel=str(status["accel"]),
        network="two hosts in network namespaces, joined by a bridge",
        migration=migration,
        client=worked,
        window=(begin, end),
        capture=network,
        control=seen,
        ring_hits=sum(s.hits for s in scanners),
        ring_passes=min((s.passes for s in scanners), default=0) if len(scanners) == 2 else 0,
        digest_before=before,
        digest_after=after,
        protection=protection(str(status.get("platform", "plain"))),
        readings=readings,
        faults=faults,
    )


class IncomingRing:
    """Starts to scan the destination's ring file as soon as there is one."""

    def __init__(self, guest: Guest, world: Place, secret: str) -> None:
        self.scanners: list[RingScanner] = []
        self._stop = False
        self._path = guest.ring(world.b)
        self._secret = secret.encode()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop:
            if wait_for_file(self._path, 0.2):
                scanner = RingScanner(self._path, self._secret)
                scanner.start()
                self.scanners.append(scanner)
                return

    def start(self) -> None:
        """Begin to look for the file."""
        self._thread.start()

    def join(self) -> None:
        """Stop looking for it; a scan that began goes on."""
        self._stop = True
        self._thread.join()


def protection(platform: str) -> str:
    """One line: what the platform does and does not protect."""
    from cpcctl.vm import protection as lines

    return lines.line(platform, "tcg")
