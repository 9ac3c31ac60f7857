# SPDX-License-Identifier: Apache-2.0
"""Which definitions ask for the VM that runs."""

from __future__ import annotations

from typing import Any

import pytest

from cpcctl.vm import same, spec

RUNNING: dict[str, Any] = {
    "name": "a", "memory": "256M", "machine": "pc-q35-10.0", "accel": "tcg",
    "nics": [{"mode": "user"}], "platform": "sev-snp",
}


@pytest.mark.parametrize(
    ("change", "accel", "other"),
    [
        ({}, "tcg", []),
        ({"machine": "q35"}, "tcg", []),
        ({"machine": "pc-q35-10.0", "accel": "auto"}, "auto", []),
        ({"cpu": "EPYC-Milan", "vcpus": 1, "sev-snp": {"policy": 0x30000}}, "tcg", []),
        ({"accel": "kvm"}, "tcg", []),  # a flag counts more
        ({}, "kvm", ["accel"]),
        ({"machine": "pc-q35-9.2"}, "tcg", ["machine"]),
        ({"memory": "512M"}, "tcg", ["memory", "max_memory"]),
        ({"sev-snp": {"policy": 0xb0000}}, "tcg", ["sev-snp"]),
        ({"nics": [{"mode": "none"}], "hvcpus": 2}, "auto", ["hvcpus", "nics"]),
    ],
)
def test_what_differs(change: dict[str, Any], accel: str, other: list[str]) -> None:
    running = spec.read(RUNNING)
    assert same.differences(spec.read({**RUNNING, **change}), running, accel) == other


def test_the_other_chipset_is_another_machine() -> None:
    plain = {"name": "a", "memory": "64M", "accel": "tcg"}
    running = spec.read({**plain, "machine": "pc-i440fx-10.0"})
    assert same.differences(spec.read({**plain, "machine": "pc"}), running, "tcg") == []
    assert same.differences(spec.read({**plain, "machine": "q35"}), running, "tcg") == ["machine"]
