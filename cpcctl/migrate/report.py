# SPDX-License-Identifier: Apache-2.0
"""What `migrate` reports of a guest that moved."""

from __future__ import annotations

import time
from dataclasses import asdict

from cpcctl.abi_status import SUITE_NAMES
from cpcctl.migrate import converge
from cpcctl.migrate.source import Source


def result(source: Source) -> dict[str, object]:
    """What `migrate` reports when it went well.

    downtime_seconds counts from the freeze or, when --on-timeout pause
    stopped the guest before, from there; paused_seconds is that part of it.
    """
    moved = source.streams.bytes_moved if source.streams else 0
    last = time.monotonic() - source.entered  # of the phase that ends with this
    paused = 0.0 if source.paused_at is None else source.frozen_at - source.paused_at
    rounds, left_out = converge.kept(source.rounds)
    noted = source.job.record.progress  # by a controller that died
    return {
        "vm": source.name,
        "source": source.here,
        "destination": source.host,
        "phases": [
            {
                "name": entry["name"],
                "seconds": _rounded(last if entry["seconds"] is None else entry["seconds"]),
            }
            for entry in source.job.record.phases
        ],
        "rounds": [asdict(entry) for entry in rounds] or noted.get("rounds", []),
        "rounds_left_out": left_out or noted.get("rounds_left_out", 0),
        "streams": source.streams.count if source.streams else 0,
        "stream_bytes": [p.bytes_moved for p in source.streams.pumps] if source.streams else [],
        "streams_why": source.parallel.why,
        "total_seconds": _rounded(source.total),
        "downtime_seconds": _rounded(source.downtime),
        "paused_seconds": _rounded(paused),
        "bytes_sent": moved + source.device_bytes or noted.get("bytes_sent", 0),
        "suite": SUITE_NAMES.get(source.suite, "unknown"),
        "suite_why": source.chosen.why,
        "peer_attested": False,
        "protection": source.job.record.data.get("protection", ""),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
