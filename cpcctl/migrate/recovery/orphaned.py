# SPDX-License-Identifier: Apache-2.0
"""Migrations that lost their controller: find them, bring their guest to one side.

What the job file says last and both firmwares decide. A machine that cannot be asked
and is not proven gone leaves the place open: then nothing is touched (exit 5).
"""

from __future__ import annotations

import contextlib
import os

from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.state import Folders, VmLock
from cpcctl.jobs.store import INTERRUPTED, RUNNING, Damaged, Job, JobStore, Record
from cpcctl.link import rpc
from cpcctl.link import ticket as tickets
from cpcctl.migrate import worker
from cpcctl.migrate.machine import DestinationFact, Phase, SourceFact
from cpcctl.migrate.machine import settle as decide
from cpcctl.migrate.options import Options
from cpcctl.migrate.recovery import outcome, rollback, settle
from cpcctl.migrate.recovery.outcome import Outcome, Place
from cpcctl.migrate.side import Absent, Side
from cpcctl.migrate.source import Source
from cpcctl.ui import interrupts
from cpcctl.vm import live, registry

# In a job's data: the VM was started here again by somebody who gave that guest up.
GIVEN_UP = "given_up"


def orphan(settings: Settings, name: str) -> Record | None:
    """The newest job of a VM whose controller died or whose end is not proven.

    A receive too, whose guest may be the only one by now and is not known to have run.
    """
    for record in reversed(JobStore(Folders.of(settings).jobs).list(name)):
        unsettled = record.seen_state == INTERRUPTED or record.state == "unproven"
        arriving = record.data.get("launched") == name and "running" not in record.data
        ours = record.kind == "migrate" and not record.data.get(GIVEN_UP)
        if unsettled and (ours or arriving):
            return record
    return None


def remains(settings: Settings, name: str) -> Record | None:
    """The job after which what stands frozen here is of no use: its guest is proven lost, or
    ended by itself on the destination."""
    jobs = JobStore(Folders.of(settings).jobs).list(name)
    # What stands frozen may be of one that is at work or cannot be read, and be needed.
    if any(job.seen_state == RUNNING for job in jobs) or unreadable(settings, name) is not None:
        return None
    # Not the one with the newest id: a receive may have waited for long before its guest came.
    newest = max(jobs, key=lambda job: (job.finished or job.updated, job.id), default=None)
    if newest is None or newest.kind != "migrate":
        return None
    return newest if newest.exit_code in (ExitCode.LOST, ExitCode.ENDED) else None


def unreadable(settings: Settings, name: str) -> Damaged | None:
    """A damaged job file that may say that the VM moved, or that a job of it is not settled.

    One from before its newest migration, or before it last arrived here, says nothing of today.
    """
    records, damaged = JobStore(Folders.of(settings).jobs).read_all(name)
    here = [r.id for r in records if r.kind == "migrate" or r.state == "done"]
    newest = max(here, default="")
    return next((error for error in reversed(damaged) if error.job > newest), None)


def refuse_orphan(settings: Settings, name: str, way: str | None = None) -> None:
    """Call it under the VM's lock. way: what else there is to do, for the hint.

    :raise CpcError: (75) a job of this VM must be settled first; (5) that cannot be told.
    """
    record = orphan(settings, name)
    if record is not None:
        raise CpcError(
            f"job {record.id} of VM {name} has not been settled",
            exit_code=ExitCode.BUSY,
            host=settings.host,
            cause=f"it stopped in phase {record.phase}",
            hint="\n".join(filter(None, (f"cpcctl job resume {record.id}", way))),
        )
    error = unreadable(settings, name)
    if error is not None:
        raise error


def recover(settings: Settings, job_id: str) -> Record:
    """Undo a migration that has not committed, finish one that has.

    Returns the job as it ended. :raise CpcError: (75) somebody is at it,
    (2) it is not a job that can be resumed, (5) its file cannot be written.
    """
    store = JobStore(Folders.of(settings).jobs)
    record = store.load(job_id)
    if record.kind != "migrate":
        raise CpcError(f"job {job_id} is not a migration", exit_code=ExitCode.USAGE)
    with VmLock.take(Folders.of(settings), record.vm, f"job resume {job_id}"), interrupts.without():
        record = store.load(job_id)
        # One that this process made, and whose worker died before it took it over, is nobody's.
        ours = record.state == RUNNING and record.pid == os.getpid()
        if record.seen_state != INTERRUPTED and record.state != "unproven" and not ours:
            return record
        was = record.phase
        job = store.adopt(record)
        record.error = None
        record.exit_code = None
        when = f"in phase {was}" if was else "before it began"
        cause = CpcError(f"the controller of job {job_id} died {when}", host=settings.host)
        source = adopt(settings, job)
        try:
            source.phase = Phase[was.upper()] if was.upper() in Phase.__members__ else Phase.COPY
            worker.close_job(settings, source, _settle(source, cause))
        finally:
            source.close()
    # Not what its file says: that may not be writable any more.
    return job.record


def adopt(settings: Settings, job: Job) -> Source:
    """As worker.make_source, also when its machine cannot be had."""
    record = job.record
    machine: Side | Absent
    try:
        machine = Side.attach(registry.attach(settings, record.vm))
    except CpcError as error:
        paths = Folders.of(settings).vm(record.vm)
        machine = Absent(paths, registry.gone(settings, record.vm), error)
    ticket, options = tickets.parse(record.data["ticket"]), Options.read(record.data["options"])
    return Source(job, machine, ticket, options)


def _settle(source: Source, cause: CpcError) -> Outcome:
    ours = settle.ask_source(source)
    if isinstance(source.machine, Absent) and not source.gone:
        return _cannot_be_asked(source, source.machine)
    if ours not in (SourceFact.HOLDS, SourceFact.RELEASED, SourceFact.DEAD):
        return settle.settle_now(source, cause)
    if ours is SourceFact.DEAD and "prepared" in source.job.record.data:
        return settle.settle_now(source, cause)
    # It was never given away. The destination is told if it can be reached; else its grace
    # ends it.
    with contextlib.suppress(CpcError, rpc.LinkLost, OSError):
        source.connect()
    if ours is SourceFact.DEAD:
        return _never_given_away(source, cause)
    step = decide(ours, DestinationFact.UNREACHABLE, commit_token=False)
    try:
        return settle.take(source, step, b"", DestinationFact.UNREACHABLE, cause)
    except (CpcError, OSError) as trouble:
        return outcome.unproven(cause, source.name, source.job.id, trouble)


def _never_given_away(source: Source, cause: CpcError) -> Outcome:
    """Its QEMU is gone, and with it the only guest, unless that has ended by itself."""
    by_guest = source.ending.by_guest
    settle.tell_abort(source, source.ending.words, lost=not by_guest, ended=by_guest)
    if by_guest:
        return rollback.ended(source)
    cause.message += f"; {source.ending.words}"
    cause.cause = live.log_tail(source.paths.log)
    return outcome.lost(cause, source.name)


def _cannot_be_asked(source: Source, machine: Absent) -> Outcome:
    """Neither attached nor gone: whatever the destination says, nothing here is touched."""
    fact, _ = settle.ask_destination(source)
    words = machine.trouble.cause or machine.trouble.message
    error = CpcError(
        f"QEMU of VM {source.name} on {source.here} cannot be asked, and is not proven gone",
        exit_code=ExitCode.UNPROVEN,
        host=source.here,
        cause=f"{words}\nthe destination {fact.value}",
        hint=outcome.ask_again(machine.trouble, source.name, source.job.id),
    )
    return Outcome(Place.UNKNOWN, error)
