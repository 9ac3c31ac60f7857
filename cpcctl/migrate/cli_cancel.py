# SPDX-License-Identifier: Apache-2.0
"""cpcctl job cancel."""

from __future__ import annotations

import argparse

from cpcctl.errors import ExitCode
from cpcctl.jobs.store import Record
from cpcctl.ui.context import Context

# Of a job that says so, this verb does too.
AS_THE_JOB = (None, ExitCode.UNPROVEN, ExitCode.LOST, ExitCode.ENDED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of job cancel."""
    parser.add_argument("id", metavar="JOB", help="id of the job")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Cancel a job, wait, and say where the VM is.

    0 when nothing of it runs any more and its VM is where it was; 1 when it went through
    instead; 5, 7 and 8 as the job itself.
    """
    from cpcctl.errors import CpcError
    from cpcctl.host.state import Folders
    from cpcctl.jobs.store import ENDED, INTERRUPTED, JobStore
    from cpcctl.migrate import follow
    from cpcctl.migrate.recovery import orphaned, stale

    record = JobStore(Folders.of(ctx.settings).jobs).load(args.id)
    if record.seen_state == "running":
        follow.request_cancel(record)
        record = follow.follow(ctx, args.id, code_of=_code)
    if record.seen_state == INTERRUPTED:
        if record.kind == "migrate":
            record = orphaned.recover(ctx.settings, args.id)
        else:
            record = stale.cancel(ctx.settings, args.id)
    if record.state == "done":
        raise CpcError(
            f"job {record.id} could not be cancelled: it is done",
            exit_code=ExitCode.FAILED,
            hint=f"cpcctl job show {record.id}",
        )
    if record.state not in ENDED:
        raise CpcError(
            f"job {record.id} has not ended",
            exit_code=ExitCode.BUSY,
            host=record.host,
            hint=f"cpcctl job wait {record.id}",
        )
    if record.exit_code in AS_THE_JOB:
        return follow.report(ctx, record)
    word = "cancelled" if record.state == "cancelled" else "over"
    words = (record.error or {}).get("message", "")
    ctx.out.result(record.public(), f"job {record.id} is {word}: {words}")
    return 0


def _code(record: Record) -> int:
    """The exit code when the job has ended."""
    if record.state == "done":
        return int(ExitCode.FAILED)
    if record.exit_code in AS_THE_JOB:
        return record.exit_code or int(ExitCode.UNPROVEN)
    return int(ExitCode.OK)
