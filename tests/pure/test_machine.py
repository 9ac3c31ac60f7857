# SPDX-License-Identifier: Apache-2.0
"""The phase machine: every state, every event; and who runs the guest."""

from __future__ import annotations

import itertools

import pytest

from cpcctl import abi
from cpcctl.errors import ExitCode
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

BEFORE = [p for p in Phase if Phase.HANDSHAKE <= p < Phase.COMMIT]
AFTER = [Phase.COMMIT, Phase.RUN]


def test_words() -> None:
    """Every phase has its own, in the order in which they come; people and scripts read them."""
    assert [p.word for p in sorted(Phase)] == [
        "preflight", "handshake", "copy", "freeze", "final", "state", "prepare", "commit", "run",
        "finished",
    ]  # fmt: skip


@pytest.mark.parametrize("event", Event)
def test_finished_is_final(event: Event) -> None:
    plan = decide(Phase.FINISHED, event)
    assert plan.actions == (Action.IGNORE,)
    assert plan.exit_code is None


@pytest.mark.parametrize("event", Event)
def test_preflight_changes_nothing(event: Event) -> None:
    plan = decide(Phase.PREFLIGHT, event)
    assert plan.actions == ()
    expected = {
        Event.CANCEL: ExitCode.INTERRUPTED,
        Event.TIMEOUT: ExitCode.TIMED_OUT,
        Event.STALLED: ExitCode.TIMED_OUT,
        Event.PEER_LOST: ExitCode.UNREACHABLE,
        Event.QEMU_DEAD: ExitCode.UNREACHABLE,
        Event.GUEST_ENDED: ExitCode.ENDED,
    }
    assert plan.exit_code is expected.get(event, ExitCode.FAILED)


@pytest.mark.parametrize("phase", BEFORE)
@pytest.mark.parametrize(
    ("event", "actions", "code"),
    [
        (Event.CANCEL, (Action.RESUME_SOURCE, Action.ABORT_DESTINATION), ExitCode.INTERRUPTED),
        (Event.TIMEOUT, (Action.RESUME_SOURCE, Action.ABORT_DESTINATION), ExitCode.TIMED_OUT),
        (Event.STALLED, (Action.RESUME_SOURCE, Action.ABORT_DESTINATION), ExitCode.TIMED_OUT),
        (Event.PEER_LOST, (Action.RESUME_SOURCE,), ExitCode.FAILED),
        (Event.PEER_ERROR, (Action.RESUME_SOURCE, Action.ABORT_DESTINATION), ExitCode.FAILED),
        (Event.FAILURE, (Action.RESUME_SOURCE, Action.ABORT_DESTINATION), ExitCode.FAILED),
        (
            Event.HVCPU_DEAD,
            (Action.REVIVE_HVCPU, Action.RESUME_SOURCE, Action.ABORT_DESTINATION),
            ExitCode.FAILED,
        ),
        (Event.QEMU_DEAD, (Action.ABORT_DESTINATION,), ExitCode.LOST),
    ],
)
def test_before_commit_the_source_resumes(
    phase: Phase, event: Event, actions: tuple[Action, ...], code: ExitCode
) -> None:
    plan = decide(phase, event)
    assert plan.exit_code is code
    if phase >= Phase.FINAL and Action.ABORT_DESTINATION in actions:
        # The destination may hold the disks: it must let go first.
        rest = [action for action in actions if action is not Action.ABORT_DESTINATION]
        actions = (Action.ABORT_DESTINATION, *rest)
    assert plan.actions == actions


@pytest.mark.parametrize("phase", AFTER)
@pytest.mark.parametrize("event", Event)
def test_after_commit_nothing_is_undone(phase: Phase, event: Event) -> None:
    plan = decide(phase, event)
    assert plan.exit_code is None
    assert Action.RESUME_SOURCE not in plan.actions
    assert Action.ABORT_DESTINATION not in plan.actions
    if event in (Event.CANCEL, Event.TIMEOUT, Event.STALLED):
        assert plan.actions == (Action.IGNORE,)
    else:
        assert plan.actions[-1] is Action.SETTLE


@pytest.mark.parametrize("event", [Event.TIMEOUT, Event.STALLED])
@pytest.mark.parametrize("phase", [p for p in Phase if p is not Phase.FINISHED])
def test_pause_on_timeout(phase: Phase, event: Event) -> None:
    plan = decide(phase, event, pause_on_timeout=True)
    pausing = phase <= Phase.COPY
    assert plan.actions == ((Action.PAUSE_GUEST if pausing else Action.IGNORE),)
    assert plan.exit_code is None


def test_settle_covers_everything_and_never_makes_two() -> None:
    may_run_source = {Step.RESUME, Step.RESUME_WITH_ABORT, Step.NOTHING}
    for source, destination, token in itertools.product(
        SourceFact, DestinationFact, (False, True)
    ):
        step = settle(source, destination, commit_token=token)
        # RUNNING with a source that has not committed cannot be: no COMMIT, no
        # RUNNING; and RELEASED means that the source runs already.
        undecided = source not in (SourceFact.RELEASED, SourceFact.HOLDS)
        if destination is DestinationFact.RUNNING and undecided:
            assert step not in may_run_source
        if step is Step.RESUME_WITH_ABORT:
            assert (source, destination) == (SourceFact.COMMITTED, DestinationFact.ABORTED)
        if step is Step.LOST:
            assert source in (SourceFact.COMMITTED, SourceFact.DEAD)
            assert destination is not DestinationFact.RUNNING
            assert destination is not DestinationFact.UNREACHABLE


@pytest.mark.parametrize(
    ("source", "destination", "token", "step"),
    [
        (SourceFact.RELEASED, DestinationFact.UNREACHABLE, False, Step.NOTHING),
        (SourceFact.HOLDS, DestinationFact.UNREACHABLE, False, Step.RESUME),
        (SourceFact.HOLDS, DestinationFact.PREPARED, False, Step.RESUME),
        (SourceFact.TOLD, DestinationFact.RUNNING, True, Step.CLEAN_SOURCE),
        (SourceFact.COMMITTED, DestinationFact.PREPARED, False, Step.SEND_COMMIT),
        (SourceFact.COMMITTED, DestinationFact.RUNNING, False, Step.FINISH),
        (SourceFact.COMMITTED, DestinationFact.ABORTED, False, Step.RESUME_WITH_ABORT),
        (SourceFact.COMMITTED, DestinationFact.UNREACHABLE, True, Step.UNPROVEN),
        (SourceFact.COMMITTED, DestinationFact.DEAD, True, Step.LOST),
        (SourceFact.COMMITTED, DestinationFact.NOTHING, True, Step.UNPROVEN),
        (SourceFact.COMMITTED, DestinationFact.RECEIVING, True, Step.UNPROVEN),
        (SourceFact.COMMITTED, DestinationFact.FAILED, True, Step.ASK_ABORT),
        (SourceFact.COMMITTED, DestinationFact.ENDED, True, Step.ENDED),
        (SourceFact.DEAD, DestinationFact.ENDED, False, Step.ENDED),
        (SourceFact.UNKNOWN, DestinationFact.ENDED, True, Step.UNPROVEN),
        (SourceFact.HOLDS, DestinationFact.ENDED, False, Step.RESUME),
        (SourceFact.DEAD, DestinationFact.FAILED, True, Step.LOST),
        (SourceFact.DEAD, DestinationFact.RUNNING, False, Step.CLEAN_SOURCE),
        (SourceFact.DEAD, DestinationFact.PREPARED, True, Step.SEND_COMMIT),
        (SourceFact.DEAD, DestinationFact.PREPARED, False, Step.LOST),
        (SourceFact.DEAD, DestinationFact.ABORTED, True, Step.LOST),
        (SourceFact.DEAD, DestinationFact.NOTHING, True, Step.LOST),
        (SourceFact.DEAD, DestinationFact.UNREACHABLE, True, Step.UNPROVEN),
        (SourceFact.UNKNOWN, DestinationFact.RUNNING, True, Step.FINISH),
        (SourceFact.UNKNOWN, DestinationFact.PREPARED, True, Step.UNPROVEN),
    ],
)
def test_settle(
    source: SourceFact, destination: DestinationFact, token: bool, step: Step
) -> None:
    assert settle(source, destination, commit_token=token) is step


PHASES = range(abi.PHASE_NONE, abi.PHASE_FAILED + 1)


def test_only_our_own_session_as_source_can_have_given_the_guest_away() -> None:
    """TOLD ends in the removal of QEMU here: nothing else may lead to it."""
    for phase, role, ours in itertools.product(
        PHASES, (0, abi.ROLE_SOURCE, abi.ROLE_DESTINATION), (False, True)
    ):
        fact = source_fact(phase, role, ours=ours)
        told = (phase, role, ours) == (abi.PHASE_RUNNING, abi.ROLE_SOURCE, True)
        assert (fact is SourceFact.TOLD) == told
        for destination in DestinationFact:
            removes = settle(fact, destination, commit_token=True) is Step.CLEAN_SOURCE
            assert removes == told


@pytest.mark.parametrize(
    ("phase", "role", "ours", "fact"),
    [
        (abi.PHASE_NONE, 0, False, SourceFact.RELEASED),
        (abi.PHASE_RUNNING, abi.ROLE_DESTINATION, False, SourceFact.RELEASED),
        (abi.PHASE_RUNNING, abi.ROLE_DESTINATION, True, SourceFact.RELEASED),
        (abi.PHASE_PREPARED, abi.ROLE_DESTINATION, False, SourceFact.UNKNOWN),
        (abi.PHASE_OPEN, abi.ROLE_SOURCE, False, SourceFact.HOLDS),
        (abi.PHASE_STREAMING, abi.ROLE_SOURCE, True, SourceFact.HOLDS),
        (abi.PHASE_FAILED, abi.ROLE_SOURCE, True, SourceFact.HOLDS),
        (abi.PHASE_COMMITTED, abi.ROLE_SOURCE, True, SourceFact.COMMITTED),
        (abi.PHASE_COMMITTED, abi.ROLE_SOURCE, False, SourceFact.UNKNOWN),
        (abi.PHASE_RUNNING, abi.ROLE_SOURCE, False, SourceFact.UNKNOWN),
    ],
)
def test_source_fact(phase: int, role: int, ours: bool, fact: SourceFact) -> None:
    assert source_fact(phase, role, ours=ours) is fact
