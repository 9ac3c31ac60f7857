# SPDX-License-Identifier: Apache-2.0
"""Job files: atomic, readable after the end, and safe on a full disk."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.atomic import write_atomic
from cpcctl.host.process import ProcessId
from cpcctl.jobs import store as jobs
from cpcctl.jobs.store import INTERRUPTED, Job, JobStore


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    """An empty store."""
    return JobStore(tmp_path / "jobs")


@pytest.fixture
def job(store: JobStore) -> Job:
    """A running job."""
    return store.create("migrate", "a", "host-a", destination="b:1")


def test_a_job_is_readable_while_it_runs_and_after(store: JobStore, job: Job) -> None:
    job.phase("precopy")
    job.progress(bytes_sent=5)
    job.progress(rounds=1)
    seen = store.load(job.id)
    assert (seen.state, seen.phase, seen.data) == ("running", "precopy", {"destination": "b:1"})
    assert seen.progress == {"bytes_sent": 5, "rounds": 1}
    job.phase("switchover")
    job.finish("done", result={"downtime_seconds": 0.1})
    seen = store.load(job.id)
    assert (seen.seen_state, seen.exit_code) == ("done", 0)
    assert [phase["name"] for phase in seen.phases] == ["precopy", "switchover"]
    assert all(phase["seconds"] >= 0 for phase in seen.phases)
    assert seen.finished is not None


def test_the_public_view_has_no_data(job: Job) -> None:
    shown = job.record.public()
    assert "data" not in shown
    json.dumps(shown)


def test_a_failure_keeps_the_error(store: JobStore, job: Job) -> None:
    error = CpcError("no", exit_code=ExitCode.TIMED_OUT, host="b", cause="why", hint="x")
    job.finish("failed", error=error)
    seen = store.load(job.id)
    assert seen.exit_code == 6
    assert seen.error == error.as_dict()


def test_a_job_without_its_controller_is_interrupted(store: JobStore, job: Job) -> None:
    job.record.pid_started += 1
    job.save()
    seen = store.load(job.id)
    assert seen.seen_state == seen.public()["state"] == INTERRUPTED
    adopted = store.adopt(seen)
    assert store.load(job.id).process == ProcessId.myself()
    adopted.finish("failed")
    assert store.load(job.id).seen_state == "failed"


def test_jobs_are_listed_in_order_and_by_vm(store: JobStore) -> None:
    assert store.list() == []
    ids = sorted(store.create("migrate", vm, "h").id for vm in ("a", "b", "a"))
    assert [record.id for record in store.list()] == ids
    assert {record.vm for record in store.list("a")} == {"a"}


def _whole(job: Job, **other: object) -> str:
    """The job's file with other values; a bytes value goes in as it is."""
    document = {**asdict(job.record), "id": "20260101-000000-aaaa", **other}
    raw = [v for v in other.values() if isinstance(v, bytes)]
    text = json.dumps(document, default=lambda _: "RAW")
    return text.replace('"RAW"', raw[0].decode()) if raw else text


@pytest.mark.parametrize(
    "other",
    [
        {}, {"pid": b"1e999"}, {"pid": b"NaN"}, {"pid": b"9" * 5000}, {"pid": 1 << 40},
        {"pid": -1}, {"pid": "1"}, {"pid_started": []}, {"data": b"[" * 200_000},
        {"vm": 1}, {"created": None}, {"phases": {}}, {"phases": [1]}, {"error": []},
        {"exit_code": "x"}, {"finished": 7}, {"progress": []},
    ],
)
def test_a_damaged_file_does_not_hide_the_others(
    store: JobStore, job: Job, other: dict[str, object]
) -> None:
    text = _whole(job, **other) if other else "{"
    (store.folder / "20260101-000000-aaaa.json").write_text(text)
    assert [record.seen_state for record in store.list()] == ["running"]
    assert [record.id for record in store.list()] == [job.id]
    with pytest.raises(CpcError) as caught:
        store.load("20260101-000000-aaaa")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("text", ["[]", "{}", '"x"', "\xff"])
def test_what_is_no_job_file(store: JobStore, job: Job, text: str) -> None:
    (store.folder / f"{job.id}.json").write_text(text, encoding="latin-1")
    with pytest.raises(CpcError) as caught:
        store.load(job.id)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("name", ["nope", "../../etc/passwd", "20260101-000000-aaaa"])
def test_unknown_jobs(store: JobStore, name: str) -> None:
    with pytest.raises(CpcError) as caught:
        store.load(name)
    assert (caught.value.exit_code, caught.value.hint) == (2, "cpcctl job list")


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_refuses_before_anything_starts(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CpcError) as caught:
        store.create("migrate", "a", "h")
    assert caught.value.exit_code == 3
    assert "no space left to write" in caught.value.message
    assert os.listdir(store.folder) == []


def test_a_disk_that_fills_up_later_does_not_lose_the_result(
    store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = store.folder / f".{job.id}.reserve"
    assert reserve.stat().st_blocks * 512 >= jobs.RESERVE
    real = write_atomic

    def only_with_room(path: Path, data: bytes, *, durable: bool = True) -> None:
        if reserve.exists():
            full()
        real(path, data, durable=durable)

    monkeypatch.setattr("cpcctl.jobs.store.write_atomic", only_with_room)
    job.progress(bytes_sent=1)
    assert reserve.exists()
    job.finish("done", result={"x": 1})
    assert not reserve.exists()
    assert store.load(job.id).result == {"x": 1}


def test_the_reserve_is_returned(store: JobStore, job: Job) -> None:
    job.finish("cancelled", exit_code=130)
    assert os.listdir(store.folder) == [f"{job.id}.json"]
    assert store.load(job.id).exit_code == 130


def test_ids_are_in_the_order_of_their_jobs(store: JobStore) -> None:
    """Of one second, and after the clock was set back."""
    made = [store.create("migrate", "a", "h").id for _ in range(20)]
    assert made == sorted(set(made)) == [record.id for record in store.list()]


@pytest.mark.parametrize(
    ("there", "begin"),
    [
        ([], "20260101-000000-"),
        (["20251231-235959-ffff"], "20260101-000000-"),
        (["20260101-000000-00ff"], "20260101-000000-0"),
        (["20260101-000000-ffff"], "20260101-000001-"),
        (["20300101-235959-fffe", "x"], "20300102-000000-"),
    ],
)
def test_the_next_id(there: list[str], begin: str) -> None:
    found = jobs.next_id(there, "20260101-000000")
    assert found.startswith(begin) or there[0].endswith("fffe")
    assert jobs.JOB_ID.fullmatch(found) and all(found > other for other in there if other != "x")


def test_two_that_take_the_same_id(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.create("migrate", "a", "h")
    ids = iter([first.id, "99990101-000000-aaaa"])
    monkeypatch.setattr(jobs, "next_id", lambda *_: next(ids))
    second = store.create("migrate", "a", "h")
    assert second.id != first.id and store.load(first.id).state == "running"
    assert store._reserve(first.id).exists()
