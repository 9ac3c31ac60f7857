# SPDX-License-Identifier: Apache-2.0
"""Incoming VMs that a `receive` left behind when it was killed.

One may be removed only when it is proven that its guest never ran here: its QEMU is
proven gone; or it was launched as incoming, is frozen, and its firmware signs ABORT,
after which it can never run. The token is kept in the job that launched it, because
a source that has committed needs it to resume; where QEMU is gone instead, the job says so.
"""

from __future__ import annotations

import base64
from enum import Enum
from pathlib import Path

from cpcctl import abi
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.state import Folders, VmLock, remove_tree
from cpcctl.jobs.store import INTERRUPTED, JobStore, Record
from cpcctl.migrate.side import Side
from cpcctl.vm import lifecycle, registry


class Left(Enum):
    """What is there after remove()."""

    NOTHING = "nothing of a stale one"
    RUNS = "its guest runs here"
    UNKNOWN = "that its guest never ran here is not proven"


def owner(settings: Settings, name: str) -> Record | None:
    """The interrupted receive that launched what has this name and is not known to have run
    it, if any."""
    store = JobStore(Folders.of(settings).jobs)
    for record in reversed(store.list(name)):
        if record.kind == "receive" and record.seen_state == INTERRUPTED:
            ours = record.data.get("launched") == name and "running" not in record.data
            return record if ours else None
    return None


def removable(settings: Settings, name: str) -> bool:
    """Whether remove() would remove it. Changes nothing."""
    if owner(settings, name) is None:
        return False
    side = _attach(settings, name)
    if side is None:
        return registry.gone(settings, name)
    try:
        return _never_ran(side)
    finally:
        side.close()


def remove(settings: Settings, name: str) -> Left:
    """Give a stale one up and remove it; nothing of that name is fine too."""
    record = owner(settings, name)
    if record is None:
        return Left.NOTHING
    store = JobStore(Folders.of(settings).jobs)
    side, token = _attach(settings, name), b""
    if side is None and not registry.gone(settings, name):
        return Left.UNKNOWN
    if side is None:
        words = "its controller died and QEMU is gone"
    else:
        try:
            if not _never_ran(side):
                return Left.UNKNOWN if side.info()["frozen"] else Left.RUNS
            side.settle_calls()
            token = side.abort()
        finally:
            side.close()
        record.data["abort"] = base64.b64encode(token).decode("ascii")
        words = "its controller died before the guest ran here"
    # The token is kept before QEMU goes, and the job has an end when nothing is left of it.
    job = store.adopt(record)
    lifecycle.discard(settings, name)
    if side is None:
        disown(record)
    else:
        record.data.pop("launched", None)
    job.finish("failed", error=CpcError(words, host=settings.host))
    return Left.NOTHING


def cancel(settings: Settings, job_id: str) -> Record:
    """End an interrupted receive and remove what it left. The job as it ended.

    :raise CpcError: (75) somebody is at it, (1) its guest runs here or ran, (5) that it never
    did is not proven; nothing is touched then.
    """
    folders = Folders.of(settings)
    store = JobStore(folders.jobs)
    record = store.load(job_id)
    name = record.data.get("launched")
    if name is None:
        job = store.adopt(record)
        if not {"abort", "dead"} & record.data.keys():
            forget_secrets(settings, record)
        error = CpcError("its controller died before a guest was taken", host=settings.host)
        job.finish("cancelled", error=error)
        return record
    with VmLock.take(folders, name, f"job cancel {job_id}") as lock:
        left, cause = Left.NOTHING, None
        if store.load(job_id).seen_state == INTERRUPTED:
            try:
                left = remove(settings, name)
            except CpcError as error:
                cause = error.cause or error.message
        record = store.load(job_id)
        if record.seen_state == INTERRUPTED:
            runs = left is Left.RUNS or "running" in record.data
            raise _not_cancelled(settings, record, runs=runs, cause=cause)
        if not folders.vm(name).state.exists():
            lock.remove()
    return record


def forget_dead(settings: Settings, record: Record) -> bool:
    """Remove what an incoming QEMU left that is proven gone, and whose guest is not known to have
    run here. The caller holds the VM's lock."""
    name = record.data.get("launched")
    if not name or "running" in record.data or not registry.gone(settings, name):
        return False
    disown(record)
    lifecycle.discard(settings, name)
    return True


def disown(record: Record) -> None:
    """What has the name that it launched is not its own any more."""
    record.data.pop("launched", None)
    record.data["dead"] = True


def forget_secrets(settings: Settings, record: Record) -> None:
    """Of a receive: nobody needs an answer of it any more."""
    record.data.pop("secret", None)
    remove_tree(link_folder(settings, record.id))


def link_folder(settings: Settings, job_id: str) -> Path:
    """Where a receive keeps the key of its end of the link."""
    return Folders.of(settings).jobs / f"{job_id}.link"


def _not_cancelled(
    settings: Settings, record: Record, *, runs: bool, cause: str | None
) -> CpcError:
    name, here = record.data["launched"], settings.host
    why = f"was given to {here}" if runs else f"never ran on {here} is not proven"
    return CpcError(
        f"job {record.id} could not be cancelled: {'' if runs else 'that '}VM {name} {why}",
        exit_code=ExitCode.FAILED if runs else ExitCode.UNPROVEN,
        host=here,
        cause=cause,
        hint=f"cpcctl job resume {record.id}\ncpcctl vm status {name}",
    )


def _attach(settings: Settings, name: str) -> Side | None:
    """None when it cannot be asked, which proves nothing."""
    try:
        return Side.attach(registry.attach(settings, name))
    except CpcError:
        return None


def _never_ran(side: Side) -> bool:
    info = side.info()
    if not info["incoming"] or not info["frozen"]:
        return False
    side.settle_calls()
    found = side.query()
    return found.role != abi.ROLE_SOURCE and found.phase != abi.PHASE_RUNNING
