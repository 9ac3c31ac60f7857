# SPDX-License-Identifier: Apache-2.0
"""After COMMIT: ask both firmwares who runs the guest, and do what follows."""

from __future__ import annotations

import base64
import contextlib
import time

from cpcctl.config.patience import patient
from cpcctl.errors import CpcError
from cpcctl.host.qmp import QmpError, QmpGone
from cpcctl.link import rpc
from cpcctl.migrate import messages, session
from cpcctl.migrate.machine import DestinationFact, Phase, SourceFact, Step, settle, source_fact
from cpcctl.migrate.recovery import outcome
from cpcctl.migrate.recovery.outcome import MOVED, Outcome
from cpcctl.migrate.side import Side
from cpcctl.migrate.source import Source

# The destination may hold the disks until it gives up; see --grace of receive.
DISK_SECONDS = patient(90.0)
RECONNECT_SECONDS = patient(20.0)
DEATH_SECONDS = patient(2.0)
AGAIN_SECONDS = 0.3


def settle_now(source: Source, cause: CpcError) -> Outcome:
    """Until both sides' answers settle it, or it is not proven in time.

    Once QEMU here is gone no guest stands still meanwhile: who asks again later can.
    """
    trouble: Exception | None = None
    deadline = time.monotonic() + RECONNECT_SECONDS
    while True:
        fact, token = ask_destination(source)
        step = settle(ask_source(source), fact, commit_token="commit" in source.job.record.data)
        try:
            if step is Step.ASK_ABORT:
                source.ask(messages.Abort("the destination failed after the commit"))
            elif step is not Step.UNPROVEN:
                return take(source, step, token, fact, cause)
        except (CpcError, rpc.LinkLost, OSError) as error:
            # It may have made things clearer: look again.
            trouble = error
        away = source.gone and fact is DestinationFact.UNREACHABLE
        if away or time.monotonic() > deadline:
            break
        time.sleep(AGAIN_SECONDS)
    return outcome.unproven(cause, source.name, source.job.id, trouble)


def take(
    source: Source, step: Step, token: bytes, fact: DestinationFact, cause: CpcError
) -> Outcome:
    """Do one step of machine.settle(). token, fact: what the destination said."""
    if step in (Step.RESUME, Step.RESUME_WITH_ABORT):
        tell_abort(source, "the source resumes")
        resume(source.side, token if step is Step.RESUME_WITH_ABORT else b"")
        return outcome.stays(cause, source.name, source.here)
    if step is Step.NOTHING:
        if source.side.info()["frozen"]:
            odd = CpcError("no migration is open, yet it is frozen")
            return outcome.unproven(cause, source.name, source.job.id, odd)
        return outcome.stays(cause, source.name, source.here)
    if step in (Step.SEND_COMMIT, Step.FINISH):
        give_away_again(source)
        return MOVED
    if step is Step.CLEAN_SOURCE:
        source.phase = Phase.FINISHED
        return MOVED
    if step is Step.ENDED:
        with contextlib.suppress(rpc.LinkLost, rpc.RemoteError):
            source.ask(messages.Done())
        return outcome.ended_there(cause, source.name, source.host, source.here)
    if step is Step.LOST:
        # So that the other side says the same, at once: it would wait for us until its grace ends.
        tell_abort(source, cause.message, lost=True)
        by_word = None if fact is DestinationFact.UNREACHABLE else source.host
        frozen_on = None if source.gone else source.here
        return outcome.lost(cause, source.name, by_word_of=by_word, frozen_on=frozen_on)
    return outcome.unproven(cause, source.name, source.job.id, None)


def tell_abort(source: Source, reason: str, *, lost: bool = False, ended: bool = False) -> None:
    """Make the destination give up; when it cannot hear, its own grace ends it."""
    with contextlib.suppress(rpc.LinkLost, rpc.RemoteError):
        source.ask(messages.Abort(reason, lost, ended))


def give_away_again(source: Source) -> None:
    """COMMIT and RUN may be repeated for the same destination."""
    data = source.job.record.data
    if "commit" not in data:
        if "prepared" not in data:
            raise CpcError("this job never came to the point where it gives the guest away")
        commit = session.commit(source.side.main, base64.b64decode(data["prepared"]))
    else:
        commit = base64.b64decode(data["commit"])
    if source.gone:
        source.ask(messages.Run(commit))
        source.phase = Phase.FINISHED
    else:
        source.give_away(commit)


def ask_source(source: Source) -> SourceFact:
    """What the source's firmware says of this job's session."""
    if source.gone:
        return SourceFact.DEAD
    try:
        source.side.settle_calls()
        found = source.side.query()
    except QmpGone:
        return SourceFact.DEAD if dies(source) else SourceFact.UNKNOWN
    except CpcError:
        return SourceFact.UNKNOWN
    ours = source.job.record.data.get("session") == found.session.hex()
    return source_fact(found.phase, found.role, ours=ours)


def dies(source: Source) -> bool:
    """Whether its QEMU is proven gone; one that was killed closes its sockets before it is."""
    deadline = time.monotonic() + DEATH_SECONDS
    while not source.gone:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def ask_destination(source: Source) -> tuple[DestinationFact, bytes]:
    """What the destination's firmware says, and its abort token if it gave up."""
    try:
        if source.client is None or source.client.lost is not None:
            source.connect()
        answer = source.ask(messages.Query())
        return DestinationFact[answer.fact], answer.token
    except (rpc.LinkLost, CpcError, OSError):
        return DestinationFact.UNREACHABLE, b""


def resume(side: Side, token: bytes, *, paused: bool = False) -> None:
    """Take the disks back and let the guest run. :raise CpcError: it could not be.

    paused: the guest was stopped before the freeze by --on-timeout pause.
    """
    side.settle_calls()
    if side.info()["frozen"]:
        _take_disks(side)
    side.resume(token)
    if paused or side.qmp.execute("query-status")["status"] == "paused":
        side.qmp.execute("cont")
    side.dirty_log(False)


def _take_disks(side: Side) -> None:
    deadline = time.monotonic() + DISK_SECONDS
    while True:
        try:
            side.disks(True)
            return
        except QmpError:
            # The destination still holds the lock; it lets go when it gives up.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
