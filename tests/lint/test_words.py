# SPDX-License-Identifier: Apache-2.0
"""Phrases that a standard term replaces; the terms are in docs/glossary.md."""

from __future__ import annotations

from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
REPLACED = {
    "an answer to another question": "reply id does not match the request",
    "with what VMs run": "accelerator for VMs",
    "send at most so many MiB": "bandwidth limit in MiB/s",
    "would pause at most so long": "maximum tolerated downtime in ms",
    "QEMU fails with it": "QEMU fails with KVM",
    "gave the guest up for ever": "incoming migration aborted permanently",
    "All of it held": "All checks passed",
    "makes no sense": "malformed request",
    "make no sense": "malformed",
    "cannot be given up on": "cannot abort the incoming migration on",
    "given up for ever": "aborted permanently",
    "wait for ever)": "no limit",
    "how long it may take": "time limit in seconds",
    "} is no folder": "is not a folder",
    "is no process": "is not a process",
    "is no plain file": "is not a plain file",
    "is no migration": "is not a migration",
    "is no qcow2 image": "is not a qcow2 image",
    "must be a text": "must be a string",
    "is not a text of": "is not a string of",
    "stands still:": "is stopped already:",
    "ended without a word": "left no message",
    "QEMU has gone\"": "QEMU has exited",
}


@pytest.mark.parametrize("phrase", REPLACED)
def test_a_standard_term_is_used(phrase: str) -> None:
    files = [*TOP.glob("cpcctl/**/*.py"), *TOP.glob("docs/**/*"), TOP / "README.md"]
    found = [str(path.relative_to(TOP)) for path in files
             if path.is_file() and phrase in path.read_text(errors="replace")]
    assert not found, f"{found}: not {phrase!r} but {REPLACED[phrase]!r}"
