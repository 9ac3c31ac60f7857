# SPDX-License-Identifier: Apache-2.0
"""Runs the scenarios: a fresh guest for every sample, the two sides in turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpcctl.bench.scenario import Sample, Scenario, result
from cpcctl.config.patience import patient
from cpcctl.demo import plain
from cpcctl.demo.console import Console
from cpcctl.demo.hosts import World
from cpcctl.demo.scene import Guest, Parts, call, cmdline, definition, hvcpu_count

READY_SECONDS = patient(240.0)
MIGRATE_SECONDS = patient(600.0)
# The same for both sides.
DOWNTIME_MS = 300


def one_of_ours(world: World, parts: Parts, scenario: Scenario, hvcpus: int) -> Sample:
    """Start, migrate, stop; the times that cpcctl reports for the job."""
    spec = definition(
        "bench", parts, cmdline(scenario.jobs), scenario.memory_mib, hvcpus, "tap0"
    )
    guest = Guest(world, spec)
    guest.start(world.a)
    where = world.a
    try:
        guest.wait_ready(world.a, READY_SECONDS)
        found = guest.migrate(world.a, world.b, "--max-downtime", str(DOWNTIME_MS))
        where = world.b
        if scenario.filled_mib:
            with guest.console(world.b) as console:
                if "CPC-CHECK ok" not in console.run("cpc-job check"):
                    raise RuntimeError("the guest's memory differs after our migration")
    finally:
        call(where, "vm", "stop", "bench", "--force")
    return Sample(float(found["total_seconds"]), float(found["downtime_seconds"]), found)


def one_of_theirs(world: World, parts: Parts, scenario: Scenario) -> Sample:
    """The same guest on the same binary without the cpc device."""
    guest = parts.plain(cmdline(scenario.jobs), scenario.memory_mib, "tap0", full=True)
    source, destination = plain.pair(world, guest)
    try:
        with Console(source.console) as console:
            console.wait_ready(source.log, READY_SECONDS)
        found = plain.migrate(source, destination, DOWNTIME_MS, MIGRATE_SECONDS)
    finally:
        source.close()
        destination.close()
    return Sample(found.total_seconds, found.downtime_seconds)


def run(
    cache: Path,
    settings: dict[str, str],
    parts: Parts,
    scenarios: list[Scenario],
    repeat: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measure every scenario. Raises NoNamespaces, CpcError, RuntimeError."""
    hvcpus = hvcpu_count()
    results = []
    for scenario in scenarios:
        ours: list[Sample] = []
        qemu: list[Sample] = []
        for turn in range(1, repeat + 1):
            with World(cache, settings) as world:
                say(f"{scenario.name}: {turn} of {repeat}, ours")
                ours.append(one_of_ours(world, parts, scenario, hvcpus))
                say(f"{scenario.name}: {turn} of {repeat}, plain QEMU")
                qemu.append(one_of_theirs(world, parts, scenario))
        results.append(result(scenario, parts.accel, hvcpus, ours, qemu))
    return results
