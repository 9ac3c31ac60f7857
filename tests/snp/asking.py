# SPDX-License-Identifier: Apache-2.0
"""A guest that asks its processor for an attestation report."""

from __future__ import annotations

import re
from pathlib import Path

from cpcctl.demo.console import Console
from tests.program import archive
from tests.snp.boot import Guest

KERNEL = "6.12"  # Debian's small 6.1 has no driver for it
LOAD = "cd /modules; for m in $(cat attest); do insmod $m; done; cd /"


def program() -> Path:
    """The small archive with report_guest.c."""
    return archive(Path(__file__).parent / "report_guest.c", "report")


def ask(guest: Guest | Console, nonce: bytes) -> bytes:
    """A report with that nonce, from inside."""
    said = guest.run(f"report '{nonce.decode()}'").replace("\r", "")
    found = re.search(r"REPORT\n([0-9a-f\n]+)END", said)
    assert found, said
    return bytes.fromhex(found[1])
