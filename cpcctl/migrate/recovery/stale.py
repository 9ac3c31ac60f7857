# SPDX-License-Identifier: Apache-2.0
"""Incoming VMs that a `receive` left behind when it was killed.

One may be removed only when it is proven that its guest never ran here: its QEMU is
proven gone; or it was launched as incoming, is frozen, and its firmware signs ABORT,
after which it can never run. The token is kept in the job that launched it, because
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
from cpcctl.vm import lifecycle, registry


def owner(settings: Settings, name: str) -> Record | None:
    """The interrupted receive that launched what has this name, if any."""
    store = JobStore(Folders.of(settings).jobs)
    for record in reversed(store.list(name)):
        if record.kind == "receive" and record.seen_state == INTERRUPTED:
            return record if record.data.get("launched") == name else None
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


def remove(settings: Settings, name: str) -> None:
    """Give a stale one up and remove it; nothing of that name is fine too."""
    record = owner(settings, name)
    if record is None:
        return
    store = JobStore(Folders.of(settings).jobs)
    side, token = _attach(settings, name), b""
    if side is None and not registry.gone(settings, name):
        return
    if side is not None:
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
