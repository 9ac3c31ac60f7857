# SPDX-License-Identifier: Apache-2.0
"""The front end of a migration: start its worker, show a job, cancel, report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cpcctl.config.patience import patient
from cpcctl.config.settings import NAMES, Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host import atomic
from cpcctl.host.files import read_end
from cpcctl.host.state import Folders, VmLock
from cpcctl.jobs.store import INTERRUPTED, RUNNING, UNSAVED, Job, JobStore, Record
from cpcctl.ui import interrupts
from cpcctl.ui.context import Context
from cpcctl.ui.output import number, pairs, size, table

LOOK_SECONDS = 0.05
LOG_END = 4000
LEAVE_SECONDS = patient(5.0)
TOP = Path(__file__).resolve().parents[2]
NOT_ATTESTED = "peer: not attested (mutual attestation is not part of this version)"


def start_worker(settings: Settings, job: Job, lock: VmLock) -> subprocess.Popen[bytes]:
    """Start the process that runs the job; it holds the lock from now on.

    It begins with signals blocked, until it can cancel: one that ended it while Python
    still loads would leave a job that nobody has ended.
    """
    log = Folders.of(settings).jobs / f"{job.id}.log"
    named = {name: getattr(settings, name) for name in NAMES}
    chosen = {f"CPCCTL_{name.upper()}": str(v) for name, v in named.items() if v is not None}
    paths = [str(TOP), *filter(None, [os.environ.get("PYTHONPATH")])]
    with open(atomic.append(log), "ab") as output:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.NUMBERS)
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "cpcctl.migrate.worker", job.id],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                pass_fds=(lock.fileno(),),
                env={**os.environ, **chosen, "PYTHONPATH": os.pathsep.join(paths)},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_taken(settings: Settings, job_id: str, child: subprocess.Popen[bytes]) -> bool:
    """Until the worker has made the job its own; False when it has died before that."""
    store = JobStore(Folders.of(settings).jobs)
    while store.load(job_id).pid == os.getpid():
        if child.poll() is not None:
            return store.load(job_id).pid != os.getpid()
        time.sleep(LOOK_SECONDS)
    return True


def follow(
    ctx: Context, job_id: str, child: subprocess.Popen[bytes] | None = None, *,
    cancels: bool = True, code_of: Callable[[Record], int] | None = None,
) -> Record:  # fmt: skip
    """Show a job until it has ended or its controller is gone; Ctrl-C cancels it, or, without
    cancels, ends this alone. :raise KeyboardInterrupt: the latter.

    code_of: the verb's exit code for a job that has ended, when it is not the job's own; with
    it the process ends by a signal from then on, though nobody reads what it says
    """
    store = JobStore(Folders.of(ctx.settings).jobs)
    progress = ctx.progress()
    phase, stopped = "", ExitCode.INTERRUPTED
    ok = False

    def code() -> int | None:
        return _ended_with(store, job_id, child, stopped, code_of or exit_code)

    try:
        while True:
            try:
                interrupts.deliver()
                record = store.load(job_id)
                if child is not None and child.poll() is not None:
                    record = store.load(job_id)  # what it wrote last
                ended = record.state != RUNNING
                gone = child.poll() is not None if child else record.seen_state == INTERRUPTED
                if ended or gone:
                    # How it ended is said, whatever comes now.
                    interrupts.end_with(code)
                    ok = record.state == "done"
                    # It still holds the VM's lock for a moment; what comes next may want it.
                    if record.pid != os.getpid():
                        record.process.wait_gone(LEAVE_SECONDS)
                    break
                if record.phase != phase and record.phase:
                    phase = record.phase
                    progress.phase(phase)
                note = record.progress
                if phase == "copy" and "round" in note:
                    progress.update(note["bytes_done"], note["bytes_expected"], _round(note))
                time.sleep(LOOK_SECONDS)
            except KeyboardInterrupt as stop:
                if not cancels:
                    raise
                stopped = interrupts.exit_code(stop)
                interrupts.end_with(code, heard=True)
                # Before a word of it: who reads that may have stalled.
                request_cancel(store.load(job_id), child)
                ctx.out.note("cancelling; waiting until it is clear where the VM is")
    finally:
        progress.finish(ok)
    if record.exit_code == ExitCode.INTERRUPTED:
        record.exit_code = int(stopped)
    return record


def _ended_with(
    store: JobStore, job_id: str, child: subprocess.Popen[bytes] | None, stopped: ExitCode,
    code_of: Callable[[Record], int],
) -> int | None:  # fmt: skip
    """The exit code that says where the VM is; None while that is not clear."""
    try:
        record = store.load(job_id)
    except CpcError:
        return None
    if record.state == RUNNING:
        ended = child.poll() or 0 if child is not None else 0
        return ended - UNSAVED if ended >= UNSAVED else None
    if record.exit_code == ExitCode.INTERRUPTED:
        record.exit_code = int(stopped)
    return code_of(record)


def exit_code(record: Record) -> int:
    """That of a job that has ended."""
    return record.exit_code if record.exit_code is not None else int(ExitCode.UNPROVEN)


def _round(progress: dict[str, Any]) -> str:
    """"round 7, 1.2 GiB sent, no progress for 35 s: ..."."""
    words = (
        f"round {progress['round']}", f"{size(progress['bytes_sent'])} sent", progress.get("note")
    )  # fmt: skip
    return ", ".join(filter(None, words))


def request_cancel(record: Record, child: subprocess.Popen[bytes] | None = None) -> None:
    """Ask a job's controller to cancel; one that has gone hears nothing."""
    if record.kind == "migrate" and child is not None and record.pid == os.getpid():
        child.send_signal(signal.SIGTERM)  # it has not taken the job over yet
    else:
        record.process.signal(signal.SIGTERM)


def report_unsaved(ctx: Context, record: Record, code: int) -> int:
    """As report(), of a job whose worker could not write how it ended. code: the worker's."""
    log = Folders.of(ctx.settings).jobs / f"{record.id}.log"
    told = read_end(log, LOG_END).decode("utf-8", "replace")
    if code == ExitCode.OK:
        ctx.out.note(f"that VM {record.vm} moved is not in the file of its job:\n{told}")
        ctx.out.result({"vm": record.vm, "job": record.id}, f"moved {record.vm}")
        return code
    raise as_error(
        {
            "message": f"how job {record.id} ended is not in its file",
            "host": record.host,
            "cause": told,
            "hint": f"df {log.parent}; findmnt -T {log.parent}",
        },
        code,
    )


def report(ctx: Context, record: Record) -> int:
    """Print an ended job's result or its error; its exit code."""
    code = exit_code(record)
    if record.error is not None:
        raise as_error(record.error, code)
    text = ""
    if record.result and record.kind == "receive":
        text = f"{record.result['vm']} arrived on {record.result['host']}"
    elif record.result:
        text = describe(record.result)
    ctx.out.result(record.result, text, code=code)
    return code


def as_error(document: dict[str, Any], code: int) -> CpcError:
    """The error that ended a job, to raise again."""
    texts = {key: document.get(key) for key in ("host", "cause", "hint")}
    try:
        exit_code = ExitCode(code)
    except ValueError:
        exit_code = ExitCode.UNPROVEN
    return CpcError(
        str(document.get("message")),
        exit_code=exit_code,
        **{key: str(value) if value else None for key, value in texts.items()},
    )


def describe(result: dict[str, Any]) -> str:
    """A migration's result for people."""
    items = summary(result)
    for entry in result["phases"]:
        items.append((f"phase {entry['name']}", _seconds(entry["seconds"])))
    # A job of an earlier version says nothing of it.
    protected = result.get("protection")
    parts = [pairs(items), rounds_table(result["rounds"]), NOT_ATTESTED, protected]
    return "\n".join(filter(None, parts))


def summary(result: dict[str, Any]) -> list[tuple[str, object]]:
    """A result but for its phases and rounds."""
    return [
        ("moved", f"{result['vm']} from {result['source']} to {result['destination']}"),
        ("total", _seconds(result["total_seconds"])),
        ("downtime", _seconds(result["downtime_seconds"])),
        *_paused(result["paused_seconds"]),
        ("sent", size(result["bytes_sent"])),
        ("streams", f"{result['streams']} ({result.get('streams_why', 'unknown')})"),
        ("cipher", f"{result['suite']} ({result.get('suite_why', 'unknown')})"),
    ]


def standing(progress: dict[str, Any]) -> list[tuple[str, object]]:
    """How far a migration is, or was when it ended, but for its rounds."""
    found: list[tuple[str, object]] = []
    if "round" in progress:
        pages = f"{progress['pages']} pages sent, {progress['zero_pages']} zero pages"
        done, expected = size(progress["bytes_done"]), size(progress["bytes_expected"])
        found.append((f"round {progress['round']}", f"{done} of {expected}: {pages}"))
    if "bytes_sent" in progress:
        found.append(("sent", size(progress["bytes_sent"])))
    if "expected_downtime_seconds" in progress:
        expected = _seconds(progress["expected_downtime_seconds"])
        found.append(("downtime", f"{expected}, if it switched over now"))
        written, copied = progress["dirty_bytes_per_second"], progress["copy_bytes_per_second"]
        found.append(("rates", f"{size(written)}/s written by the guest, {size(copied)}/s copied"))
    return [*found, ("note", progress["note"])] if progress.get("note") else found


def rounds_table(rounds: Sequence[dict[str, Any]]) -> str:
    """The rounds that a migration reported, a row each; "" for none."""
    if not rounds:
        return ""
    rows = [
        (
            entry["number"], entry["pages"], entry["zero_pages"],
            "-" if entry["dirty"] is None else entry["dirty"],
            size(entry["bytes"]), _seconds(entry["seconds"]),
        )
        for entry in rounds
    ]
    head = ("ROUND", "PAGES SENT", "ZERO PAGES", "DIRTY AFTER", "BYTES", "TIME")
    lines = table(head, rows).splitlines()
    for place in range(len(rounds) - 1, 0, -1):
        left_out = rounds[place]["number"] - rounds[place - 1]["number"] - 1
        if left_out:
            lines.insert(place + 1, f"({number(left_out, 'round')} left out)")
    return "\n".join(lines)


def _paused(seconds: float) -> list[tuple[str, object]]:
    if not seconds:
        return []
    return [("paused", f"{_seconds(seconds)} of the downtime, by --on-timeout pause")]


def _seconds(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f} s"
