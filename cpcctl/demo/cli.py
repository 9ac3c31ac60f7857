# SPDX-License-Identifier: Apache-2.0
"""cpcctl demo."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cpcctl.cli import arguments
from cpcctl.errors import CpcError, ExitCode
from cpcctl.ui.context import Context

if TYPE_CHECKING:
    from cpcctl.demo.report import Findings
    from cpcctl.demo.scene import Parts

PLATFORMS = ("plain", "sev-snp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of demo."""
    parser.add_argument(
        "--platform",
        choices=PLATFORMS,
        help="of the guest that is migrated (default: sev-snp, which is emulated; plain where "
        "accel is kvm)",
    )
    arguments.accel(parser)


def platform(flag: str | None, accel: str) -> str:
    """Of the guest. accel: what a flag or the setting says; SEV-SNP guests have no hvCPUs with
    KVM yet, so whoever asks for it gets a plain one."""
    return flag or ("plain" if accel == "kvm" else "sev-snp")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Run the demonstration; 0 only if everything that must hold did."""
    import subprocess

    from cpcctl.demo import report
    from cpcctl.demo.console import ConsoleError
    from cpcctl.demo.scene import Parts

    parts = Parts.of(ctx.settings)
    if platform(args.platform, args.accel or ctx.settings.accel) == "plain":
        parts = parts.choose(ctx.settings, args.accel, ctx.out.note)
    else:
        parts = parts.confidential(ctx.settings, args.accel)
    try:
        found = _play(ctx, parts)
    except (ConsoleError, RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
        raise CpcError("the demo could not be run to its end", cause=str(error)) from error
    ctx.out.result(report.document(found), report.text(found))
    return int(ExitCode.FAILED if report.problems(found) else ExitCode.OK)


def _play(ctx: Context, parts: Parts) -> Findings:
    from cpcctl.demo import local
    from cpcctl.demo import run as demo
    from cpcctl.demo.hosts import NoNamespaces, World
    from cpcctl.ui.ticker import Ticker

    settings = parts.environment(ctx.settings.firmware)
    with Ticker(ctx.out.stderr, ctx.settings.progress) as shown:
        try:
            world = World(ctx.settings.cache_dir, settings)
        except NoNamespaces as error:
            shown.say(f"no namespaces for this user ({error}): using a user-mode network")
            with local.LocalPlace(ctx.settings.cache_dir, settings) as place:
                return local.run(place, parts, shown)
        with world:
            return demo.run(world, parts, shown)
