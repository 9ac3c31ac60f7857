# SPDX-License-Identifier: Apache-2.0
"""Which request a destination takes when, and where each leads. Pure.

The firmware has such a table for its calls; this is the controller's, for what the
source asks over the network. A request that is out of order is refused by name and
changes nothing.
"""

from __future__ import annotations

from enum import Enum

from cpcctl.errors import CpcError, ExitCode, quoted
from cpcctl.migrate.machine import DestinationFact


class Stage(Enum):
    """How far one `receive` is, in words that go on after "the destination"."""

    IDLE = "has launched nothing yet"
    LAUNCHED = "has launched QEMU"
    OPENED = "has exchanged keys"
    RECEIVING = "takes data streams"
    PREPARED = "has received everything and waits for the commit"
    RUNNING = "runs the guest"
    RAN = "ran the guest, which has ended by itself since"
    BROKEN = "could not do a step and waits to abort"
    FAILED = "has a firmware that failed and waits to abort"
    ABORTED = "has aborted permanently"
    ENDED = "is done and holds no state of the guest"
    DEAD = "has lost its QEMU"
    UNKNOWN = "cannot ask its QEMU"

    @property
    def fact(self) -> DestinationFact:
        """What the source is told when it asks."""
        return FACTS[self]


FACTS = {
    Stage.IDLE: DestinationFact.NOTHING,
    Stage.LAUNCHED: DestinationFact.RECEIVING,
    Stage.OPENED: DestinationFact.RECEIVING,
    Stage.RECEIVING: DestinationFact.RECEIVING,
    Stage.PREPARED: DestinationFact.PREPARED,
    Stage.RUNNING: DestinationFact.RUNNING,
    Stage.RAN: DestinationFact.ENDED,
    Stage.BROKEN: DestinationFact.RECEIVING,
    Stage.FAILED: DestinationFact.FAILED,
    Stage.ABORTED: DestinationFact.ABORTED,
    Stage.ENDED: DestinationFact.NOTHING,
    Stage.DEAD: DestinationFact.DEAD,
    Stage.UNKNOWN: DestinationFact.UNKNOWN,
}
ANY = frozenset(Stage)
TAKEN: dict[str, frozenset[Stage]] = {
    "hello": ANY,
    "clock": ANY,
    "query": ANY,
    "preflight": frozenset({Stage.IDLE}),
    "prepare": frozenset({Stage.IDLE}),
    "handshake": frozenset({Stage.LAUNCHED}),
    "confirm": frozenset({Stage.OPENED}),
    # A stream that broke may be asked for its reason, whatever came after.
    "watch": ANY - {Stage.IDLE, Stage.LAUNCHED, Stage.OPENED, Stage.ABORTED, Stage.ENDED},
    "complete": frozenset({Stage.RECEIVING}),
    # Both tokens may have been lost on their way, so this may be asked again.
    "run": frozenset({Stage.PREPARED, Stage.RUNNING}),
    "abort": ANY - {Stage.RUNNING, Stage.RAN},
    "done": frozenset({Stage.RUNNING, Stage.RAN, Stage.ABORTED, Stage.ENDED}),
}
# Where a request leads that succeeds. The others change nothing, or, abort and query,
# lead where the firmware says.
LEADS = {
    "prepare": Stage.LAUNCHED,
    "handshake": Stage.OPENED,
    "confirm": Stage.RECEIVING,
    "complete": Stage.PREPARED,
    "run": Stage.RUNNING,
}
# Those that leave a firmware between two states when they fail.
BREAKING = frozenset({"handshake", "confirm", "complete"})


def check(request: str, stage: Stage) -> None:
    """:raise CpcError: (3) this request is out of order."""
    if stage not in TAKEN[request]:
        raise CpcError(
            f"request {quoted(request)} is out of order: the destination {stage.value}",
            exit_code=ExitCode.REFUSED,
        )


def after(request: str, stage: Stage, *, ok: bool) -> Stage:
    """Where the destination is when a request has been worked on."""
    if ok:
        return LEADS.get(request, stage)
    return Stage.BROKEN if request in BREAKING else stage


def after_its_end(*, by_guest: bool, prepared: bool, told: bool) -> Stage:
    """Where the destination is once its QEMU is gone.

    by_guest: the guest ended by itself, so it had run and so it had been given away.
    prepared: it may have been. told: RUN's token is kept, with which the source can still
    be answered as if nothing had happened since.
    """
    if not (by_guest and prepared):
        return Stage.DEAD
    return Stage.RUNNING if told else Stage.RAN
