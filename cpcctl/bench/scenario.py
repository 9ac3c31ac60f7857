# SPDX-License-Identifier: Apache-2.0
"""What is measured, and how samples become a result. Pure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cpcctl.ui.output import pairs, table


@dataclass(frozen=True)
class Scenario:
    """A guest. Sizes in MiB; filled is random data that the guest holds."""

    name: str
    memory_mib: int
    filled_mib: int

    @property
    def jobs(self) -> str:
        """For the guest's command line."""
        return f"fill:{self.filled_mib}" if self.filled_mib else ""


SCENARIOS = {
    s.name: s for s in (Scenario("idle-2g", 2048, 0), Scenario("filled-2g", 2048, 1000))
}


@dataclass(frozen=True)
class Sample:
    """One migration, in seconds. chosen: of what CHOSEN names, what `migrate` reported."""

    total: float
    downtime: float
    chosen: Mapping[str, Any] = field(default_factory=dict)


# What cpcctl chose for a migration, and why.
CHOSEN = ("suite", "suite_why", "streams", "streams_why")


def side(samples: list[Sample]) -> dict[str, Any]:
    """Medians, and beside them the same two keys under min and under max."""
    totals, downtimes = [s.total for s in samples], [s.downtime for s in samples]

    def both(choose: Callable[[list[float]], float]) -> dict[str, float]:
        return {
            "total_seconds": round(choose(totals), 4),
            "downtime_seconds": round(choose(downtimes), 4),
        }

    return {**both(statistics.median), "min": both(min), "max": both(max)}


def ratio(ours: float, theirs: float) -> float | None:
    """How many times as long ours takes; None where theirs took no time."""
    return round(ours / theirs, 3) if theirs > 0 else None


def result(
    scenario: Scenario, accel: str, hvcpus: int, ours: list[Sample], qemu: list[Sample]
) -> dict[str, Any]:
    """One object of `results`."""
    mine, other = side(ours), side(qemu)
    return {
        "scenario": scenario.name,
        "accel": accel,
        "memory_mib": scenario.memory_mib,
        "filled_mib": scenario.filled_mib,
        "hvcpus": hvcpus,
        "chosen": {name: ours[-1].chosen.get(name) for name in CHOSEN},
        "ours": mine,
        "qemu": other,
        "ratio": {
            "total": ratio(mine["total_seconds"], other["total_seconds"]),
            "downtime": ratio(mine["downtime_seconds"], other["downtime_seconds"]),
        },
    }


def text(results: list[dict[str, Any]], processor: str) -> str:
    """The table for people, and below it what was chosen, and on which processor."""
    rows = []
    for entry in results:
        for name in ("total", "downtime"):
            key = f"{name}_seconds"
            cells = [
                f"{entry[who][key]:.3f} s ({entry[who]['min'][key]:.3f} to "
                f"{entry[who]['max'][key]:.3f})"
                for who in ("ours", "qemu")
            ]
            times = entry["ratio"][name]
            head = (entry["scenario"], entry["accel"], name)
            rows.append((*head, *cells, "-" if times is None else f"{times}x"))
    shown = table(("SCENARIO", "ACCEL", "TIME", "OURS", "PLAIN QEMU", "RATIO"), rows)
    below = [("processor", processor)]
    for entry in results:
        for name in ("suite", "streams"):
            value, why = entry["chosen"][name], entry["chosen"][f"{name}_why"]
            if value is not None:
                shown_why = f" ({why})" if why else ""
                below.append((f"{entry['scenario']}, {name}", f"{value}{shown_why}"))
    return f"{shown}\n\n{pairs(below)}"


def processor_name(cpuinfo: str, count: int) -> str:
    """From /proc/cpuinfo. count: of the processors that this process may use."""
    found = re.search(r"^model name\s*: (.+)$", cpuinfo, re.M)
    name = found[1].strip() if found else "unknown"
    return f"{name}, {count} {'CPU' if count == 1 else 'CPUs'}"
