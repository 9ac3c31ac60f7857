# SPDX-License-Identifier: Apache-2.0
"""Job files: one JSON document a job, written atomically, kept after the end.

Every job owns a reserve file, given up when the disk is full, so that its
last words can always be written.
"""

from __future__ import annotations

import builtins
import contextlib
import datetime
import errno
import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cpcctl.errors import CpcError, ExitCode, quoted, reason
from cpcctl.host import atomic
from cpcctl.host.atomic import write_atomic
from cpcctl.host.files import open_plain, read_all
from cpcctl.host.folders import make_folder
from cpcctl.host.process import ProcessId
from cpcctl.host.state import disk_error

RESERVE = 64 << 10
# Several hundred kilobytes at most: what a peer said, a log's end, some rounds.
JOB_MAX = 4 << 20
# The VM's name is the third field of the file, within the first bytes.
HEAD, VM = 300, re.compile(rb'^ "vm": "([A-Za-z0-9._-]*)",$', re.MULTILINE)
JOB_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
STAMP = "%Y%m%d-%H%M%S"
# The first of a second has one of so many numbers, the next ones are at most so far behind.
ROOM, STEP = 0x8000, 0x100
RUNNING = "running"
# A running job whose controller is gone; never stored, only seen.
INTERRUPTED = "interrupted"
# Added to the exit code of a controller that could not write how its job ended.
UNSAVED = 100
ENDED = ("done", "failed", "cancelled", "refused", "lost", "unproven")


@dataclass
class Record:
    """What a job file holds.

    state:    running, or one of ENDED
    phases:   {"name", "started" (seconds since the job began), "seconds"}
    progress: what the running operation says, e.g. bytes_sent, round
    data:     what the operation needs to go on after a crash
    error:    CpcError.as_dict() of what ended it
    """

    id: str
    kind: str
    vm: str
    host: str
    state: str
    created: str
    pid: int
    pid_started: int
    updated: str = ""
    finished: str | None = None
    phase: str = ""
    phases: list[dict[str, Any]] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    exit_code: int | None = None

    @property
    def process(self) -> ProcessId:
        """The controller that runs, or ran, the job."""
        return ProcessId(self.pid, self.pid_started)

    @property
    def seen_state(self) -> str:
        """state, or INTERRUPTED when it says running and nobody runs it."""
        return INTERRUPTED if self.state == RUNNING and not self.process.alive else self.state

    def public(self) -> dict[str, Any]:
        """For --format json: all but `data`, which may hold secrets."""
        document = asdict(self)
        del document["data"]
        document["state"] = self.seen_state
        return document


class Job:
    """A job of this process. Not for several threads without a lock."""

    def __init__(self, store: JobStore, record: Record, clock_start: float) -> None:
        self._store = store
        self.record = record
        self._begin = clock_start
        self._phase_begin = clock_start
        self._goes_on = False
        # Why its file says less than it should.
        self.unsaved: CpcError | None = None
        # finish() has done all it does.
        self.ended = False

    @property
    def id(self) -> str:
        """The job's id."""
        return self.record.id

    def phase(self, name: str) -> None:
        """Begin a phase and save. Raises CpcError (3) when the disk is full."""
        now = time.monotonic()
        self._close_phase(now)
        self.record.phase = name
        self.record.phases.append(
            {"name": name, "started": round(now - self._begin, 6), "seconds": None}
        )
        self._phase_begin = now
        self.save()

    def progress(self, **values: Any) -> None:
        """Note how far it is. A full disk does not stop a running job.

        Not forced to the disk: it is of use only while this host is up.
        """
        self.record.progress.update(values)
        with contextlib.suppress(CpcError):
            self._store.save(self.record, use_reserve=False, durable=False)

    def go_on(self) -> None:
        """Past the point of no return: a file that cannot be written ends nothing any more."""
        self._goes_on = True

    def save(self) -> None:
        """Save the record, from the reserve if need be.

        Raises CpcError (3); after go_on() it is kept in `unsaved` instead.
        """
        try:
            self._store.save(self.record, use_reserve=True)
            self.unsaved = None
        except CpcError as error:
            if not self._goes_on:
                raise
            self.unsaved = error

    def finish(
        self,
        state: str,
        *,
        result: dict[str, Any] | None = None,
        error: CpcError | None = None,
        exit_code: int | None = None,
    ) -> None:
        """End the job with one of ENDED; the file stays readable.

        It has ended so, whether that can be written or not: see `unsaved`.
        """
        assert state in ENDED
        self.go_on()
        self._close_phase(time.monotonic())
        self.record.state = state
        self.record.result = result or {}
        self.record.finished = self._store.after_all(self.record.vm)
        if error is not None:
            self.record.error = error.as_dict()
            self.record.exit_code = int(error.exit_code)
        if exit_code is not None:
            self.record.exit_code = exit_code
        elif error is None:
            self.record.exit_code = int(ExitCode.OK)
        self.save()
        self._store.drop_reserve(self.record.id)
        self.ended = True

    def _close_phase(self, now: float) -> None:
        if self.record.phases and self.record.phases[-1]["seconds"] is None:
            self.record.phases[-1]["seconds"] = round(now - self._phase_begin, 6)


class Damaged(CpcError):
    """A job file that cannot be read.

    job: its id; vm: of which VM it is, as its beginning says, None when that is not known
    """

    def __init__(self, job: str, path: Path, error: Exception) -> None:
        self.job, self.vm = job, _vm_of(path)
        super().__init__(
            f"the job file {path} is damaged",
            exit_code=ExitCode.UNPROVEN,
            cause=reason(error),
            hint="cpcctl vm list, on both hosts\n"
            f"mv {path} {path}.damaged, once it is clear where its VM is",
        )


class JobStore:
    """The job files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, kind: str, vm: str, host: str, **data: Any) -> Job:
        """Make a job file and its reserve, before anything else starts.

        Raises CpcError (3) when there is no room for both.
        """
        make_folder(self.folder)
        me = ProcessId.myself()
        record = Record(
            id=next_id((path.stem for path in self.folder.glob("*.json")), _stamp(_clock())),
            kind=kind,
            vm=vm,
            host=host,
            state=RUNNING,
            created=_now(),
            pid=me.pid,
            pid_started=me.started,
            data=data,
        )
        reserve = self._reserve(record.id)
        try:
            try:
                fd = atomic.create(reserve)
            except FileExistsError:
                return self.create(kind, vm, host, **data)  # somebody else had the same id
            try:
                os.posix_fallocate(fd, 0, RESERVE)
            finally:
                os.close(fd)
            self.save(record, use_reserve=False)
        except OSError as error:
            self.drop_reserve(record.id)
            raise disk_error(reserve, error) from error
        except CpcError:
            self.drop_reserve(record.id)
            raise
        return Job(self, record, time.monotonic())

    def adopt(self, record: Record) -> Job:
        """Go on with a job whose controller is gone, as this process."""
        me = ProcessId.myself()
        record.pid, record.pid_started = me.pid, me.started
        record.state = RUNNING
        job = Job(self, record, time.monotonic())
        try:
            job.save()
        except CpcError as error:
            raise _not_taken_over(record, error) from error
        return job

    def load(self, job_id: str) -> Record:
        """Read a job. Raises CpcError (2) when unknown, Damaged (5)."""
        path = self._path(job_id)
        try:
            document = json.loads(read_all(path, JOB_MAX))
            known = {entry.name for entry in fields(Record)}
            return _checked({key: value for key, value in document.items() if key in known})
        except FileNotFoundError:
            raise CpcError(
                f"no job {job_id} on this host",
                exit_code=ExitCode.USAGE,
                hint="cpcctl job list",
            ) from None
        except (
            OSError, ValueError, OverflowError, RecursionError, TypeError, AttributeError
        ) as error:
            raise Damaged(job_id, path, error) from error

    def list(self, vm: str | None = None) -> list[Record]:
        """Every readable job, oldest first."""
        return self.read_all(vm)[0]

    def read_all(self, vm: str | None = None) -> tuple[builtins.list[Record],
                                                      builtins.list[Damaged]]:
        """list(), and an error for each job file that cannot be read and may be of that VM."""
        records: builtins.list[Record] = []
        damaged: builtins.list[Damaged] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                record = self.load(path.stem)
            except Damaged as error:
                if vm is None or error.vm in (vm, None):
                    damaged.append(error)
                continue
            except CpcError:
                continue  # it is no job's name, or was removed meanwhile
            if vm is None or record.vm == vm:
                records.append(record)
        return records, damaged

    def after_all(self, vm: str) -> str:
        """The time, or, where the clock was set back, just after the last job of a VM ended."""
        ended = [record.finished for record in self.list(vm) if record.finished]
        now = _now()
        with contextlib.suppress(ValueError, OverflowError):
            last = datetime.datetime.fromisoformat(max(ended, default=""))
            later = (last + datetime.timedelta(milliseconds=1)).isoformat(timespec="milliseconds")
            return max(now, later)
        return now

    def save(self, record: Record, *, use_reserve: bool, durable: bool = True) -> None:
        """Write a job file. Raises CpcError (3) when the disk is full."""
        record.updated = _now()
        data = json.dumps(asdict(record), indent=1).encode()
        path = self._path(record.id)
        try:
            try:
                write_atomic(path, data, durable=durable)
            except OSError as error:
                if not use_reserve or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self.drop_reserve(record.id)
                write_atomic(path, data)
        except OSError as error:
            raise disk_error(path, error) from error

    def drop_reserve(self, job_id: str) -> None:
        """Give the reserve back; missing is fine."""
        with contextlib.suppress(OSError):
            self._reserve(job_id).unlink()

    def _path(self, job_id: str) -> Path:
        if not JOB_ID.fullmatch(job_id):
            raise CpcError(
                f"{quoted(job_id)} is not a job id",
                exit_code=ExitCode.USAGE,
                hint="cpcctl job list",
            )
        return self.folder / f"{job_id}.json"

    def _reserve(self, job_id: str) -> Path:
        return self.folder / f".{job_id}.reserve"


class NoStore(JobStore):
    """For a look at what a job would meet: it writes nothing."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def save(self, record: Record, *, use_reserve: bool, durable: bool = True) -> None:
        """Nothing is kept."""

    def drop_reserve(self, job_id: str) -> None:
        """There is none."""


def _not_taken_over(record: Record, error: CpcError) -> CpcError:
    """error: why its file cannot be written. Nothing was asked and nothing done."""
    if not record.vm:
        return error  # it has not come to any VM
    return CpcError(
        f"job {record.id} was not taken over; where VM {record.vm} is was not looked at",
        exit_code=ExitCode.UNPROVEN,
        host=record.host,
        cause=f"{error.message}: {error.cause}",
        hint=f"{error.hint}\ncpcctl job resume {record.id}, when that can be written\n"
        f"cpcctl vm status {record.vm}",
    )


TEXTS = ("id", "kind", "vm", "host", "state", "created", "updated", "phase")
MAPS = ("progress", "data", "result")


def _checked(document: dict[str, Any]) -> Record:
    """:raise ValueError: a field is of another type. :raise TypeError: one is missing."""
    record = Record(**document)
    numbers = (record.pid, record.pid_started, record.exit_code or 0)
    if (
        not all(isinstance(getattr(record, key), str) for key in TEXTS)
        or not all(isinstance(getattr(record, key), dict) for key in MAPS)
        or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)
        or record.pid >= 1 << 31
        or not isinstance(record.finished, str | None)
        or not isinstance(record.error, dict | None)
        or not isinstance(record.phases, list)
        or not all(isinstance(entry, dict) for entry in record.phases)
    ):
        raise ValueError("a field has another type than it should")
    return record


def next_id(there: Iterable[str], stamp: str) -> str:
    """An id behind all others, whatever the clock says now; stamp: the time, as in an id."""
    newest = max(filter(JOB_ID.fullmatch, there), default="")
    if stamp > newest[: len(stamp)]:
        return f"{stamp}-{secrets.randbelow(ROOM):04x}"
    second, _, number = newest.rpartition("-")
    behind = int(number, 16) + 1 + secrets.randbelow(STEP)
    if behind <= 0xFFFF:
        return f"{second}-{behind:04x}"
    moment = datetime.datetime.strptime(second, STAMP) + datetime.timedelta(seconds=1)
    return f"{_stamp(moment)}-{secrets.randbelow(ROOM):04x}"


def _vm_of(path: Path) -> str | None:
    try:
        with open_plain(path) as file:
            found = VM.search(file.read(HEAD))
    except OSError:
        return None
    return found[1].decode() if found else None


def _clock() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _stamp(moment: datetime.datetime) -> str:
    return moment.strftime(STAMP)


def _now() -> str:
    return _clock().isoformat(timespec="milliseconds")
