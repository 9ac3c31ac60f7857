# SPDX-License-Identifier: Apache-2.0
"""Which accelerator a VM gets. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cpcctl.accel.verdict import HVCPU, Verdict
from cpcctl.errors import CpcError, ExitCode

AUTO, TCG, KVM = "auto", "tcg", "kvm"


@dataclass(frozen=True)
class Choice:
    """accel: tcg or kvm. why: one line for people, when it was chosen for them."""

    accel: str
    why: str | None = None


def wanted(flag: str | None, defined: str, setting: str) -> str:
    """A flag, whatever it says; else a definition or else a setting that is not auto."""
    if flag is not None:
        return flag
    return setting if defined == AUTO else defined


def decide(wish: str, verdict: Verdict | None) -> Choice:
    """What a wish leads to. verdict: may be None for tcg, which needs none.

    Raises CpcError (3) for kvm where it does not work.
    """
    if wish == TCG:
        return Choice(TCG)
    assert verdict is not None
    if wish == KVM:
        # Guests run: what is wrong with the hvCPUs is better told by the VM's own start.
        if not verdict.works and verdict.kind != HVCPU:
            raise CpcError(
                "KVM does not work here",
                exit_code=ExitCode.REFUSED,
                cause=verdict.short,
                hint="\n".join([*verdict.remedies, "--accel tcg"]),
            )
        return Choice(KVM)
    if verdict.works:
        return Choice(KVM, "KVM works here; using it")
    return Choice(TCG, f"KVM does not work here: {verdict.short}; using TCG")
