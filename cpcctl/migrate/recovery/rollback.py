# SPDX-License-Identifier: Apache-2.0
"""Something went wrong in a migration that runs: undo it, or settle it after the commit."""

from __future__ import annotations

import contextlib

from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.qmp import QmpGone
from cpcctl.link import rpc
from cpcctl.migrate import messages
from cpcctl.migrate.machine import Action, Event, decide
from cpcctl.migrate.recovery import outcome, settle
from cpcctl.migrate.recovery.outcome import Outcome, Place, said
from cpcctl.migrate.source import Source, Stop
from cpcctl.migrate.streams import StreamBroke
from cpcctl.vm import live


def classify(error: Exception, source: Source) -> Event:
    """Which event an exception of Source.run means."""
    if isinstance(error, Stop):
        return error.event
    if isinstance(error, QmpGone):
        settle.dies(source)
    if source.gone:
        return Event.GUEST_ENDED if source.ending.by_guest else Event.QEMU_DEAD
    if isinstance(error, rpc.RemoteError):
        return Event.PEER_ERROR
    if isinstance(error, (rpc.LinkLost, OSError)):
        return Event.PEER_LOST
    with contextlib.suppress(CpcError):
        if source.side.dead_hvcpus():
            return Event.HVCPU_DEAD
    return Event.FAILURE


def why_broken(source: Source, error: StreamBroke) -> Exception:
    """A data stream broke: what the destination says of it, if it can be asked."""
    if source.gone:
        return error
    try:
        source.ask(messages.Watch())
    except rpc.RemoteError as told:
        return told
    except rpc.LinkLost as lost:
        return lost
    return error


def handle(source: Source, error: Exception) -> Outcome:
    """Bring the guest to one side."""
    if isinstance(error, StreamBroke):
        error = why_broken(source, error)
    event = classify(error, source)
    plan = decide(source.phase, event)
    if source.streams is not None:
        source.streams.stop()
    cause = _cause(error, source, event)
    if plan.exit_code is not None and not plan.actions and plan.exit_code is not ExitCode.ENDED:
        if isinstance(error, CpcError) and event is not Event.QEMU_DEAD:
            return Outcome(Place.SOURCE, error)
        cause.exit_code = plan.exit_code
        return Outcome(Place.SOURCE, cause)
    for action in plan.actions:
        if action is Action.SETTLE:
            return settle.settle_now(source, cause)
        try:
            _do(source, action, event)
        except Exception as trouble:  # noqa: BLE001 - whatever it was, the place is not proven now
            return outcome.unproven(cause, source.name, source.job.id, trouble)
    assert plan.exit_code is not None, "only SETTLE leaves it open"
    if plan.exit_code is ExitCode.ENDED:
        return ended(source)
    if plan.exit_code is ExitCode.LOST:
        return outcome.lost(cause, source.name)
    return outcome.stays(cause, source.name, source.here, plan.exit_code)


def ended(source: Source) -> Outcome:
    """The guest ended itself before it was given away."""
    return outcome.stopped(
        source.ending.words, source.phase, source.name, source.here, str(source.paths.definition)
    )


def _do(source: Source, action: Action, event: Event) -> None:
    if action is Action.REVIVE_HVCPU:
        source.side.revive()
    elif action is Action.ABORT_DESTINATION:
        settle.tell_abort(
            source,
            source.ending.words if source.gone else f"the source aborted: {event.value}",
            lost=event is Event.QEMU_DEAD,
            ended=event is Event.GUEST_ENDED,
        )
    elif action is Action.RESUME_SOURCE:
        settle.resume(source.side, b"", paused=source.paused)


def _cause(error: Exception, source: Source, event: Event) -> CpcError:
    phase = source.phase
    if event is Event.QEMU_DEAD:
        when = outcome.WHEN.get(phase, "during the switchover")
        return CpcError(
            f"{source.ending.words} {when}", host=source.here, cause=live.log_tail(source.paths.log)
        )
    if isinstance(error, Stop):
        what = "was cancelled" if error.event is Event.CANCEL else error.event.value
        name = source.name
        return CpcError(
            f"the migration {what} in phase {phase.word}",
            host=source.here if error.why else None,
            cause=error.why or None,
            hint=f"cpcctl migrate {name} - --on-timeout pause, which stops the guest for the rest\n"
            f"cpcctl migrate {name} - --timeout SECONDS, to let it go on for longer"
            if error.event is Event.STALLED
            else None,
        )
    if isinstance(error, CpcError):
        return CpcError(
            f"the migration failed in phase {phase.word}",
            host=error.host or source.here,
            cause=error.cause if isinstance(error, rpc.RemoteError) else said(error),
            hint=error.hint,
        )
    return CpcError(
        f"the migration failed in phase {phase.word}: the destination {source.ticket.address} "
        "cannot be reached any more",
        host=source.here,
        cause=str(error),
        hint="check the network and `cpcctl receive` there, then migrate again",
    )
