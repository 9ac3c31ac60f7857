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
        "chosen": {"suite": None, "suite_why": None, "streams": None, "streams_why": None},
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


def test_text_has_a_line_a_time_and_what_was_chosen() -> None:
    chosen = {"suite": "aegis128x2", "suite_why": "the fastest of 2", "streams": 1, "other": 5}
    ours = [Sample(1.5, 0.1, chosen)]
    entry = scenario.result(SCENARIOS["idle-2g"], "kvm", 2, ours, [Sample(1.0, 0.1)])
    lines = scenario.text([entry], "Some Processor, 2 CPUs").splitlines()
    assert lines[1].split()[:3] == ["idle-2g", "kvm", "total"] and lines[1].endswith("1.5x")
    assert lines[3:] == [
        "",
        "processor:         Some Processor, 2 CPUs",
        "idle-2g, suite:    aegis128x2 (the fastest of 2)",
        "idle-2g, streams:  1",
    ]


def test_the_processor_is_named() -> None:
    cpuinfo = "processor\t: 0\nmodel name\t: Some Processor\n\nprocessor\t: 1\nmodel name\t: x\n"
    assert scenario.processor_name(cpuinfo, 2) == "Some Processor, 2 CPUs"
    assert scenario.processor_name("", 1) == "unknown, 1 CPU"


@pytest.mark.parametrize(("name", "jobs"), [("idle-2g", ""), ("filled-2g", "fill:1000")])
def test_jobs(name: str, jobs: str) -> None:
    assert SCENARIOS[name].jobs == jobs
