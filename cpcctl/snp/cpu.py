# SPDX-License-Identifier: Apache-2.0
"""What an SEV-SNP guest needs of its CPU model, and what is measured of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cpcctl.host.cpu_model import changed
from cpcctl.snp.definition import DEFAULT_CPU

VENDOR = "AuthenticAMD"
# Without one of them a current Linux does not start, or stops itself.
NEEDED = ("lm", "nx", "xsave", "xsavec", "rdrand")
# What the firmware of hvCPUs is told, by measured words, that its vCPU has.
FIRMWARE_NEEDED = ("aes", "avx", "avx2", "pclmulqdq")
HARMFUL = ("la57",)


@dataclass(frozen=True)
class Cpu:
    """A CPU model as QEMU expands it.

    signature: family, model and stepping, as CPUID function 1 has them in EAX
    features:  names of those that are on
    """

    vendor: str
    signature: int
    features: frozenset[str]


def read(props: dict[str, Any]) -> Cpu:
    """What cpu_model.expand() found."""
    family, model, stepping = (int(props.get(key, 0)) for key in ("family", "model", "stepping"))
    return Cpu(
        str(props.get("vendor", "")),
        signature(family, model, stepping),
        frozenset(key for key, on in props.items() if on is True),
    )


def signature(family: int, model: int, stepping: int) -> int:
    """Families above 15 have the rest in a field of its own, as AMD defines it."""
    base, extended = (15, family - 15) if family > 15 else (family, 0)
    return extended << 20 | (model >> 4) << 16 | base << 8 | (model & 15) << 4 | stepping


def problems(model: str, cpu: Cpu, hvcpus: bool) -> list[tuple[str, str]]:
    """What is in the way of such a guest with this model, and what to do.

    hvcpus: it is to have some
    """
    found, lacking = [], []
    if cpu.vendor != VENDOR:
        found.append(f"cpu {model} is of {cpu.vendor}, SEV-SNP is AMD's")
    for who, needed in (("the guest needs", NEEDED), ("its hvCPUs need", FIRMWARE_NEEDED)):
        missing = [feature for feature in needed if feature not in cpu.features]
        if missing and (hvcpus or needed is NEEDED):
            lacking += missing
            found.append(f"cpu {model} lacks {', '.join(missing)}, which {who}")
    surplus = [feature for feature in HARMFUL if feature in cpu.features]
    if surplus:
        found.append(f"cpu {model} has LA57, with which such guests crash early")
    # One that mends all of it, so that it can be written as it is.
    mended = changed(model, lacking, surplus)
    if cpu.vendor != VENDOR:
        mended = DEFAULT_CPU
    elif lacking:
        mended = f"{DEFAULT_CPU}, or {mended}"
    return [(why, f"use cpu: {mended}") for why in found]
