# SPDX-License-Identifier: Apache-2.0
"""What moving an SEV-SNP guest costs, beside the same guest of the platform plain.

    python -m tests.snp.bench_migration [--hops N] [--memory MIB] [--filled MIB]

Both guests hold the same random data, write to other memory, and hop in turn between two
hosts on this machine; the medians' ratio. A measurement, not a test, but the guests' memory
is checked at the end.
"""

from __future__ import annotations

import argparse
import json

from cpcctl.demo.console import Console
from tests.conftest import Built
from tests.patience import patient
from tests.snp.bench import PLATFORMS, line
from tests.twohosts.pair import Pair, finish

TIMES = ("total_seconds", "downtime_seconds")
NAME = "bench"
READY_SECONDS = 300.0
WRITER_MIB = 64  # in the memory that it writes to all the time
# It writes faster than the copy comes along, and leaves little of the machine to others.
ENOUGH = ("--max-downtime", "10000")
PATIENT = ("--peer-timeout", "60")
LIMIT = 1.5


def console(pair: Pair) -> Console:
    """The guest's shell, on the host that runs it."""
    return Console(pair.a.folder / "r/vms" / NAME / "console.sock")


def start(pair: Pair, platform: str, memory_mib: int, filled_mib: int) -> None:
    """A guest with 2 vCPUs and 2 hvCPUs, filled, that writes."""
    pair.vm(
        NAME,
        platform=platform,
        memory=f"{memory_mib}M",
        vcpus=2,
        hvcpus=2,
        initrd=str(pair.built.guest_initrd),
        append=f"console=ttyS0 quiet cpc.job=fill:{filled_mib},writer:{WRITER_MIB}",
    )
    with console(pair) as shell:
        log = pair.a.folder / "s/vms" / NAME / "console.log"
        shell.wait_ready(log, patient(READY_SECONDS))


def hop(pair: Pair) -> dict[str, float]:
    """Move it to the other host; TIMES as cpcctl reports them."""
    receive, ticket = pair.receive(*PATIENT)
    moved = finish(pair.migrate(NAME, ticket, "--format", "json", *ENOUGH, *PATIENT), 0)
    finish(receive, 0)
    pair.a, pair.b = pair.b, pair.a
    result = json.loads(moved.stdout)
    return {name: float(result[name]) for name in TIMES}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="time of a migration")
    parser.add_argument("--hops", type=int, default=5, help="of each guest (5)")
    parser.add_argument("--memory", type=int, default=1024, help="MiB (1024)")
    parser.add_argument("--filled", type=int, default=640, help="MiB of random data (640)")
    asked = parser.parse_args()
    print(
        f"migration of a guest with {asked.memory} MiB, {asked.filled} MiB of random data and a "
        f"writer, median of {asked.hops} (lowest to highest; wanted: at most {LIMIT}x)"
    )
    pairs: dict[str, Pair] = {}
    taken: dict[str, list[dict[str, float]]] = {platform: [] for platform in PLATFORMS}
    try:
        for platform in PLATFORMS:
            pairs[platform] = Pair(Built.find())
            start(pairs[platform], platform, asked.memory, asked.filled)
        for _ in range(asked.hops):
            for platform, pair in pairs.items():
                taken[platform].append(hop(pair))
        for pair in pairs.values():
            with console(pair) as shell:
                assert "CPC-WRITER ok" in shell.run("cpc-job written")
                assert "CPC-CHECK ok" in shell.run("cpc-job check")
    finally:
        for pair in pairs.values():
            pair.close()
    for name in TIMES:
        seconds = {platform: [hop[name] for hop in hops] for platform, hops in taken.items()}
        print(line(name.removesuffix("_seconds"), seconds), flush=True)


if __name__ == "__main__":
    main()
