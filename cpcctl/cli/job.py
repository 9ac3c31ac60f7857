# SPDX-License-Identifier: Apache-2.0
"""cpcctl job list and show."""

from __future__ import annotations

import argparse

from cpcctl.host.state import Folders
from cpcctl.jobs.store import JobStore, Record
from cpcctl.ui.context import Context
from cpcctl.ui.output import pairs, table

Pairs = list[tuple[str, object]]


def list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of job list."""
    parser.add_argument("--vm", metavar="VM", help="only jobs of this VM")


def list_run(args: argparse.Namespace, ctx: Context) -> int:
    """List jobs, finished ones too, oldest first."""
    records, damaged = JobStore(Folders.of(ctx.settings).jobs).read_all(args.vm)
    for error in damaged:
        ctx.out.note(f"left out: {error.message}")
    rows = [
        (r.id, r.kind, r.vm, r.seen_state, r.phase, "-" if r.exit_code is None else r.exit_code)
        for r in records
    ]
    columns = ("ID", "KIND", "VM", "STATE", "PHASE", "EXIT")
    ctx.out.result([record.public() for record in records], table(columns, rows))
    return 0


def show_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of job show."""
    parser.add_argument("id", metavar="JOB", help="id of the job")


def show_run(args: argparse.Namespace, ctx: Context) -> int:
    """Show one job with its phases and its result."""
    record = JobStore(Folders.of(ctx.settings).jobs).load(args.id)
    ctx.out.result(record.public(), describe(record))
    return 0


def describe(record: Record) -> str:
    """A job for people, several lines."""
    from cpcctl.migrate import follow

    items: Pairs = [
        ("job", record.id),
        ("kind", record.kind),
        ("vm", record.vm),
        ("host", record.host),
        ("state", record.seen_state),
        ("created", record.created),
        ("finished", record.finished or "-"),
    ]
    for phase in record.phases:
        taken = phase.get("seconds")
        items.append((f"phase {phase['name']}", "now" if taken is None else f"{taken:.3f} s"))
    if not record.result:
        items += follow.standing(record.progress)
    elif record.kind == "migrate":
        items += follow.summary(record.result)
    else:
        items += record.result.items()
    if record.error:
        items.append(("error", record.error.get("message")))
        if record.error.get("cause"):
            items.append((f"cause ({record.error.get('host')})", record.error["cause"]))
    rounds = (record.result or record.progress).get("rounds", [])
    return "\n".join(filter(None, (pairs(items), follow.rounds_table(rounds))))
