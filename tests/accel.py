# SPDX-License-Identifier: Apache-2.0
"""Which accelerator the tests of this run use, and the proof that a VM does.

Chosen by ``pytest --accel``; everything a test starts sees it as CPCCTL_ACCEL.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "CPCCTL_ACCEL"
CHOICES = ("tcg", "kvm")


def chosen() -> str:
    """tcg or kvm."""
    return os.environ.get(VARIABLE, "tcg")


def argument() -> str:
    """What a test that starts QEMU by itself puts after ``-accel``."""
    return {"tcg": "tcg,thread=multi", "kvm": "kvm"}[chosen()]


def kvm_files(pid: int) -> list[str]:
    """What a process has of KVM, in the kernel's words: VMs and virtual CPUs."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(entry)
        except OSError:
            continue
        if name == "anon_inode:kvm-vm" or name.startswith("anon_inode:kvm-vcpu:"):
            found.append(name.removeprefix("anon_inode:"))
    return sorted(found)


def check(pid: int, wanted: str = "auto") -> None:
    """A QEMU of this run uses the accelerator that its definition names, or auto: the
    chosen one; the kernel is the witness."""
    files = kvm_files(pid)
    if (chosen() if wanted == "auto" else wanted) == "kvm":
        assert "kvm-vm" in files, f"wanted: kvm, but QEMU {pid} has no VM of KVM's: {files}"
    else:
        assert not files, f"wanted: tcg, but QEMU {pid} uses KVM: {files}"
