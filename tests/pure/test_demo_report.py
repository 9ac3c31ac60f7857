# SPDX-License-Identifier: Apache-2.0
"""The demo's verdict: it fails when anything that must hold does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cpcctl.demo import cli, report
from cpcctl.demo.report import (
    MOVED_GUEST,
    NOTHING,
    PLAIN_GUEST,
    REFUSED,
    SCRAMBLED,
    SECRET,
    SNP_GUEST,
    Findings,
    Reading,
    Watched,
)

GOOD = Findings(
    platform="plain",
    accel="tcg",
    network="namespaces",
    migration={
        "phases": [{"name": "copy", "started": 0.0, "seconds": 1.0}],
        "rounds": [{"number": 1, "pages": 10, "zero_pages": 5, "bytes": 40960,
                    "seconds": 1.0, "dirty": 3}],
        "total_seconds": 1.5,
        "downtime_seconds": 0.1,
        "bytes_sent": 50000,
    },
    client={"operations": 60, "mismatched_reads": 0, "broken_connections": 0,
            "longest_pause_seconds": 0.2, "tenths": [[10, 10], [20, 20], [30, 30]]},
    window=(1.5, 2.5),
    capture=Watched(hits=0, bytes=60000),
    control=Watched(hits=3, bytes=1000),
    ring_hits=0,
    ring_passes=7,
    digest_before="ab",
    digest_after="ab",
    protection="plain: words",
)  # fmt: skip


def client(**changes: Any) -> dict[str, Any]:
    return {"client": {**GOOD.client, **changes}}


def test_good() -> None:
    data = report.document(GOOD)
    assert data["problems"] == []
    assert data["platform"] == "plain" and data["accel"] == "tcg"
    assert data["phases"] == [{"name": "copy", "seconds": 1.0}]
    assert data["rounds"] == 1
    assert (data["total_seconds"], data["downtime_seconds"]) == (1.5, 0.1)
    assert data["bytes_sent"] == 50000
    assert data["secret_seen_in_transit"] is False
    assert data["guest_memory_verified"] is True
    counts = [data["client"][f"operations_{when}"] for when in ("before", "during", "after")]
    assert counts == [10, 20, 30]
    assert "All checks passed." in report.text(GOOD)


@pytest.mark.parametrize(
    "change",
    [
        client(mismatched_reads=1),
        client(broken_connections=1),
        client(operations=0),
        {"capture": Watched(hits=1, bytes=60000)},
        {"capture": Watched(hits=0, bytes=60000, missed=1)},
        {"capture": Watched(hits=0, bytes=49999)},
        {"control": Watched(hits=0, bytes=1000)},
        {"ring_hits": 1},
        {"ring_passes": 0},
        {"digest_after": "cd"},
        {"digest_before": "", "digest_after": ""},
        {"faults": ["something"]},
    ],
)
def test_anything_wrong_is_a_problem(change: dict[str, Any]) -> None:
    found = dataclasses.replace(GOOD, **change)
    assert report.problems(found)
    assert "FAILED: " in report.text(found)


@pytest.mark.parametrize("where", ["capture", "ring"])
def test_secret_seen_is_said(where: str) -> None:
    change: dict[str, Any] = (
        {"capture": Watched(1, 60000)} if where == "capture" else {"ring_hits": 1}
    )
    assert report.document(dataclasses.replace(GOOD, **change))["secret_seen_in_transit"] is True


READINGS = [
    Reading(PLAIN_GUEST, "pmemsave", SECRET),
    Reading(SNP_GUEST, "pmemsave", SCRAMBLED),
    Reading(SNP_GUEST, "dump-guest-memory", REFUSED),
    Reading(MOVED_GUEST, "pmemsave", REFUSED),
]
SNP = dataclasses.replace(GOOD, platform="sev-snp", readings=READINGS)


def test_side_by_side() -> None:
    assert report.problems(SNP) == []
    data = report.document(SNP)["host_reads"]
    assert data[1] == {"guest": SNP_GUEST, "door": "pmemsave", "answer": SCRAMBLED}
    lines = report.text(SNP).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("WHAT THE HOST READS BY"))
    assert lines[head].split("  ")[-1] == "MIGRATED GUEST"
    first, second = (" ".join(line.split()) for line in lines[head + 1 : head + 3])
    assert first == "pmemsave the secret scrambled refused"
    assert second == "dump-guest-memory - refused -"
    assert "WHAT THE HOST READS" not in report.text(GOOD)


@pytest.mark.parametrize(
    ("number", "answer"),
    [(0, SCRAMBLED), (0, REFUSED), (0, NOTHING), (1, SECRET), (1, NOTHING), (2, SECRET),
     (3, SECRET), (3, NOTHING)],
)  # fmt: skip
def test_another_answer_is_a_problem(number: int, answer: str) -> None:
    readings = list(READINGS)
    readings[number] = dataclasses.replace(readings[number], answer=answer)
    (problem,) = report.problems(dataclasses.replace(SNP, readings=readings))
    assert readings[number].guest in problem and answer in problem


@pytest.mark.parametrize("guest", [PLAIN_GUEST, SNP_GUEST, MOVED_GUEST])
def test_a_guest_that_nobody_read_is_a_problem(guest: str) -> None:
    readings = [each for each in READINGS if each.guest != guest]
    (problem,) = report.problems(dataclasses.replace(SNP, readings=readings))
    assert problem == f"nobody tried to read the {guest}"


@pytest.mark.parametrize(
    ("flag", "accel", "expected"),
    [(None, "auto", "sev-snp"), (None, "tcg", "sev-snp"), (None, "kvm", "plain"),
     ("plain", "tcg", "plain"), ("sev-snp", "kvm", "sev-snp")],
)  # fmt: skip
def test_platform(flag: str | None, accel: str, expected: str) -> None:
    assert cli.platform(flag, accel) == expected
