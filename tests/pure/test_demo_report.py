# SPDX-License-Identifier: Apache-2.0
"""The demo's verdict: it fails when anything that must hold does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cpcctl.demo import report
from cpcctl.demo.report import Findings, Watched

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
    assert "All of it held." in report.text(GOOD)


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
