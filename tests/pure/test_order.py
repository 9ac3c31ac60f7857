# SPDX-License-Identifier: Apache-2.0
"""Every request in every state of the destination."""

from __future__ import annotations

import pytest

from cpcctl.errors import CpcError, ExitCode
from cpcctl.migrate import messages, order
from cpcctl.migrate.machine import DestinationFact
from cpcctl.migrate.order import Stage

# What each state takes besides hello, clock and query. Written out: this is the contract.
TAKES = {
    Stage.IDLE: {"preflight", "prepare", "abort"},
    Stage.LAUNCHED: {"handshake", "abort"},
    Stage.OPENED: {"confirm", "abort"},
    Stage.RECEIVING: {"watch", "complete", "abort"},
    Stage.PREPARED: {"watch", "run", "abort"},
    Stage.RUNNING: {"watch", "run", "done"},
    Stage.RAN: {"watch", "done"},
    Stage.BROKEN: {"watch", "abort"},
    Stage.FAILED: {"watch", "abort"},
    Stage.DEAD: {"watch", "abort"},
    Stage.UNKNOWN: {"watch", "abort"},
    Stage.ABORTED: {"abort", "done"},
    Stage.ENDED: {"abort", "done"},
}


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("request_name", sorted(messages.REQUESTS))
def test_every_request_in_every_state(request_name: str, stage: Stage) -> None:
    if request_name in TAKES[stage] | {"hello", "clock", "query"}:
        order.check(request_name, stage)
        return
    with pytest.raises(CpcError, match=f"request {request_name!r} is out of order") as caught:
        order.check(request_name, stage)
    assert caught.value.exit_code is ExitCode.REFUSED
    assert stage.value in caught.value.message


def test_the_table_is_whole() -> None:
    assert set(order.TAKEN) == set(messages.REQUESTS)
    assert set(order.FACTS) == set(Stage)
    told = {stage.fact for stage in Stage}
    assert told == set(DestinationFact) - {DestinationFact.UNREACHABLE}


def test_the_way_it_goes() -> None:
    stage = Stage.IDLE
    for request in ("hello", "preflight", "prepare", "clock", "handshake", "confirm", "watch",
                    "complete", "run", "query", "run", "done"):
        order.check(request, stage)
        stage = order.after(request, stage, ok=True)
    assert stage is Stage.RUNNING


@pytest.mark.parametrize(
    ("by_guest", "prepared", "told", "stage"),
    [
        (True, True, True, Stage.RUNNING),
        (True, True, False, Stage.RAN),
        # It never ran: whatever made its firmware give up ended a guest that was not here yet.
        (True, False, False, Stage.DEAD),
        (False, True, True, Stage.DEAD),
        (False, True, False, Stage.DEAD),
    ],
)
def test_what_a_qemu_that_is_gone_leaves(
    by_guest: bool, prepared: bool, told: bool, stage: Stage
) -> None:
    assert order.after_its_end(by_guest=by_guest, prepared=prepared, told=told) is stage


@pytest.mark.parametrize("request_name", sorted(messages.REQUESTS))
def test_a_step_that_fails_is_not_taken_as_done(request_name: str) -> None:
    for stage in Stage:
        if stage in order.TAKEN[request_name]:
            after = order.after(request_name, stage, ok=False)
            assert after is (Stage.BROKEN if request_name in order.BREAKING else stage)
    # From BROKEN only an abort leads on.
    assert order.TAKEN["run"].isdisjoint({Stage.BROKEN, Stage.FAILED})
