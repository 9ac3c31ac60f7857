# SPDX-License-Identifier: Apache-2.0
"""cpcctl doctor."""

from __future__ import annotations

import argparse
from dataclasses import replace

from cpcctl.cli import arguments
from cpcctl.doctor.checks import FAIL, check_all
from cpcctl.errors import ExitCode
from cpcctl.ui.context import Context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of doctor."""
    arguments.accel(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Show every check; 3 when one failed."""
    settings = replace(ctx.settings, accel=args.accel) if args.accel else ctx.settings
    found = check_all(settings)
    bad = any(check.state == FAIL for check in found)
    lines = []
    for check in found:
        lines.append(f"{check.state:<4}  {check.name:<12}  {check.detail}")
        if check.fix:
            lines.append(f"{'':<6}{'':<12}  try: {check.fix}")
    ctx.out.result(
        {"ok": not bad, "checks": [check.as_dict() for check in found]}, "\n".join(lines)
    )
    return int(ExitCode.REFUSED if bad else ExitCode.OK)
