# SPDX-License-Identifier: Apache-2.0
"""cpcctl job resume."""

from __future__ import annotations

import argparse

from cpcctl.ui.context import Context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of job resume."""
    parser.add_argument("id", metavar="JOB", help="id of a job that lost its controller")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """A migration: undo it before the commit, finish it after. A receive: listen again."""
    from cpcctl.errors import CpcError, ExitCode
    from cpcctl.host.state import Folders
    from cpcctl.jobs.store import JobStore
    from cpcctl.migrate import follow, receiving
    from cpcctl.migrate.recovery import orphaned

    store = JobStore(Folders.of(ctx.settings).jobs)
    record = store.load(args.id)
    if record.seen_state == "running":
        raise CpcError(
            f"job {record.id} has a controller",
            exit_code=ExitCode.BUSY,
            hint=f"cpcctl job wait {record.id}",
        )
    if record.kind == "receive":
        # One whose source was not told that the guest arrived has kept its secret; what became
        # of the guest since is no matter of this job.
        if "secret" not in record.data:
            return follow.report(ctx, record)
        return receiving.resume(ctx, store.adopt(record))
    return follow.report(ctx, orphaned.recover(ctx.settings, record.id))
