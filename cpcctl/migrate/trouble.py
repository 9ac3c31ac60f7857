# SPDX-License-Identifier: Apache-2.0
"""What to do when a migration goes wrong: machine.py decides, this does it."""

from __future__ import annotations

import base64
import contextlib
import time

from cpcctl.config.patience import patient
from cpcctl.errors import RESTORE, CpcError, ExitCode
from cpcctl.host.qmp import QmpError, QmpGone
from cpcctl.link import rpc
from cpcctl.migrate import messages
from cpcctl.migrate.machine import (
    Action,
    DestinationFact,
    Event,
    Phase,
    SourceFact,
    Step,
    decide,
    settle,
    source_fact,
)
from cpcctl.migrate.side import Side
from cpcctl.migrate.source import Source, Stop
from cpcctl.migrate.streams import StreamBroke

# The destination may hold the disks until it gives up; see --grace of receive.
DISK_SECONDS = 90.0
RECONNECT_SECONDS = 20.0
DEATH_SECONDS = patient(2.0)


def classify(error: Exception, side: Side) -> Event:
    """Which event an exception of Source.run means."""
    if isinstance(error, Stop):
        return error.event
    if isinstance(error, QmpGone):
        _let_it_die(side)
    if not side.vm.alive:
        return Event.QEMU_DEAD
    if isinstance(error, rpc.RemoteError):
        return Event.PEER_ERROR
    if isinstance(error, (rpc.LinkLost, OSError)):
        return Event.PEER_LOST
    with contextlib.suppress(CpcError):
        if side.dead_hvcpus():
            return Event.HVCPU_DEAD
    return Event.FAILURE


def _let_it_die(side: Side) -> None:
    """A process that was killed closes its sockets before it is gone."""
    side.vm.process.wait_gone(DEATH_SECONDS)


def why_broken(source: Source, error: StreamBroke) -> Exception:
    """A data stream broke: what the destination says of it, if it can be asked."""
    if not source.side.vm.alive:
        return error
    try:
        source.ask(messages.Watch())
    except rpc.RemoteError as told:
        return told
    except rpc.LinkLost as lost:
        return lost
    return error


def handle(source: Source, error: Exception) -> CpcError | None:
    """Bring the guest to one side; the error to report, None when it moved after all.

    The returned error's exit code says where the guest is.
    """
    if isinstance(error, StreamBroke):
        error = why_broken(source, error)
    event = classify(error, source.side)
    plan = decide(source.phase, event)
    if source.streams is not None:
        source.streams.stop()
    cause = _cause(error, source)
    if plan.exit_code is not None and not plan.actions:
        if isinstance(error, CpcError):
            return error
        cause.exit_code = plan.exit_code
        return cause
    for action in plan.actions:
        if action is Action.SETTLE:
            return settle_now(source, cause)
        try:
            _do(source, action, event)
        except Exception as trouble:  # noqa: BLE001 - whatever it was, the place is not proven now
            return _unproven(source, cause, trouble)
    assert plan.exit_code is not None, "only SETTLE leaves it open"
    cause.exit_code = plan.exit_code
    where = (
        f"VM {source.side.vm.name} was lost with QEMU on {source.side.vm.host}"
        if plan.exit_code is ExitCode.LOST
        else f"VM {source.side.vm.name} runs on {source.side.vm.host}"
    )
    cause.message = f"{cause.message}; {where}"
    if plan.exit_code is ExitCode.LOST:
        cause.hint = RESTORE
    return cause


def _do(source: Source, action: Action, event: Event) -> None:
    if action is Action.REVIVE_HVCPU:
        source.side.revive()
    elif action is Action.ABORT_DESTINATION:
        # When it cannot hear, its own grace period ends it.
        with contextlib.suppress(rpc.LinkLost, rpc.RemoteError):
            lost = event is Event.QEMU_DEAD
            source.ask(messages.Abort(f"the source gave up: {event.value}", lost))
    elif action is Action.RESUME_SOURCE:
        resume(source.side, b"", paused=source.paused)


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


def settle_now(source: Source, cause: CpcError) -> CpcError | None:
    """After COMMIT: ask both firmwares and do what follows. As handle()."""
    trouble: Exception | None = None
    deadline = time.monotonic() + RECONNECT_SECONDS
    while time.monotonic() < deadline:
        fact, token = ask_destination(source)
        ours = ask_source(source)
        step = settle(ours, fact, commit_token="commit" in source.job.record.data)
        try:
            if step is Step.ASK_ABORT:
                source.ask(messages.Abort("the destination failed after the commit"))
            elif step is not Step.UNPROVEN:
                return take(source, step, token, cause)
        except (CpcError, rpc.LinkLost, OSError) as error:
            # It may have made things clearer: look again.
            trouble = error
        time.sleep(0.3)
    return _unproven(source, cause, trouble)


def take(source: Source, step: Step, token: bytes, cause: CpcError) -> CpcError | None:
    """Do one step of settle(). As handle()."""
    name, side = source.side.vm.name, source.side
    if step in (Step.RESUME, Step.RESUME_WITH_ABORT):
        with contextlib.suppress(rpc.LinkLost, rpc.RemoteError):
            source.ask(messages.Abort("the source resumes"))
        resume(side, token if step is Step.RESUME_WITH_ABORT else b"")
        cause.exit_code = ExitCode.FAILED
        cause.message += f"; VM {name} runs on {side.vm.host}"
        return cause
    if step is Step.NOTHING:
        if side.info()["frozen"]:
            return _unproven(source, cause, CpcError("no migration is open, yet it is frozen"))
        cause.exit_code = ExitCode.FAILED
        cause.message += f"; VM {name} runs on {side.vm.host}"
        return cause
    if step in (Step.SEND_COMMIT, Step.FINISH):
        give_away_again(source)
        return None
    if step is Step.CLEAN_SOURCE:
        source.phase = Phase.FINISHED
        return None
    if step is Step.LOST:
        # So that the other side says the same, at once: it would wait for us until its grace ends.
        with contextlib.suppress(rpc.LinkLost, rpc.RemoteError):
            source.ask(messages.Abort(cause.message, lost=True))
        cause.exit_code = ExitCode.LOST
        cause.message += f"; VM {name} is lost"
        cause.hint = RESTORE
        return cause
    return _unproven(source, cause, None)


def give_away_again(source: Source) -> None:
    """COMMIT and RUN may be repeated for the same destination."""
    data = source.job.record.data
    if "commit" not in data:
        if "prepared" not in data:
            raise CpcError("this job never came to the point where it gives the guest away")
        from cpcctl.migrate import session

        prepared = base64.b64decode(data["prepared"])
        commit = session.commit(source.side.main, prepared)
    else:
        commit = base64.b64decode(data["commit"])
    if source.side.vm.alive:
        source.give_away(commit)
    else:
        source.ask(messages.Run(commit))
        source.phase = Phase.FINISHED


def ask_source(source: Source) -> SourceFact:
    """What the source's firmware says of this job's session."""
    side = source.side
    if not side.vm.alive:
        return SourceFact.DEAD
    try:
        side.settle_calls()
        found = side.query()
    except QmpGone:
        _let_it_die(side)
        return SourceFact.UNKNOWN if side.vm.alive else SourceFact.DEAD
    except CpcError:
        return SourceFact.UNKNOWN
    ours = source.job.record.data.get("session") == found.session.hex()
    return source_fact(found.phase, found.role, ours=ours)


def ask_destination(source: Source) -> tuple[DestinationFact, bytes]:
    """What the destination's firmware says, and its abort token if it gave up."""
    try:
        if source.client is None or source.client.lost is not None:
            source.connect()
        answer = source.ask(messages.Query())
        return DestinationFact[answer.fact], answer.token
    except (rpc.LinkLost, CpcError, OSError):
        return DestinationFact.UNREACHABLE, b""


def _cause(error: Exception, source: Source) -> CpcError:
    phase = source.phase.word
    if isinstance(error, Stop):
        what = "was cancelled" if error.event is Event.CANCEL else error.event.value
        name = source.side.vm.name
        return CpcError(
            f"the migration {what} in phase {phase}",
            host=source.side.vm.host if error.why else None,
            cause=error.why or None,
            hint=f"cpcctl migrate {name} - --on-timeout pause, which stops the guest for the rest\n"
            f"cpcctl migrate {name} - --timeout SECONDS, to let it go on for longer"
            if error.event is Event.STALLED
            else None,
        )
    if isinstance(error, CpcError):
        return CpcError(
            f"the migration failed in phase {phase}",
            host=error.host or source.side.vm.host,
            cause=error.cause if isinstance(error, rpc.RemoteError) else _words(error),
            hint=error.hint,
        )
    return CpcError(
        f"the migration failed in phase {phase}: the destination {source.ticket.address} "
        "cannot be reached any more",
        host=source.side.vm.host,
        cause=str(error),
        hint="check the network and `cpcctl receive` there, then migrate again",
    )


def _words(error: CpcError) -> str:
    return f"{error.message}: {error.cause}" if error.cause else error.message


def _unproven(source: Source, cause: CpcError, trouble: Exception | None) -> CpcError:
    name = source.side.vm.name
    words = [cause.cause or cause.message]
    if trouble is not None:
        words.append(f"then: {_words(trouble) if isinstance(trouble, CpcError) else trouble}")
    return CpcError(
        f"{cause.message}; where VM {name} is has not been proven",
        exit_code=ExitCode.UNPROVEN,
        host=cause.host,
        cause="\n".join(words),
        hint=f"look at `cpcctl vm status {name}` on both hosts, bring the other host back, "
        f"then cpcctl job resume {source.job.id}",
    )


def settle_orphan(source: Source, cause: CpcError) -> CpcError | None:
    """A job whose controller died: what it wrote last and the firmware decide. As handle()."""
    ours = ask_source(source)
    if ours in (SourceFact.HOLDS, SourceFact.RELEASED):
        # The destination is told if it can be reached; else its grace ends it.
        with contextlib.suppress(CpcError, rpc.LinkLost, OSError):
            source.connect()
        try:
            return take(source, settle(ours, DestinationFact.UNREACHABLE, commit_token=False),
                        b"", cause)
        except (CpcError, OSError) as trouble:
            return _unproven(source, cause, trouble)
    return settle_now(source, cause)
