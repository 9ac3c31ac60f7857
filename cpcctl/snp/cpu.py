# SPDX-License-Identifier: Apache-2.0
"""What an SEV-SNP guest needs of its CPU model, and what is measured of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VENDOR = "AuthenticAMD"
# Without one of them a current Linux does not start, or stops itself.
NEEDED = ("lm", "nx", "xsave", "xsavec", "rdrand")
# What the firmware of hvCPUs is told, by measured words, that its vCPU has.
FIRMWARE_NEEDED = ("aes", "avx", "avx2", "pclmulqdq")


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


def problems(name: str, cpu: Cpu, hvcpus: bool) -> list[tuple[str, str]]:
    """What is in the way of such a guest with this model, and what to do.

    hvcpus: it is to have some
    """
    found = []
    if cpu.vendor != VENDOR:
        found.append((f"cpu {name} is of {cpu.vendor}, SEV-SNP is AMD's", "use cpu: EPYC"))
    for who, needed in (("the guest needs", NEEDED), ("its hvCPUs need", FIRMWARE_NEEDED)):
        missing = [feature for feature in needed if feature not in cpu.features]
        if missing and (hvcpus or needed is NEEDED):
            fix = f"use cpu: EPYC, or add {','.join(f'+{feature}' for feature in missing)}"
            found.append((f"cpu {name} lacks {', '.join(missing)}, which {who}", fix))
    if "la57" in cpu.features:
        why = f"cpu {name} has LA57, with which such guests crash early"
        found.append((why, f"use cpu: {name},la57=off"))
    return found
