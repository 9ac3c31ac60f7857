# SPDX-License-Identifier: Apache-2.0
"""Whether a VM that runs is the one that a definition asks for. Pure."""

from __future__ import annotations

from dataclasses import fields, replace

from cpcctl.snp import definition as snp
from cpcctl.vm.spec import VmSpec

# What a start makes of the names that mean QEMU's newest.
VERSIONED = {"q35": "pc-q35-", "pc": "pc-i440fx-"}


def differences(wanted: VmSpec, running: VmSpec, accel: str) -> list[str]:
    """Keys in which they differ; what `wanted` leaves open does not count.

    accel: that of wanted, after flags and settings
    """
    prefix = VERSIONED.get(wanted.machine)
    if prefix is not None and running.machine.startswith(prefix):
        wanted = replace(wanted, machine=running.machine)
    wanted = replace(wanted, accel=running.accel if accel == "auto" else accel)
    return [
        snp.PLATFORM if entry.name == "snp" else entry.name
        for entry in fields(VmSpec)
        if getattr(wanted, entry.name) != getattr(running, entry.name)
    ]
