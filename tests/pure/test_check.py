# SPDX-License-Identifier: Apache-2.0
"""Checks as people see them; what they say is in test_checks.py."""

from __future__ import annotations

from cpcctl.migrate import cli
from cpcctl.ui.check import Check, listing, refusal

LONG = "the CPU on host-b lacks " + ", ".join(f"feature-{n}" for n in range(12))
GOOD = Check.of("host-a", "running", True, "the guest does not run: QEMU says running", "x")
BAD = Check.of("host-b", "cpu", False, LONG, "make qemu\nuse another host")
PATH = "/" + "long/" * 20 + "end"


def test_what_is_only_meant_for_a_failure() -> None:
    assert (GOOD.reason, GOOD.fix) == (None, None)
    assert Check.of("h", "n", False, "why").fix is None


def test_nothing_breaks_within_a_word() -> None:
    rows = [cli._row(GOOD), cli._row(BAD), (("ok", "host-a", "file"), PATH, None)]
    lines = listing(rows, 80).splitlines()
    assert all(len(line) <= 80 for line in lines if PATH not in line)
    assert lines[0] == "ok       host-a  running"
    assert lines[1].startswith("refused  host-b  cpu      the CPU on host-b lacks feature-0,")
    assert set(LONG.split()) <= set(" ".join(lines).split())
    assert [line.strip() for line in lines if "try: " in line] == [
        "try: make qemu", "try: use another host",
    ]
    assert any(line.endswith(PATH) for line in lines)


def test_what_the_peer_suggests_is_never_ours_to_type() -> None:
    text = listing([cli._row(BAD, peer=True)], 80)
    assert "try:" not in text
    assert 'it suggests: "make qemu"' in " ".join(text.split())
    error = refusal([GOOD, BAD], peer=True)
    assert error is not None
    assert (error.host, error.hint) == ("host-b", None)
    ours = refusal([GOOD, BAD])
    assert ours is not None
    assert ours.render().endswith("\n  try: make qemu\n  try: use another host")
