# SPDX-License-Identifier: Apache-2.0
"""A source that is there and gets nowhere: how long a destination bears that. Pure.

Signs of life prove that its controller lives, not that it means to move a guest; whoever has the
ticket could hold a `receive` for ever by them. A source ends by itself when nothing has moved for
converge.STALL_SECONDS, so four times that cuts off no honest one: bytes of a slow one arrive, and
what takes long without any is the destination's own work, which does not count.
"""

from __future__ import annotations

import time

from cpcctl.config.patience import patient
from cpcctl.errors import CpcError, ExitCode
from cpcctl.migrate import converge
from cpcctl.migrate.order import Stage

LONGEST_SECONDS = patient(4 * converge.STALL_SECONDS)


class Standstill:
    """The time in which a source was connected and nothing changed, over all its connections."""

    def __init__(self) -> None:
        self._seen: tuple[Stage, int] | None = None
        self._still = 0.0
        self._looked = time.monotonic()

    def connected(self) -> None:
        """The time until now was without a connection, and does not count."""
        self._looked = time.monotonic()

    def look(self, stage: Stage, moved: int, *, works: bool) -> None:
        """Call it about once a second.

        moved: bytes that have arrived over all streams
        works: this host is at something that the source waits for
        :raise CpcError: (6) it has been too long, and nothing was launched; (1) it was.
        """
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        if works or (stage, moved) != self._seen:
            self._seen, self._still = (stage, moved), 0.0
            return
        self._still += passed
        if self._still > LONGEST_SECONDS:
            raise _held(stage, self._still)


def _held(stage: Stage, seconds: float) -> CpcError:
    begun = stage is not Stage.IDLE
    return CpcError(
        f"the source is connected and has done nothing for {seconds:.0f} s",
        exit_code=ExitCode.FAILED if begun else ExitCode.TIMED_OUT,
        cause=f"no byte came over its data streams, and the destination {stage.value}",
        hint="look at `cpcctl job list` on the source\n"
        "run `cpcctl receive` again and pass its ticket to `cpcctl migrate`",
    )
