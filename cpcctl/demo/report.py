# SPDX-License-Identifier: Apache-2.0
"""What the demo found out, as one object and as text. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cpcctl.migrate.follow import rounds_table
from cpcctl.ui.output import pairs, size, table


@dataclass(frozen=True)
class Watched:
    """What a capture or a scan saw. missed: packets it could not look at."""

    hits: int
    bytes: int
    missed: int = 0


# What came when the host asked QEMU for a guest's memory, and searched it for a secret.
SECRET = "the secret"
SCRAMBLED = "scrambled"
REFUSED = "refused"
NOTHING = "no secret"  # and nothing scrambled, so it was looked for in the wrong place

PLAIN_GUEST, SNP_GUEST, MOVED_GUEST = "plain guest", "SEV-SNP guest", "migrated guest"


@dataclass(frozen=True)
class Reading:
    """guest: which, for people; door: the QMP command; answer: one of the above."""

    guest: str
    door: str
    answer: str


@dataclass(frozen=True)
class Findings:
    """Everything measured. Times in seconds, clock readings monotonic.

    migration: what `cpcctl migrate --format json` printed
    client:    what the client reported, see client.py
    window:    clock when the migration began and ended
    control:   what the same capture saw of a plaintext migration
    ring_hits, ring_passes: the ring files of both hosts together
    readings:  what the host could read of a plain guest, of an SEV-SNP guest, and of the
               one that moved; of a demo with an SEV-SNP guest only
    """

    platform: str
    accel: str
    network: str
    migration: dict[str, Any]
    client: dict[str, Any]
    window: tuple[float, float]
    capture: Watched
    control: Watched
    ring_hits: int
    ring_passes: int
    digest_before: str
    digest_after: str
    protection: str
    readings: list[Reading] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def split(tenths: list[list[int]], window: tuple[float, float]) -> tuple[int, int, int]:
    """Operations before, during and after, from counts by tenth of a second."""
    begin, end = int(window[0] * 10), int(window[1] * 10)
    before = sum(count for tenth, count in tenths if tenth < begin)
    after = sum(count for tenth, count in tenths if tenth > end)
    during = sum(count for tenth, count in tenths if begin <= tenth <= end)
    return before, during, after


def rounds_of(migration: dict[str, Any]) -> list[dict[str, Any]]:
    """The rounds a migration reported, in order."""
    return [dict(entry) for entry in migration.get("rounds", [])]


def phases_of(migration: dict[str, Any]) -> list[dict[str, Any]]:
    """name and seconds of each phase; one still open when the job was shown
    lasts to the end of the job."""
    total = migration.get("total_seconds") or 0.0
    out = []
    for entry in migration.get("phases", []):
        seconds = entry.get("seconds")
        if seconds is None:
            seconds = max(0.0, round(total - entry.get("started", total), 6))
        out.append({"name": entry["name"], "seconds": seconds})
    return out


def document(found: Findings) -> dict[str, Any]:
    """The object for --format json."""
    before, during, after = split(found.client.get("tenths", []), found.window)
    rounds = rounds_of(found.migration)
    return {
        "platform": found.platform,
        "accel": found.accel,
        "network": found.network,
        "phases": phases_of(found.migration),
        "rounds": rounds[-1]["number"] if rounds else 0,
        "round_details": rounds,
        "total_seconds": found.migration.get("total_seconds"),
        "downtime_seconds": found.migration.get("downtime_seconds"),
        "bytes_sent": found.migration.get("bytes_sent"),
        "client": {
            "operations": found.client["operations"],
            "operations_before": before,
            "operations_during": during,
            "operations_after": after,
            "mismatched_reads": found.client["mismatched_reads"],
            "broken_connections": found.client["broken_connections"],
            "longest_pause_seconds": found.client["longest_pause_seconds"],
        },
        "secret_seen_in_transit": found.capture.hits > 0 or found.ring_hits > 0,
        "transit": {
            "captured_bytes": found.capture.bytes,
            "missed_packets": found.capture.missed,
            "ring_passes": found.ring_passes,
            "seen_in_plaintext_migration": found.control.hits > 0,
        },
        "guest_memory_verified": verified(found),
        "host_reads": [vars(reading) for reading in found.readings],
        "protection": found.protection,
        "problems": problems(found),
    }


def verified(found: Findings) -> bool:
    """The digest made inside the guest is there and the same on both sides."""
    return bool(found.digest_before) and found.digest_before == found.digest_after


def problems(found: Findings) -> list[str]:
    """Why the demo failed; empty when everything held."""
    client, capture = found.client, found.capture
    moved = found.migration.get("bytes_sent") or 0
    rules = [
        (client["mismatched_reads"] != 0, "the client read something it had not written"),
        (client["broken_connections"] != 0, "the client's connection broke"),
        (client["operations"] == 0, "the client did nothing"),
        (capture.hits > 0, "the secret crossed the network"),
        (found.ring_hits > 0, "the secret was in a ring"),
        (capture.missed > 0, f"the capture missed {capture.missed} packets, so it proves nothing: "
         "this machine is too busy or has too little free memory; end other programs, try again"),
        (capture.bytes < moved, "the capture saw less than was sent, so it proves nothing"),
        (found.ring_passes == 0, "no ring file was looked at, so nothing is proven about it"),
        (found.control.hits == 0, "the check did not find the secret in a plaintext migration"),
        (not verified(found), "the guest's memory is not what it was"),
    ]
    return found.faults + [text for broken, text in rules if broken] + _misread(found)


def _misread(found: Findings) -> list[str]:
    """What is wrong with the answers of the host's doors."""
    if found.platform == "plain":
        return []
    bad = [
        f"{each.door} of the {each.guest} gave: {each.answer}"
        for each in found.readings
        if (each.answer == SECRET) != (each.guest == PLAIN_GUEST)
        or each.answer == NOTHING
    ]
    lacking = {PLAIN_GUEST, SNP_GUEST, MOVED_GUEST} - {each.guest for each in found.readings}
    return bad + [f"nobody tried to read the {guest}" for guest in sorted(lacking)]


def _side_by_side(readings: list[Reading]) -> str:
    """A line a door, a column a guest."""
    guests = list(dict.fromkeys(each.guest for each in readings))
    doors = list(dict.fromkeys(each.door for each in readings))
    answers = {(each.door, each.guest): each.answer for each in readings}
    return table(
        ("WHAT THE HOST READS BY", *(guest.upper() for guest in guests)),
        [(door, *(answers.get((door, guest), "-") for guest in guests)) for door in doors],
    )


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} s"


def text(found: Findings) -> str:
    """The report for people."""
    data = document(found)
    client, transit = data["client"], data["transit"]
    parts = [
        table(("PHASE", "TIME"), [(p["name"], _seconds(p["seconds"])) for p in data["phases"]])
    ]
    if data["round_details"]:
        parts.append(rounds_table(data["round_details"]))
    if found.readings:
        parts.append(_side_by_side(found.readings))
    yes, no = "yes", "no"
    parts.append(
        pairs(
            [
                ("total time", _seconds(data["total_seconds"])),
                ("downtime", _seconds(data["downtime_seconds"])),
                ("bytes moved", size(data["bytes_sent"] or 0)),
                ("client operations", f"{client['operations_before']} before, "
                 f"{client['operations_during']} during, {client['operations_after']} after"),
                ("longest pause", _seconds(client["longest_pause_seconds"])),
                ("reads that differ", client["mismatched_reads"]),
                ("broken connections", client["broken_connections"]),
                ("secret in transit", yes if data["secret_seen_in_transit"] else no),
                ("  looked at", f"{size(transit['captured_bytes'])} on the network, "
                 f"{transit['missed_packets']} packets missed; "
                 f"the rings {transit['ring_passes']} times"),
                ("  in plain QEMU's", yes if transit["seen_in_plaintext_migration"] else no),
                ("guest memory", "verified" if data["guest_memory_verified"] else "NOT verified"),
                ("accelerator", found.accel),
                ("network", found.network),
                ("platform", found.protection),
            ]
        )
    )
    bad = data["problems"]
    parts.append("FAILED: " + "; ".join(bad) if bad else "All checks passed.")
    return "\n\n".join(parts)
