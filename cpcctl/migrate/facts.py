# SPDX-License-Identifier: Apache-2.0
"""Collects what the preflight checks need, on either side. Changes nothing."""

from __future__ import annotations

import os
from typing import Any

from cpcctl import abi
from cpcctl.accel import memory
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host import cpu_model, find
from cpcctl.host.qmp import Qmp
from cpcctl.host.state import Folders
from cpcctl.migrate.checks import DestinationFacts, SourceFacts
from cpcctl.migrate.side import Side
from cpcctl.snp import definition as snp
from cpcctl.snp import hardware
from cpcctl.vm import lifecycle, protection
from cpcctl.vm.spec import VmSpec


def of_source(side: Side) -> SourceFacts:
    """What the destination must know of the running VM."""
    spec, info = side.vm.spec, side.info()
    ram = side.qmp.execute("query-memory-size-summary")
    return SourceFacts(
        host=side.vm.host,
        platform=protection.kind(spec.platform, spec.accel),
        abi=info["abi"],
        firmware_version=info["firmware-version"],
        ram=int(ram["base-memory"]) + int(ram.get("plugged-memory", 0)),
        cpu=cpu_features(side.qmp, spec.cpu),
    )


def source_document(facts: SourceFacts) -> dict[str, Any]:
    """As it goes over the link."""
    return {**vars(facts), "cpu": list(facts.cpu)}


def read_source(document: object) -> SourceFacts:
    """What came over the link. :raise CpcError: (3) malformed."""
    if isinstance(document, dict):
        cpu = document.get("cpu")
        texts = [document.get(key) for key in ("host", "platform", "firmware_version")]
        numbers = [document.get(key) for key in ("abi", "ram")]
        if (
            all(isinstance(t, str) and len(t) < 256 for t in texts)
            and all(type(n) is int and n >= 0 for n in numbers)
            and isinstance(cpu, list)
            and all(isinstance(name, str) for name in cpu)
        ):
            return SourceFacts(
                document["host"], document["platform"], document["abi"],
                document["firmware_version"], document["ram"], tuple(cpu),
            )
    raise CpcError("malformed description of the source machine", exit_code=ExitCode.REFUSED)


def of_destination(
    settings: Settings,
    spec: VmSpec,
    source: SourceFacts,
    ours_to_remove: bool,
) -> DestinationFacts:
    """What this host can offer.

    ours_to_remove: what has the VM's name here is the leftover of a receive
    that lost its controller and never ran.
    """
    binary = find.qemu_binary(settings)
    data = find.qemu_data(settings, binary)
    qemu = find.probe(binary, data)
    kvm = _kvm_problem(settings, spec)
    taken = spec.name in Folders.of(settings).vm_names() and not ours_to_remove
    return DestinationFacts(
        host=settings.host,
        platform=platform_here(spec),
        abi=abi.ABI_VERSION,
        firmware_version=find.firmware_version(find.firmware_image(settings)),
        name_taken=taken,
        memory_needed=lifecycle.memory_needed(spec),
        memory_available=lifecycle.available_memory(),
        machines=frozenset(qemu.machines.values()),
        missing_commands=qemu.missing,
        # Without that accelerator there is no CPU to ask about.
        cpu=source.cpu
        if kvm[0]
        else find.ask(
            binary,
            data,
            lambda qmp: cpu_features(qmp, spec.cpu),
            accel="kvm" if spec.accel == "kvm" else "tcg",
        ),
        kvm=kvm,
    )


def platform_here(spec: VmSpec) -> str:
    """What this host makes of such a guest: the real thing, its emulation, or a plain VM."""
    if spec.platform == snp.PLATFORM and spec.accel == "kvm" and hardware.obstacles():
        return protection.kind("plain", spec.accel)
    return protection.kind(spec.platform, spec.accel)


def _kvm_problem(settings: Settings, spec: VmSpec) -> tuple[str, str]:
    """Why a guest with KVM cannot run here and what to do; empty when it can."""
    if spec.accel != "kvm":
        return "", ""
    found = memory.ask(settings)
    return ("", "") if found.works else (found.reason, found.fix or "")


def network_devices() -> list[str]:
    """Names of this host's network devices."""
    try:
        return os.listdir("/sys/class/net")
    except OSError:
        return []


def cpu_features(qmp: Qmp, model: str) -> tuple[str, ...]:
    """Features that a guest with a CPU model has with this QEMU on this host.

    QEMU leaves out those that the host cannot give, and tells it nowhere: a named
    model means the same everywhere. What the host can give is what max means.
    Raises CpcError (3) for a model that QEMU does not know.
    """
    able = _expanded(qmp, "max,migratable=off")
    return tuple(sorted(_expanded(qmp, model) & able))


def _expanded(qmp: Qmp, model: str) -> set[str]:
    return {key for key, on in cpu_model.expand(qmp, model).items() if on is True}
