# SPDX-License-Identifier: Apache-2.0
"""The data streams of one side: a pump and a running call for each hvCPU."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from cpcctl.errors import CpcError
from cpcctl.link.pump import Pump, Receiver

T = TypeVar("T")
PumpT = TypeVar("PumpT", bound=Pump)


class StreamBroke(CpcError):
    """A data stream ended too early; the other host may know why, and be well."""


class Cancelled(Exception):
    """Another call, or the look at it, failed."""


class Streams:
    """Runs calls on several hvCPUs at once and watches their pumps."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pumps: list[Pump] = []
        self.cancelled = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(count + 2, "cpc-stream")

    def start_pumps(self, pumps: Sequence[Pump]) -> None:
        """Begin to move bytes."""
        self.pumps = list(pumps)
        for pump in self.pumps:
            pump.start()

    def submit(self, call: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Run a call in a thread; it must look at `cancelled`."""
        return self._pool.submit(call)

    def wait(
        self, calls: Sequence[concurrent.futures.Future[T]], look: Callable[[], None], every: float
    ) -> list[T]:
        """The results of calls; look() every so many seconds meanwhile.

        Whatever look or a call raises cancels the calls and goes through; a
        pump's own error comes first, for it is the cause.
        """
        pending = set(calls)
        try:
            while pending:
                finished, pending = concurrent.futures.wait(
                    pending, every, concurrent.futures.FIRST_COMPLETED
                )
                for call in finished:
                    call.result()
                self.check()
                if pending:
                    look()
        except BaseException:
            self.cancelled.set()
            concurrent.futures.wait(calls, 30.0)
            self.check()
            raise
        return [call.result() for call in calls]

    def look(self) -> None:
        """For a request in one of the calls. :raise Cancelled: nobody wants its answer."""
        if self.cancelled.is_set():
            raise Cancelled

    def check(self) -> None:
        """:raise StreamBroke: a data stream did. :raise CpcError: its ring did."""
        for pump in self.pumps:
            if isinstance(pump.error, CpcError):
                raise pump.error
            if pump.error is not None:
                raise StreamBroke(f"a data stream broke: {pump.error}") from pump.error
            if isinstance(pump, Receiver) and pump.starved:
                raise StreamBroke("the source closed a data stream before its end")

    @property
    def bytes_moved(self) -> int:
        """Over all streams."""
        return sum(pump.bytes_moved for pump in self.pumps)

    @property
    def bytes_taken(self) -> int:
        """Destination: how many of them the firmware has taken out of the rings.

        The rings' tails, which OPEN has set to 0: a single read each, for both of a
        ring's counters are moved by others while this looks.
        """
        return sum(pump.port.ring.tail for pump in self.pumps)

    @property
    def bytes_sent(self) -> int | None:
        """Source: how many there are in all; None while some wait in a ring."""
        waiting = any(pump.port.ring.used for pump in self.pumps)
        return None if waiting else self.bytes_moved

    def stop(self) -> None:
        """End pumps and calls; may be called twice."""
        self.cancelled.set()
        for pump in self.pumps:
            pump.stop.set()
        for pump in self.pumps:
            pump.join(5.0)
        self._pool.shutdown(wait=True)
