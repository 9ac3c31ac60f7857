# SPDX-License-Identifier: Apache-2.0
"""cpcctl doctor."""

from __future__ import annotations

import argparse
from dataclasses import replace

from cpcctl.cli import arguments
from cpcctl.doctor.checks import FAIL, check_all
from cpcctl.errors import ExitCode
from cpcctl.ui.check import listing
from cpcctl.ui.context import Context
from cpcctl.ui.output import columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of doctor."""
    arguments.accel(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Show every check; 3 when one failed."""
    settings = replace(ctx.settings, accel=args.accel) if args.accel else ctx.settings
    found = check_all(settings)
    bad = any(check.state == FAIL for check in found)
    rows = [((check.state, check.name), check.reason or check.detail or "", check.fix)
            for check in found]
    ctx.out.result(
        {"ok": not bad, "checks": [check.document() for check in found]},
        listing(rows, columns()),
    )
    return int(ExitCode.REFUSED if bad else ExitCode.OK)
