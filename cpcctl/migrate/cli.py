# SPDX-License-Identifier: Apache-2.0
"""cpcctl migrate VM -: the ticket is read from stdin."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cpcctl.cli import arguments
from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.migrate.options import Options
from cpcctl.ui.check import Check, Row
from cpcctl.ui.context import Context

if TYPE_CHECKING:
    from cpcctl.link.ticket import Ticket


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of migrate."""
    parser.add_argument("vm", metavar="VM", help="name of the running VM")
    parser.add_argument(
        "ticket", metavar="TICKET", nargs="?",
        help="- reads from stdin the line that `cpcctl receive` printed there; the line itself "
        "is taken too, but every user of this host can see it",
    )
    parser.add_argument(
        "--ticket-file", metavar="FILE", help="read the ticket from FILE"
    )
    parser.add_argument(
        "--bandwidth", type=arguments.mebibytes, metavar="MIB",
        help="bandwidth limit in MiB/s (default: no limit)",
    )
    parser.add_argument(
        "--max-downtime", type=arguments.milliseconds, default=300.0, metavar="MS",
        help="maximum tolerated downtime in ms (default: 300)",
    )
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="SECONDS",
        help="time limit in seconds (default: none, while it makes progress within 150 s)",
    )
    parser.add_argument(
        "--on-timeout", choices=("cancel", "pause"), default="cancel",
        help="at the time limit cancel, or stop the guest and finish the copy (default: cancel)",
    )
    parser.add_argument(
        "--peer-timeout", type=arguments.seconds, default=10.0, metavar="SECONDS",
        help="silence after which the other host counts as lost (default: 10)",
    )
    parser.add_argument(
        "--parallel", type=arguments.whole(0, 16), default=0, metavar="N",
        help="data streams, each with an hvCPU on both sides (default: as many as there are "
        "idle cores for)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="run every check on both hosts, change nothing"
    )
    parser.add_argument(
        "--detach", action="store_true", help="print the job's id and do not wait for it"
    )


def read_ticket(name: str, word: str | None, file: str | None, ctx: Context) -> Ticket:
    """The ticket from where it was given. :raise CpcError: (2) nowhere, twice, or none."""
    import sys

    from cpcctl.host.files import open_plain
    from cpcctl.link import ticket as tickets

    if (word is None) == (file is None):
        raise CpcError(
            "no ticket is given" if word is None else "two tickets are given",
            exit_code=ExitCode.USAGE,
            hint=f"cpcctl migrate {name} - and paste the line that `cpcctl receive` printed",
        )
    if file is not None:
        try:
            with open_plain(Path(file)) as stream:
                return tickets.parse(stream.read(tickets.MAX_TEXT + 1).decode("ascii", "replace"))
        except OSError as error:
            raise CpcError(
                f"the ticket file {file} cannot be read",
                exit_code=ExitCode.USAGE,
                cause=reason(error),
            ) from error
    if word != "-":
        ctx.out.note(
            "warning: every user of this host can see a ticket in a command line; "
            f"better: cpcctl migrate {name} -"
        )
        return tickets.parse(str(word))
    if sys.stdin.isatty():
        ctx.out.note("paste the ticket that `cpcctl receive` printed:")
    return tickets.parse(sys.stdin.readline(tickets.MAX_TEXT + 1))


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Migrate a VM, or only check whether it could be."""
    from cpcctl.host.state import Folders, VmLock
    from cpcctl.jobs.store import UNSAVED, JobStore
    from cpcctl.migrate import follow
    from cpcctl.migrate.recovery import orphaned
    from cpcctl.ui import interrupts
    from cpcctl.vm import lifecycle, protection

    ticket = read_ticket(args.vm, args.ticket, args.ticket_file, ctx)
    options = Options(
        bandwidth=args.bandwidth * (1 << 20) if args.bandwidth else None,
        max_downtime=args.max_downtime / 1000,
        timeout=args.timeout,
        pause_on_timeout=args.on_timeout == "pause",
        peer_timeout=args.peer_timeout,
        parallel=args.parallel,
    )
    folders = Folders.of(ctx.settings)
    orphaned.refuse_orphan(ctx.settings, args.vm)
    spec = lifecycle.attach(ctx.settings, args.vm).spec
    with VmLock.take(folders, args.vm, "migrate") as lock:
        orphaned.refuse_orphan(ctx.settings, args.vm)  # again: now nobody else is at it
        if args.dry_run:
            return dry_run(ctx, args.vm, ticket.text(), options)
        data = {
            "ticket": ticket.text(),
            "options": options.document(),
            "protection": protection.line(spec.platform, spec.accel, debug=spec.snp.debug),
        }
        interrupts.defer()  # until follow() can cancel; what is detached is not cancelled at all
        job = JobStore(folders.jobs).create("migrate", args.vm, ctx.settings.host, **data)
        child = follow.start_worker(ctx.settings, job, lock)
    if args.detach and follow.wait_taken(ctx.settings, job.id, child):
        ctx.out.result({"job": job.id}, job.id)
        return 0
    record = follow.follow(ctx, job.id, child)
    if record.state == "running" and (child.returncode or 0) >= UNSAVED:
        return follow.report_unsaved(ctx, record, child.returncode - UNSAVED)
    if record.state == "running":
        ctx.out.note(f"the controller of job {job.id} has died; recovering")
        record = orphaned.recover(ctx.settings, job.id)
    return follow.report(ctx, record)


def dry_run(ctx: Context, name: str, ticket: str, options: Options) -> int:
    """Every check on both sides, as a table; 3 when one failed."""
    from cpcctl.jobs.store import Job, NoStore, Record
    from cpcctl.link import ticket as tickets
    from cpcctl.migrate.side import Side
    from cpcctl.migrate.source import Source
    from cpcctl.ui.check import listing
    from cpcctl.ui.output import columns
    from cpcctl.vm import lifecycle

    side = Side.attach(lifecycle.attach(ctx.settings, name))
    record = Record("", "migrate", name, ctx.settings.host, "running", "", 0, 0)
    job = Job(NoStore(), record, 0.0)
    source = Source(job, side, tickets.parse(ticket), options)
    try:
        source.connect()
        here, there = source.checks_here(), source.checks_there()
    finally:
        source.close()
    found = here + there
    failed = [f"{check.name} on {check.host}" for check in found if not check.ok]
    ctx.out.result(
        [check.document() for check in found],
        listing([*map(_row, here), *(_row(check, peer=True) for check in there)], columns()),
        code=ExitCode.REFUSED if failed else ExitCode.OK,
    )
    if failed:
        raise CpcError(
            "preflight refuses this migration",
            exit_code=ExitCode.REFUSED,
            cause=f"{len(failed)} of {len(found)} checks failed: {', '.join(failed)}",
        )
    return 0


def _row(check: Check, *, peer: bool = False) -> Row:
    """For listing(). peer: what the other host suggests is shown as its words."""
    cells = ("ok" if check.ok else "refused", check.host, check.name)
    if peer and check.fix:
        words = "".join(f'; it suggests: "{line}"' for line in check.fix.splitlines())
        return cells, f"{check.reason}{words}", None
    return cells, check.reason or "", check.fix
