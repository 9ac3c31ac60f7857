# SPDX-License-Identifier: Apache-2.0
"""Shells that a `receive` left behind when it was killed.

A shell may be removed only when it is proven that its guest never ran here:
QEMU was launched as incoming, is frozen, and its firmware signs ABORT, after
which it can never run. The token is kept in the job that launched it, because
a source that has committed needs it to resume.
"""

from __future__ import annotations

import base64

from cpcctl import abi
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError
from cpcctl.host.state import Folders
from cpcctl.jobs.store import INTERRUPTED, JobStore, Record
from cpcctl.migrate.side import Side
from cpcctl.vm import lifecycle


def owner(settings: Settings, name: str) -> Record | None:
    """The interrupted receive that launched what has this name, if any."""
    store = JobStore(Folders.of(settings).jobs)
    for record in reversed(store.list(name)):
        if record.kind == "receive" and record.seen_state == INTERRUPTED:
            return record if record.data.get("launched") == name else None
    return None


def removable(settings: Settings, name: str) -> bool:
    """Whether remove() would be allowed to remove it. Changes nothing."""
    if owner(settings, name) is None:
        return False
    try:
        vm = lifecycle.attach(settings, name)
    except CpcError:
        return True
    side = Side.attach(vm)
    try:
        return _never_ran(side)
    finally:
        side.close()


def remove(settings: Settings, name: str) -> None:
    """Give a leftover up and remove it; nothing of that name is fine too."""
    record = owner(settings, name)
    if record is None:
        return
    store = JobStore(Folders.of(settings).jobs)
    try:
        vm = lifecycle.attach(settings, name)
    except CpcError:
        token = b""
    else:
        side = Side.attach(vm)
        try:
            if not _never_ran(side):
                return
            side.settle_calls()
            token = side.abort()
        finally:
            side.close()
    record.data["abort"] = base64.b64encode(token).decode("ascii")
    record.data.pop("launched", None)
    error = CpcError("its controller died before the guest ran here", host=settings.host)
    store.adopt(record).finish("failed", error=error)
    lifecycle.discard(settings, name)


def _never_ran(side: Side) -> bool:
    info = side.info()
    if not info["incoming"] or not info["frozen"]:
        return False
    side.settle_calls()
    found = side.query()
    return found.role != abi.ROLE_SOURCE and found.phase != abi.PHASE_RUNNING
