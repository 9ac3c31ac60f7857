# SPDX-License-Identifier: Apache-2.0
"""The detached process that runs a migration: python -m cpcctl.migrate.worker JOB.

It holds the VM's lock (inherited), takes the job over and ends it, whatever
happens. SIGTERM asks it to cancel.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading

from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.state import Folders
from cpcctl.jobs.store import UNSAVED, Job, JobStore
from cpcctl.link import rpc
from cpcctl.link import ticket as tickets
from cpcctl.migrate import messages, report
from cpcctl.migrate.machine import Phase
from cpcctl.migrate.options import Options
from cpcctl.migrate.recovery import rollback
from cpcctl.migrate.recovery.outcome import MOVED, Outcome
from cpcctl.migrate.side import Side
from cpcctl.migrate.source import Source
from cpcctl.ui import interrupts
from cpcctl.vm import lifecycle

STATES = {
    ExitCode.REFUSED: "refused",
    ExitCode.TIMED_OUT: "cancelled",
    ExitCode.INTERRUPTED: "cancelled",
    ExitCode.UNPROVEN: "unproven",
    ExitCode.LOST: "lost",
}


def run(settings: Settings, job: Job, cancel: threading.Event) -> ExitCode:
    """Run the migration that a job file describes, to its end."""
    try:
        source = make_source(settings, job)
    except CpcError as error:
        return end(job, error)
    source.cancel = cancel
    try:
        return close_job(settings, source, drive(source))
    finally:
        source.close()


def make_source(settings: Settings, job: Job) -> Source:
    """Everything that is needed to go on with a job. :raise CpcError: it cannot be had."""
    data = job.record.data
    side = Side.attach(lifecycle.attach(settings, job.record.vm))
    return Source(job, side, tickets.parse(data["ticket"]), Options.read(data["options"]))


def drive(source: Source) -> Outcome:
    """Run it; on trouble bring the guest to one side."""
    try:
        source.run()
        return MOVED
    except Exception as error:  # noqa: BLE001 - every way out must leave the guest in one place
        return rollback.handle(source, error)


def close_job(settings: Settings, source: Source, outcome: Outcome) -> ExitCode:
    """End a job; what is left here of a guest that moved is removed."""
    if outcome.error is not None:
        return end(source.job, outcome.error)
    try:
        leave(settings, source)
    except CpcError as error:
        return end(source.job, error)
    arrived(source.job, source)
    return ExitCode.OK


def leave(settings: Settings, source: Source) -> None:
    """The guest runs on the destination: end QEMU here and remove its files.

    :raise CpcError: (5) QEMU here is not frozen, so the guest may run in it.
    """
    assert source.phase is Phase.FINISHED
    _check_frozen(source)
    # If it cannot hear, the destination ends by itself; the guest is there.
    with contextlib.suppress(rpc.LinkLost, CpcError):
        source.ask(messages.Done())
    if source.streams is not None:
        source.streams.stop()
    source.close()
    lifecycle.discard(settings, source.name)


def _check_frozen(source: Source) -> None:
    """A guest that was given away is frozen for ever; whatever else runs is not ended."""
    try:
        if source.gone or source.side.info()["frozen"]:
            return
        cause = "QEMU is not frozen, as it must be when the guest was given away"
    except CpcError as error:
        if source.gone:
            return
        cause = error.cause or error.message
    raise CpcError(
        f"VM {source.name} was not removed from {source.here}: that it moved is not proven",
        exit_code=ExitCode.UNPROVEN,
        host=source.here,
        cause=cause,
        hint=f"cpcctl vm status {source.name}, on both hosts",
    )


def arrived(job: Job, source: Source) -> None:
    """Write the last words of a job that moved its VM."""
    job.record.data.pop("ticket", None)
    job.finish("done", result=report.result(source))


def end(job: Job, error: CpcError) -> ExitCode:
    """Write a failed job's last words. Its ticket stays only while it may be needed."""
    if error.exit_code is not ExitCode.UNPROVEN:
        job.record.data.pop("ticket", None)
    job.finish(STATES.get(error.exit_code, "failed"), error=error)
    return error.exit_code


def main() -> int:
    """Started by `cpcctl migrate`; argv: the job's id. Settings are in the environment.

    Returns its exit code, plus UNSAVED when how it ended is in its log alone.
    """
    from cpcctl.config.load import load

    cancel = threading.Event()
    for number in interrupts.NUMBERS:
        signal.signal(number, lambda *_: cancel.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.NUMBERS)  # as follow.start_worker left it
    settings = load({})
    store = JobStore(Folders.of(settings).jobs)
    job = store.adopt(store.load(sys.argv[1]))
    code = int(run(settings, job, cancel))
    if job.unsaved is None:
        return code
    ended = job.record.error or {}
    for words in (ended.get("message"), ended.get("cause"), job.unsaved.render()):
        if words:
            print(words, file=sys.stderr)
    return code + UNSAVED


if __name__ == "__main__":
    sys.exit(main())
