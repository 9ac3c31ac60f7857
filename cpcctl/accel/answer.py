# SPDX-License-Identifier: Apache-2.0
"""What the probe guest said becomes a verdict. Pure; its words: kvm-probe/probe.S."""

from __future__ import annotations

import re

from cpcctl.accel.verdict import CRASH, HANG, QEMU, Verdict
from cpcctl.errors import shown

# What comes after so many letters.
STEPS = (
    "the BIOS",
    "64-bit mode",
    "exceptions and page faults",
    "CPUID and MSRs",
    "vector registers",
    "user mode and system calls",
    "filling 16 MiB of memory",
    "16 million rounds of work (its speed)",
    "the timer of the APIC",
    "the old timer",
    "the second CPU",
)
LETTERS = "".join(chr(ord("a") + number) for number in range(len(STEPS)))
DONE = LETTERS + "ok"
WORDS_MAX = 300
LOOK = "dmesg | grep -i kvm"
ELSEWHERE = "use a host that has KVM of its own; cpcctl doctor asks again"
# A verdict is kept until the next boot, also one that was reached in a bad moment.
BUSY = "if this host was only busy: cpcctl doctor (it asks again)"


def done(said: str) -> bool:
    """True when every step was passed."""
    return said.strip() == DONE


def fault(said: str) -> bool:
    """True when the guest met an exception or a value that it must not."""
    return "!" in said


def step(said: str) -> str:
    """The step that the guest was in."""
    passed = 0
    while passed < len(STEPS) and said[passed : passed + 1] == LETTERS[passed]:
        passed += 1
    return STEPS[passed] if passed < len(STEPS) else "last output"


def hang(said: str, seconds: float, answers: bool) -> Verdict:
    """Nothing more came in time. answers: QEMU itself did."""
    if not answers and not said:
        return Verdict(HANG, f"QEMU did not answer within {seconds:g} s", f"{BUSY}; else {LOOK}")
    return Verdict(
        HANG,
        f"a small guest hung for {seconds:g} s; it came as far as {step(said)}",
        f"{BUSY}; else use one that has KVM of its own",
    )


def hvcpu_hang(seconds: float) -> Verdict:
    """Guests run, and an hvCPU said neither yes nor no in time."""
    return Verdict(
        HANG,
        f"guests run, but an hvCPU did not answer within {seconds:g} s",
        f"{BUSY}; else make qemu firmware",
    )


def crashed(said: str, how: str) -> Verdict:
    """The guest ended otherwise than it should."""
    return Verdict(CRASH, f"a small guest {how} at {step(said)}", ELSEWHERE)


def ended(code: int, log: str, said: str, began: bool) -> Verdict:
    """QEMU ended. began: it had a machine; with 0 it then ends when the guest is reset."""
    if code == 0 and (began or said):
        return crashed(said, "was reset (a triple fault)")
    words = shown(_first_error(log) or _status(code), WORDS_MAX)
    return Verdict(QEMU, f"QEMU fails with KVM: {words}", LOOK)


def _first_error(log: str) -> str:
    """The first line that is no warning: what follows is its consequence."""
    for line in log.splitlines():
        words = re.sub(r"^\S*qemu-system-\S+: (?:error: )?", "", line.strip())
        if words and not words.startswith("warning:"):
            return words
    return ""


def _status(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"status {code}"
