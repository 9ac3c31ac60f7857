# SPDX-License-Identifier: Apache-2.0
"""What `receive` tells while it waits and receives: words for people, or events as JSON lines.

stdout has the ticket and the result in text, and the result alone in JSON.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from cpcctl.errors import CpcError
from cpcctl.migrate.destination import Destination
from cpcctl.ui.context import Context
from cpcctl.ui.output import say

LOOK_SECONDS = 0.1
TELL_SECONDS = 1.0
LEAVE_SECONDS = 1.0


class Events:
    """Where they go: stream when it is given, else stderr."""

    def __init__(self, ctx: Context, stream: TextIO | None = None) -> None:
        self._ctx = ctx
        self._json = ctx.out.format == "json" or stream is not None
        self._stream = stream or ctx.out.stderr
        self.stalled = False

    def waiting(self, ticket: str, job: str, address: str) -> None:
        """Say that a source may come now, with what it needs. :raise OSError: nobody hears."""
        if self._ctx.out.format != "json":
            print(ticket, file=self._ctx.out.stdout, flush=True)
        if self._json:
            event = {"event": "waiting", "ticket": ticket, "job": job, "address": address}
            print(json.dumps(event), file=self._stream, flush=True)
        else:
            self._ctx.out.note(f"waiting for a source on {address}; Ctrl-C gives up")

    def _tell(self, event: str, words: str, **more: Any) -> None:
        if self._json:
            say(json.dumps({"event": event, **more}), self._stream)
        else:
            self._ctx.out.note(words)

    @contextlib.contextmanager
    def following(self, destination: Destination) -> Iterator[None]:
        """Tell who comes and how much has arrived, until the block ends."""
        over = threading.Event()
        thread = threading.Thread(
            target=self._follow, args=(destination, over), name="cpc-events", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            over.set()
            # Who reads what it tells may have stalled.
            thread.join(LEAVE_SECONDS)
            self.stalled = thread.is_alive()

    def _follow(self, destination: Destination, over: threading.Event) -> None:
        record = destination.job.record
        quiet = self._json or self._ctx.settings.progress == "none"
        progress = None if quiet else self._ctx.progress()
        came, phase, told = None, record.phase, 0.0
        failure: CpcError | None = None
        while not over.wait(LOOK_SECONDS):
            found = (record.data.get("source"), record.data.get("peer"))
            if found != came and all(found):
                came = found
                self._tell("source", f"source {found[0]} has come from {found[1]}",
                           host=found[0], peer=found[1])
            if destination.failure is not failure:
                failure = destination.failure
                if failure is not None:
                    self._tell("failure", failure.render(), error=failure.as_dict())
            if record.phase != phase:
                phase = record.phase
                if progress is not None:
                    progress.phase(phase)
                elif self._json:
                    self._tell("phase", "", phase=phase, vm=record.vm)
            streams, now = destination.streams, time.monotonic()
            if streams is None or phase != "receive":
                continue
            try:
                taken = streams.bytes_taken
            except ValueError:
                continue  # the rings were closed meanwhile
            if progress is not None:
                progress.update(taken, None, "received")
            elif self._json and now - told > TELL_SECONDS:
                told = now
                self._tell("progress", "", phase=phase, bytes=taken)
        if progress is not None:
            progress.finish(record.phase == "running")
