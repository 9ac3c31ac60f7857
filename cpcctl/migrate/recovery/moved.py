# SPDX-License-Identifier: Apache-2.0
"""VMs that left this host: the record of jobs knows where they went.

A second copy, started here from its definition, would run beside the first one, and
without its disk.
"""

from __future__ import annotations

from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.state import Folders
from cpcctl.jobs.store import JobStore, Record
from cpcctl.migrate.recovery import orphaned, stale
from cpcctl.vm import registry

# In a job's data: the VM was started here again, by somebody who knows.
STARTED_AGAIN = "started_again"


def last(settings: Settings, name: str) -> Record | None:
    """The job that moved the VM away, when that was the last thing that moved it."""
    jobs = [
        record
        for record in JobStore(Folders.of(settings).jobs).list(name)
        if record.kind in ("migrate", "receive") and record.state == "done"
    ]
    newest = max(jobs, key=lambda record: record.finished or "", default=None)
    if newest is None or newest.kind != "migrate" or newest.data.get(STARTED_AGAIN):
        return None
    return newest


def refuse_second(
    settings: Settings, name: str, file: str, *, moved: bool = False, unsettled: bool = False
) -> None:
    """Call it under the VM's lock.

    file: its definition, for the hint
    moved, unsettled: the operator knows that the guest is gone there, or gives it up
    :raise CpcError: (3) the VM moved to another host; (75) a job is not settled; (5) whether
    either is so cannot be told.
    """
    if not registry.gone(settings, name):
        return  # it runs here, or start itself says what is wrong
    if not unsettled:
        way = f"cpcctl vm start --unsettled {file}, if the guest may be given up"
        orphaned.refuse_orphan(settings, name, way)
    record = None if moved else last(settings, name)
    if record is None:
        return
    where = _where(record)
    raise CpcError(
        f"VM {name} moved to {where}; a second copy of it would start here",
        exit_code=ExitCode.REFUSED,
        host=settings.host,
        cause=f"job {record.id} moved it at {record.finished}",
        hint=f"cpcctl vm status {name}, on {where}\n"
        f"cpcctl vm start --force {file}, if it is gone there",
    )


def _where(record: Record) -> str:
    return str(record.result.get("destination", "another host"))


def explain(error: registry.NoVm, settings: Settings) -> None:
    """Add where it went to the error of a VM that is not here, when that is known."""
    record = last(settings, error.name)
    if record is not None:
        where = _where(record)
        error.cause = f"job {record.id} moved it to {where} at {record.finished}"
        error.hint = f"cpcctl vm status {error.name}, on {where}"


def note_started(settings: Settings, name: str) -> None:
    """It was started here in spite of that, so it is here again, and of no job any more."""
    store = JobStore(Folders.of(settings).jobs)
    away = last(settings, name)
    if away is not None:
        away.data[STARTED_AGAIN] = True
        store.save(away, use_reserve=False)
    while (record := orphaned.orphan(settings, name)) is not None:
        stale.disown(record)
        record.data[orphaned.GIVEN_UP] = True
        store.save(record, use_reserve=False)
