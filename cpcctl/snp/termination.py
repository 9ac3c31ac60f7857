# SPDX-License-Identifier: Apache-2.0
"""Why a guest ended itself: its GHCB termination request in words. Pure.

A request has a reason set (0: everybody's, of the GHCB specification; 1: Linux's)
and a code in it.
"""

from __future__ import annotations

import re

GENERAL = (
    "no particular reason",
    "the hypervisor has no GHCB protocol version that the guest knows",
    "the guest needs an SEV-SNP feature, or a processor state, that is not there",
)
LINUX = (
    "the hypervisor did not take its GHCB's address",
    "the hypervisor did not change the state of a page",
    "PVALIDATE failed: the hypervisor took or exchanged a page",
    "the kernel does not run at VMPL0",
    "the CPUID page is missing or not sound",
    "the hypervisor did not answer for CPUID",
    "the secrets page is missing or not sound",
    "not at VMPL0, and the secrets page names no SVSM",
    "the SVSM says that it left VMPL0 to the kernel",
    "the SVSM's calling area is not on a page border",
    "Secure TSC could not be set up",
    "the SVSM's calling area could not be moved",
)
SETS = {0: ("GHCB specification", GENERAL), 1: ("Linux", LINUX)}
# What QEMU writes when a guest is reset; and the emulation, its own words between: a guest's
# request with what was done to it before, or a request that nobody can answer.
RESET = "cpus are not resettable, terminating"
BEFORE = "; before that, "
LOGGED = re.compile(
    r"the guest (?:terminated itself: [^\n]*\(reason set (\d{1,3}), code (\d{1,3})\)"
    rf"(?:{BEFORE}([^\n]+))?|was ended: ([^\n]+))"
)


def words(reason_set: int, code: int) -> str:
    """One line for a request."""
    owner, texts = SETS.get(reason_set, ("unknown set", ()))
    text = texts[code] if code < len(texts) else "a reason that has no name here"
    return f"the guest ended itself: {text} ({owner}, reason set {reason_set}, code {code})"


def in_log(log: str) -> str | None:
    """What QEMU's log tells of a guest's end; None when it tells nothing."""
    found = LOGGED.findall(log)
    if found:
        reason_set, code, before, unanswered = found[-1]
        if unanswered:
            return f"the guest was ended: {unanswered}"
        return words(int(reason_set), int(code)) + (BEFORE + before if before else "")
    if RESET in log:
        return "the guest rebooted, or met a triple fault; either ends an SEV-SNP guest"
    return None
