# SPDX-License-Identifier: Apache-2.0
"""Preflight: named checks over what both sides say of themselves. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from cpcctl.host.cpu_model import changed
from cpcctl.migrate.messages import CheckResult
from cpcctl.ui import hints
from cpcctl.ui.check import Check
from cpcctl.vm import command
from cpcctl.vm.spec import VmSpec

# Devices whose state lives outside QEMU.
PASSED_THROUGH = (
    "vfio-pci", "vfio-pci-nohotplug", "vfio-ccw", "vfio-ap", "usb-host",
    "scsi-generic", "scsi-block", "vhost-vdpa-device-pci",
)
# Hosts that differ in more want another model, not a list of what to leave out.
FEATURES_MAX = 8
VTPM = ("tpm-tis", "tpm-crb", "tpm-tis-device", "tpm-spapr")


@dataclass(frozen=True)
class SourceFacts:
    """What the source tells the destination.

    cpu: features of the guest's CPU model that are on, as QEMU names them.
    """

    host: str
    platform: str
    abi: int
    firmware_version: str
    ram: int
    cpu: tuple[str, ...] = ()


@dataclass(frozen=True)
class DestinationFacts:
    """What the destination finds out about itself for one VM.

    memory_needed, memory_available: bytes, everything included.
    kvm: why KVM does not work there, and what to do; for a guest that needs it.
    machines: names its QEMU knows; missing_commands: of ours that it lacks.
    """

    host: str
    platform: str
    abi: int
    firmware_version: str
    name_taken: bool
    memory_needed: int
    memory_available: int
    machines: frozenset[str]
    missing_commands: tuple[str, ...]
    cpu: tuple[str, ...]
    kvm: tuple[str, str] = ("", "")


def movable(spec: VmSpec, host: str) -> Check:
    """Whether guests of this kind can be moved at all."""
    return Check.of(
        host,
        "platform",
        command.has_hvcpus(spec),
        f"hvCPUs move a guest; {command.no_hvcpus(spec)}",
        "shut the guest down and start it on the other host",
    )


def source_checks(
    spec: VmSpec, argv: Iterable[str], hvcpus: Mapping[int, str], run_state: str, host: str
) -> list[Check]:
    """What the source can tell alone.

    hvcpus: state of every added one. run_state: QEMU's, or "frozen".
    """
    devices = [word.split(",")[0] for word in spec.devices] + _devices(argv)
    passed = sorted({d for d in devices if d in PASSED_THROUGH})
    tpm = sorted({d for d in devices if d in VTPM})
    dead = sorted(number for number, state in hvcpus.items() if state == "dead")
    alive = [number for number, state in hvcpus.items() if state in ("parked", "running")]
    check = partial(Check.of, host)
    return [
        check(
            "passthrough",
            not passed,
            f"{', '.join(passed)} belongs to this host's hardware",
            "remove the device from the guest, then migrate",
        ),
        check(
            "vtpm",
            not tpm,
            f"{', '.join(tpm)} keeps its state outside the guest",
            "start the VM without a vTPM",
        ),
        check(
            "machine-versioned",
            spec.versioned,
            f"machine type {spec.machine} means another machine with another QEMU",
            "start the VM with a versioned machine type, such as pc-q35-10.0",
        ),
        check(
            "hvcpu",
            bool(alive),
            "no hvCPU was added" if not hvcpus else "every hvCPU is dead",
            living_hvcpu(spec.name, dead),
        ),
        check(
            "hvcpu-alive",
            not dead,
            f"hvCPU {', '.join(map(str, dead))} is dead",
            living_hvcpu(spec.name, dead),
        ),
        check(
            "running",
            run_state == "running",
            *hints.run_state(run_state, spec.name),
        ),
    ]


def living_hvcpu(name: str, dead: list[int]) -> str:
    """What to type when no hvCPU can be called, or some are dead."""
    add = f"cpcctl hvcpu add {name}"
    return f"cpcctl hvcpu remove {name} {dead[0]}, then {add}" if dead else add


def destination_checks(spec: VmSpec, there: SourceFacts, here: DestinationFacts) -> list[Check]:
    """What only the destination can tell."""
    missing = sorted(set(there.cpu) - set(here.cpu))
    check = partial(Check.of, here.host)
    return [
        check(
            "name",
            not here.name_taken,
            f"a VM {spec.name} is on {here.host} already",
            f"cpcctl vm status {spec.name}, on {here.host}: which VM that is",
        ),
        check(
            "qemu",
            not here.missing_commands,
            f"QEMU on {here.host} is not the patched one: it lacks "
            + ", ".join(here.missing_commands),
            "make qemu, or set CPCCTL_QEMU",
        ),
        check(
            "machine",
            spec.machine in here.machines,
            f"QEMU on {here.host} has no machine {spec.machine}",
            "install a QEMU there that has it",
        ),
        _accelerator(spec, here),
        check(
            "ram",
            there.ram == spec.memory,
            f"the running guest has {there.ram >> 20} MiB, its definition {spec.memory >> 20} MiB",
            "migrate with the definition the VM was started with",
        ),
        check(
            "memory",
            here.memory_needed <= here.memory_available,
            f"{here.memory_needed >> 20} MiB needed, overhead included; "
            f"{here.memory_available >> 20} MiB available on {here.host}",
            "stop something there, or choose another host",
        ),
        check(
            "cpu",
            not missing,
            f"the CPU on {here.host} lacks {', '.join(missing)}",
            f"start the VM with cpu: {changed(spec.cpu, off=missing)}"
            if len(missing) <= FEATURES_MAX
            else "start the VM with a cpu that both hosts have",
        ),
        _platform(spec, there, here),
        check(
            "firmware",
            (there.abi, there.firmware_version) == (here.abi, here.firmware_version),
            f"hvCPU firmware {there.firmware_version} (ABI {there.abi}) on {there.host}, "
            f"{here.firmware_version} (ABI {here.abi}) on {here.host}",
            "make firmware on both hosts, and restart the VM",
        ),
    ]


def _platform(spec: VmSpec, there: SourceFacts, here: DestinationFacts) -> Check:
    """A guest is protected as it was: an emulated guest is no real one's equal."""
    able = movable(spec, here.host)
    if not able.ok:
        return able
    return Check.of(
        here.host,
        "platform",
        there.platform == here.platform,
        f"the guest is {there.platform} on {there.host} and would be {here.platform} "
        f"on {here.host}",
        "migrate between hosts of one platform",
    )


def _accelerator(spec: VmSpec, here: DestinationFacts) -> Check:
    """A guest keeps the accelerator that it was started with."""
    if spec.accel == "auto":
        why = "the source does not say whether the guest runs with KVM or TCG"
        return Check("accelerator", here.host, False, why, "start the VM with cpcctl vm start")
    why, fix = here.kvm
    return Check.of(
        here.host,
        "accelerator",
        not why,
        f"the guest runs with KVM, which does not work on {here.host}: {why}",
        f"{fix}, on {here.host}\nor start the VM with accel: tcg" if fix else
        "start the VM with accel: tcg",
    )


def read(found: Iterable[CheckResult], host: str) -> list[Check]:
    """Checks that the other host sent, fit to be shown."""
    return [Check.of(host, entry.name, entry.ok, entry.reason, entry.fix) for entry in found]


def result(check: Check) -> CheckResult:
    """A check for the other host."""
    return CheckResult(check.name, check.ok, check.reason or "", check.fix or "")


def _devices(argv: Iterable[str]) -> list[str]:
    return [
        after.split(",")[0] for word, after in itertools.pairwise(argv) if word == "-device"
    ]
