# SPDX-License-Identifier: Apache-2.0
"""cpcctl job cancel."""

from __future__ import annotations

import argparse

from cpcctl.ui.context import Context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of job cancel."""
    parser.add_argument("id", metavar="JOB", help="id of the job")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Cancel a job, wait, and say where the VM is.

    0 when it is cancelled or was before; 1 when it went through instead.
    """
    from cpcctl.errors import CpcError, ExitCode
    from cpcctl.host.state import Folders
    from cpcctl.jobs.store import INTERRUPTED, JobStore
    from cpcctl.migrate import follow
    from cpcctl.migrate.recovery import orphaned

    record = JobStore(Folders.of(ctx.settings).jobs).load(args.id)
    if record.seen_state == "running":
        follow.request_cancel(record)
        record = follow.follow(ctx, args.id)
    if record.kind == "migrate" and record.seen_state == INTERRUPTED:
        record = orphaned.recover(ctx.settings, args.id)
    if record.state == "done":
        raise CpcError(
            f"job {record.id} could not be cancelled: it is done",
            exit_code=ExitCode.FAILED,
            hint=f"cpcctl job show {record.id}",
        )
    if record.exit_code in (ExitCode.UNPROVEN, ExitCode.LOST):
        return follow.report(ctx, record)
    words = (record.error or {}).get("message", "")
    ctx.out.result(record.public(), f"job {record.id} is cancelled: {words}")
    return 0
