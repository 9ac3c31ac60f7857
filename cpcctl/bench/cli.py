# SPDX-License-Identifier: Apache-2.0
"""cpcctl bench."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cpcctl.cli import arguments
from cpcctl.errors import CpcError, ExitCode, quoted
from cpcctl.ui.context import Context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of bench."""
    parser.add_argument(
        "--scenario",
        default="idle-2g,filled-2g",
        metavar="NAME[,NAME]",
        help="scenarios to measure (default: idle-2g,filled-2g)",
    )
    parser.add_argument(
        "--repeat",
        type=arguments.whole(1, 1000),
        default=3,
        metavar="N",
        help="migrations of each kind (default: 3)",
    )
    arguments.accel(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Measure both sides in turn and print a table."""
    import subprocess

    from cpcctl.bench import run as bench
    from cpcctl.bench.scenario import SCENARIOS, processor_name, text
    from cpcctl.demo.console import ConsoleError
    from cpcctl.demo.hosts import NoNamespaces
    from cpcctl.demo.scene import Parts
    from cpcctl.ui.ticker import Ticker

    names = args.scenario.split(",")
    for name in names:
        if name not in SCENARIOS:
            raise CpcError(
                f"there is no scenario {quoted(name)}",
                exit_code=ExitCode.USAGE,
                hint="--scenario " + ",".join(SCENARIOS),
            )
    parts = Parts.of(ctx.settings).choose(ctx.settings, args.accel, ctx.out.note)
    environment = parts.environment(ctx.settings.firmware)
    try:
        with Ticker(ctx.out.stderr, ctx.settings.progress) as shown:
            results = bench.run(
                ctx.settings.cache_dir,
                environment,
                parts,
                [SCENARIOS[name] for name in names],
                args.repeat,
                shown.doing,
            )
    except NoNamespaces as error:
        raise CpcError(
            "bench needs network namespaces",
            exit_code=ExitCode.REFUSED,
            cause=str(error),
            hint="sudo cpcctl bench",
        ) from error
    except (ConsoleError, RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
        raise CpcError("a measurement failed", cause=str(error)) from error
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    processor = processor_name(cpuinfo, len(os.sched_getaffinity(0)))
    ctx.out.result({"processor": processor, "results": results}, text(results, processor))
    return int(ExitCode.OK)
