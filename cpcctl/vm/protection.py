# SPDX-License-Identifier: Apache-2.0
"""What a VM is protected from, in one line. Pure."""

from __future__ import annotations

from cpcctl.snp import definition as snp

PLAIN = (
    "plain: memory is not hidden from this host's root; "
    "the guest and the network cannot read what its hvCPUs hold"
)
EMULATED = (
    "sev-snp, emulated: no protection from this host's root, who can read all of the guest "
    "in QEMU's process; for tests only"
)
REAL = (
    "sev-snp: the processor hides the guest's memory from this host; "
    "believe it only of a guest whose attestation report you have checked"
)
LEAKING = (
    "warning: the guest itself can reach what its hvCPUs hold (x-leak-trusted): "
    "such a VM is for tests only"
)
DEBUG = "sev-snp: no protection from this host, since the policy allows debugging (bit 19)"


def line(platform: str, accel: str, *, debug: bool = False) -> str:
    """For people. accel: as the VM has it; debug: its policy lets the host read it."""
    if platform != snp.PLATFORM:
        return PLAIN
    if emulated(accel):
        return EMULATED
    return DEBUG if debug else REAL


def emulated(accel: str) -> bool:
    """Whether QEMU plays the processor of a confidential guest, and so protects nothing."""
    return accel != "kvm"


def kind(platform: str, accel: str) -> str:
    """What both hosts of a migration must have alike."""
    return f"{platform}-emulated" if platform == snp.PLATFORM and emulated(accel) else platform
