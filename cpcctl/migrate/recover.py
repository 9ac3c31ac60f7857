# SPDX-License-Identifier: Apache-2.0
"""Jobs that lost their controller: find them, bring their guest to one side."""

from __future__ import annotations

from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.state import Folders, VmLock
from cpcctl.jobs.store import INTERRUPTED, JobStore, Record
from cpcctl.migrate import trouble, without, worker
from cpcctl.migrate.machine import Phase


def orphan(settings: Settings, name: str) -> Record | None:
    """The newest job of a VM whose controller died or whose end is not proven."""
    for record in reversed(JobStore(Folders.of(settings).jobs).list(name)):
        if record.kind == "migrate":
            unsettled = record.seen_state == INTERRUPTED or record.state == "unproven"
            return record if unsettled else None
    return None


def refuse_orphan(settings: Settings, name: str) -> None:
    """:raise CpcError: (75) a job of this VM must be settled first."""
    record = orphan(settings, name)
    if record is not None:
        raise CpcError(
            f"job {record.id} of VM {name} has not been settled",
            exit_code=ExitCode.BUSY,
            host=settings.host,
            cause=f"it stopped in phase {record.phase}",
            hint=f"cpcctl job resume {record.id}",
        )


def recover(settings: Settings, job_id: str) -> Record:
    """Undo a migration that has not committed, finish one that has.

    Returns the job as it ended. :raise CpcError: (75) somebody is at it,
    (2) it is not a job that can be resumed.
    """
    store = JobStore(Folders.of(settings).jobs)
    record = store.load(job_id)
    if record.kind != "migrate":
        raise CpcError(f"job {job_id} is no migration", exit_code=ExitCode.USAGE)
    with VmLock.take(Folders.of(settings), record.vm, f"job resume {job_id}"):
        record = store.load(job_id)
        if record.seen_state != INTERRUPTED and record.state != "unproven":
            return record
        was = record.phase
        job = store.adopt(record)
        record.error = None
        record.exit_code = None
        cause = CpcError(f"the controller of job {job_id} died in phase {was}", host=settings.host)
        try:
            source = worker.make_source(settings, job)
        except CpcError as error:
            without.settle(settings, job, error)
            return store.load(job_id)
        try:
            source.phase = Phase[was.upper()] if was.upper() in Phase.__members__ else Phase.COPY
            failure = trouble.settle_orphan(source, cause)
            if failure is not None:
                worker.end(job, failure)
            else:
                worker.depart(settings, job, source)
        finally:
            source.close()
    return store.load(job_id)
