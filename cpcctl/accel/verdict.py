# SPDX-License-Identifier: Apache-2.0
"""Whether KVM works on this host, and if not why: one small value. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

WORKS = "works"
ABSENT = "absent"  # there is no /dev/kvm
DENIED = "denied"  # this user may not open it
UNUSABLE = "unusable"  # it cannot be opened for another reason
PARTS = "parts"  # nothing to ask with: QEMU, firmware or the probe guest lacks
QEMU = "qemu"  # QEMU gives up
HANG = "hang"  # no answer in time
CRASH = "crash"  # the probe guest was reset, or met a fault that is none
HVCPU = "hvcpu"  # guests run, hvCPUs do not
KINDS = (WORKS, ABSENT, DENIED, UNUSABLE, PARTS, QEMU, HANG, CRASH, HVCPU)
LONGEST = 1000
SHORT = 44
MORE = " ... (cpcctl doctor)"
# Between remedies: the second one is for when the first did not help.
OR_ELSE = "; else "


@dataclass(frozen=True)
class Verdict:
    """kind: one of KINDS. reason: one line. fix: what to do, unless it works."""

    kind: str
    reason: str
    fix: str | None = None

    @property
    def works(self) -> bool:
        """True when guests and hvCPUs run."""
        return self.kind == WORKS

    @property
    def short(self) -> str:
        """The reason for one line of 80 columns; doctor has the whole."""
        if len(self.reason) <= SHORT:
            return self.reason
        cut = self.reason[: SHORT - len(MORE)].rsplit(" ", 1)[0].rstrip(" ,:;")
        return cut + MORE

    @property
    def remedies(self) -> list[str]:
        """What to do, one remedy each."""
        return self.fix.split(OR_ELSE) if self.fix else []

    def document(self) -> dict[str, Any]:
        """Plain values that read() turns into an equal verdict."""
        return asdict(self)


def read(document: object) -> Verdict:
    """What document() gave. Raises ValueError for anything else."""
    if isinstance(document, dict) and set(document) == {"kind", "reason", "fix"}:
        kind, reason, fix = document["kind"], document["reason"], document["fix"]
        if kind in KINDS and _line(reason) and (fix is None or _line(fix)):
            return Verdict(kind, reason, fix)
    raise ValueError("no verdict")


def _line(text: object) -> bool:
    return isinstance(text, str) and text.isprintable() and 0 < len(text) <= LONGEST
