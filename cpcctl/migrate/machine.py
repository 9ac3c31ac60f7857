# SPDX-License-Identifier: Apache-2.0
"""The phase machine of a migration: what follows when something happens. Pure.

The one line that matters is COMMIT. Before it the guest belongs to the source
and every trouble ends with the source running. From the moment the source's
firmware may have signed COMMIT only the destination's firmware can settle it:
by RUNNING (done) or by ABORT (the source resumes). What cannot be settled is
reported as not proven, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from cpcctl import abi
from cpcctl.errors import ExitCode


class Phase(IntEnum):
    """Where a job stands; the order is the order in time."""

    PREFLIGHT = 0
    HANDSHAKE = 1
    COPY = 2
    FREEZE = 3
    FINAL = 4
    STATE = 5
    PREPARE = 6
    COMMIT = 7  # from here on the source's firmware may have committed
    RUN = 8
    FINISHED = 9

    @property
    def word(self) -> str:
        """As it is shown."""
        return self.name.lower()


class Event(Enum):
    """What can happen besides progress."""

    CANCEL = "cancelled"
    TIMEOUT = "timed out"
    STALLED = "made no progress"
    PEER_LOST = "the destination cannot be reached"
    PEER_ERROR = "the destination failed"
    HVCPU_DEAD = "an hvCPU is dead"
    FAILURE = "a step on the source failed"
    QEMU_DEAD = "QEMU on the source has exited"
    GUEST_ENDED = "the guest ended by itself"


class Action(Enum):
    """What the driver must do, in this order."""

    IGNORE = "go on"
    PAUSE_GUEST = "stop the guest and go on copying"
    REVIVE_HVCPU = "remove and add the dead hvCPU"
    ABORT_DESTINATION = "make the destination give up"
    RESUME_SOURCE = "let the guest run on the source"
    SETTLE = "ask both firmwares who runs the guest"


@dataclass(frozen=True)
class Plan:
    """actions, and the exit code once they have succeeded (None: not over)."""

    actions: tuple[Action, ...]
    exit_code: ExitCode | None


def decide(phase: Phase, event: Event, *, pause_on_timeout: bool = False) -> Plan:
    """What follows event in phase."""
    if phase is Phase.FINISHED:
        return Plan((Action.IGNORE,), None)
    if event in (Event.QEMU_DEAD, Event.GUEST_ENDED):
        if phase >= Phase.COMMIT:
            return Plan((Action.SETTLE,), None)
        by_guest = event is Event.GUEST_ENDED
        if phase is Phase.PREFLIGHT:
            return Plan((), ExitCode.ENDED if by_guest else ExitCode.UNREACHABLE)
        return Plan((Action.ABORT_DESTINATION,), ExitCode.ENDED if by_guest else ExitCode.LOST)
    if phase >= Phase.COMMIT:
        if event in (Event.CANCEL, Event.TIMEOUT, Event.STALLED):
            return Plan((Action.IGNORE,), None)
        if event is Event.HVCPU_DEAD:
            return Plan((Action.REVIVE_HVCPU, Action.SETTLE), None)
        return Plan((Action.SETTLE,), None)
    if event in (Event.TIMEOUT, Event.STALLED) and pause_on_timeout:
        # Once frozen the copy is about to end; pausing adds nothing.
        act = Action.PAUSE_GUEST if phase <= Phase.COPY else Action.IGNORE
        return Plan((act,), None)
    return Plan(_undo(phase, event), _exit_before_commit(phase, event))


def _undo(phase: Phase, event: Event) -> tuple[Action, ...]:
    if phase is Phase.PREFLIGHT:
        return ()
    actions = [Action.RESUME_SOURCE]
    if event is Event.HVCPU_DEAD:
        actions.insert(0, Action.REVIVE_HVCPU)
    if event is not Event.PEER_LOST:
        # The guest runs first and the destination's leftovers can wait for
        # that; but once the disks may be active there, they must be let go.
        place = len(actions) if phase < Phase.FINAL else 0
        actions.insert(place, Action.ABORT_DESTINATION)
    return tuple(actions)


def _exit_before_commit(phase: Phase, event: Event) -> ExitCode:
    if event is Event.CANCEL:
        return ExitCode.INTERRUPTED
    if event in (Event.TIMEOUT, Event.STALLED):
        return ExitCode.TIMED_OUT
    if event is Event.PEER_LOST and phase is Phase.PREFLIGHT:
        return ExitCode.UNREACHABLE
    return ExitCode.FAILED


class SourceFact(Enum):
    """What the source's firmware says (or that nobody can say it any more)."""

    HOLDS = "has not committed"
    COMMITTED = "has committed"
    TOLD = "knows that the destination runs"
    RELEASED = "runs the guest, no migration is open"
    DEAD = "QEMU has exited"
    UNKNOWN = "cannot be asked"


class DestinationFact(Enum):
    """What the destination's firmware says."""

    NOTHING = "holds no state of this guest"
    RECEIVING = "has not received everything yet"
    PREPARED = "is ready and waits for the commit"
    FAILED = "has failed and waits to be given up"
    RUNNING = "runs the guest"
    ABORTED = "has aborted permanently"
    ENDED = "ran the guest, which has ended by itself since"
    DEAD = "QEMU has exited"
    UNKNOWN = "has a QEMU that it cannot ask"
    UNREACHABLE = "cannot be asked"


class Step(Enum):
    """How a job whose place was in doubt is settled."""

    RESUME = "resume the source"
    RESUME_WITH_ABORT = "resume the source with the destination's abort"
    ASK_ABORT = "ask the destination to give up, then look again"
    SEND_COMMIT = "send the commit to the destination"
    FINISH = "tell the source that the destination runs"
    CLEAN_SOURCE = "remove what is left on the source"
    NOTHING = "nothing to do"
    ENDED = "nothing to run any more: the guest ended by itself on the destination"
    LOST = "proven lost"
    UNPROVEN = "not proven"


def source_fact(phase: int, role: int, *, ours: bool) -> SourceFact:
    """What QUERY on the source means for one job. phase: abi.PHASE_*, role: abi.ROLE_*.

    ours: the session is the one that this job opened. A guest that arrived here
    by an earlier migration runs with the session it arrived in: its firmware is
    in RUNNING as *destination*, and no migration away from here is open.
    """
    if phase == abi.PHASE_NONE:
        return SourceFact.RELEASED
    if role != abi.ROLE_SOURCE:
        return SourceFact.RELEASED if phase == abi.PHASE_RUNNING else SourceFact.UNKNOWN
    if phase == abi.PHASE_COMMITTED:
        return SourceFact.COMMITTED if ours else SourceFact.UNKNOWN
    if phase == abi.PHASE_RUNNING:
        return SourceFact.TOLD if ours else SourceFact.UNKNOWN
    return SourceFact.HOLDS


def settle(source: SourceFact, destination: DestinationFact, *, commit_token: bool) -> Step:
    """Who must run the guest, from what both sides say.

    commit_token: the controller still has the COMMIT that the source signed.
    """
    if source is SourceFact.RELEASED:
        return Step.NOTHING
    if source is SourceFact.HOLDS:
        return Step.RESUME
    if source is SourceFact.TOLD:
        return Step.CLEAN_SOURCE
    by_destination = {
        DestinationFact.UNREACHABLE: Step.UNPROVEN,
        DestinationFact.UNKNOWN: Step.UNPROVEN,
        DestinationFact.RUNNING: Step.FINISH,
        DestinationFact.ABORTED: Step.RESUME_WITH_ABORT,
        DestinationFact.PREPARED: Step.SEND_COMMIT,
        DestinationFact.FAILED: Step.ASK_ABORT,
        DestinationFact.ENDED: Step.ENDED,
        DestinationFact.NOTHING: Step.LOST,
        DestinationFact.RECEIVING: Step.LOST,
        DestinationFact.DEAD: Step.LOST,
    }
    step = by_destination[destination]
    if source is SourceFact.COMMITTED:
        # A destination that never got everything cannot have led to a commit.
        contradiction = destination in (DestinationFact.NOTHING, DestinationFact.RECEIVING)
        return Step.UNPROVEN if contradiction else step
    if source is SourceFact.UNKNOWN:
        return Step.FINISH if destination is DestinationFact.RUNNING else Step.UNPROVEN
    if step is Step.FINISH:
        return Step.CLEAN_SOURCE
    if step in (Step.RESUME_WITH_ABORT, Step.ASK_ABORT):
        return Step.LOST
    if step is Step.SEND_COMMIT and not commit_token:
        return Step.LOST
    return step
