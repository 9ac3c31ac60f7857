# SPDX-License-Identifier: Apache-2.0
"""cpcctl job wait."""

from __future__ import annotations

import argparse

from cpcctl.ui.context import Context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of job wait."""
    parser.add_argument("id", metavar="JOB", help="id of the job")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Follow a job to its end; its result, its error and its exit code.

    75 when nobody runs the job any more: it has not ended, and can be resumed. Ctrl-C ends the
    waiting alone, and is 75 too.
    """
    from cpcctl.errors import CpcError, ExitCode
    from cpcctl.migrate import follow

    try:
        record = follow.follow(ctx, args.id, cancels=False)
    except KeyboardInterrupt:
        raise CpcError(
            f"job {args.id} was not waited for to its end; it goes on",
            exit_code=ExitCode.BUSY,
            hint=f"cpcctl job wait {args.id}\ncpcctl job cancel {args.id}",
        ) from None
    if record.state == "running":
        raise CpcError(
            f"job {record.id} lost its controller in phase {record.phase}; it has not ended",
            exit_code=ExitCode.BUSY,
            host=record.host,
            hint=f"cpcctl job resume {record.id}",
        )
    return follow.report(ctx, record)
