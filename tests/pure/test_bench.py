# SPDX-License-Identifier: Apache-2.0
"""The arithmetic and the shape of the bench's results."""

from __future__ import annotations

import pytest

from cpcctl.bench import scenario
from cpcctl.bench.scenario import SCENARIOS, Sample


def test_shape() -> None:
    ours = [Sample(3.0, 0.2), Sample(1.0, 0.1), Sample(2.0, 0.4)]
    qemu = [Sample(1.0, 0.1), Sample(1.0, 0.3), Sample(4.0, 0.1)]
    assert scenario.result(SCENARIOS["filled-2g"], "tcg", 2, ours, qemu) == {
        "scenario": "filled-2g",
        "accel": "tcg",
        "memory_mib": 2048,
        "filled_mib": 1000,
        "hvcpus": 2,
        "ours": {
            "total_seconds": 2.0,
            "downtime_seconds": 0.2,
            "min": {"total_seconds": 1.0, "downtime_seconds": 0.1},
            "max": {"total_seconds": 3.0, "downtime_seconds": 0.4},
        },
        "qemu": {
            "total_seconds": 1.0,
            "downtime_seconds": 0.1,
            "min": {"total_seconds": 1.0, "downtime_seconds": 0.1},
            "max": {"total_seconds": 4.0, "downtime_seconds": 0.3},
        },
        "ratio": {"total": 2.0, "downtime": 2.0},
    }


def test_no_ratio_to_nothing() -> None:
    assert scenario.ratio(1.0, 0.0) is None


def test_text_has_a_line_a_time() -> None:
    entry = scenario.result(SCENARIOS["idle-2g"], "kvm", 2, [Sample(1.5, 0.1)], [Sample(1.0, 0.1)])
    lines = scenario.text([entry]).splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:3] == ["idle-2g", "kvm", "total"] and lines[1].endswith("1.5x")


@pytest.mark.parametrize(("name", "jobs"), [("idle-2g", ""), ("filled-2g", "fill:1000")])
def test_jobs(name: str, jobs: str) -> None:
    assert SCENARIOS[name].jobs == jobs
