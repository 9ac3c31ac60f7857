# SPDX-License-Identifier: Apache-2.0
"""The machine that runs, as QMP shows it, against the definition it was started from.

A monitor can add and remove CPUs, memory, devices and disk images while a guest
runs. The destination is started from the definition, so whatever it does not say
is found here and not by a device state that does not fit.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cpcctl.host.qmp import Qmp
from cpcctl.migrate import admit, checks
from cpcctl.ui.check import Check
from cpcctl.vm import command
from cpcctl.vm.lifecycle import Vm
from cpcctl.vm.spec import VmSpec

NON_MIGRATABLE = "non-migratable device: "
# What our own patches and QEMU's SEV code say of migrations other than ours.
OTHER_MIGRATIONS = ("Memory and registers of a guest with hvCPUs", "SEV")
CPU_TYPE = "-x86_64-cpu"


@dataclass(frozen=True)
class Machine:
    """What a QEMU has now.

    run_state: QEMU's, or "frozen". hvcpus: state of every added one.
    memory_devices: id and bytes. devices: id and type, anonymous: types of those
    without an id. images: block node and file of each virtio disk, by its number.
    jobs: block jobs. blockers: why QEMU would not migrate it, in its words.
    """

    run_state: str
    hvcpus: Mapping[int, str]
    gvcpus: int
    memory_devices: Mapping[str, int] = field(default_factory=dict)
    devices: Mapping[str, str] = field(default_factory=dict)
    anonymous: tuple[str, ...] = ()
    images: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    blockers: tuple[str, ...] = ()


def look(vm: Vm, qmp: Qmp) -> list[Check]:
    """Why this VM could not migrate now, as far as its own host can tell."""
    info = qmp.require_cpc() if checks.movable(vm.spec, vm.host).ok else None
    machine = read(qmp, info)
    if info is None:
        return [checks.movable(vm.spec, vm.host), *judge(vm.spec, vm.argv, machine, vm.host)]
    return [
        *checks.source_checks(vm.spec, vm.argv, machine.hvcpus, machine.run_state, vm.host),
        *judge(vm.spec, vm.argv, machine, vm.host),
    ]


def obstacles(vm: Vm) -> list[Check]:
    """Those of look() that failed, by a QMP session of its own."""
    with vm.qmp() as qmp:
        return [check for check in look(vm, qmp) if not check.ok]


def read(qmp: Qmp, info: dict[str, Any] | None) -> Machine:
    """Ask a QEMU. info: its query-cpc, None where it has no hvCPUs."""
    run_state = str(qmp.execute("query-status")["status"])
    hvcpus = {}
    if info is not None:
        run_state = "frozen" if info["frozen"] else run_state
        hvcpus = {e["id"]: e["state"] for e in info["hvcpus"] if e["state"] != "inactive"}
    memory = [entry["data"] for entry in qmp.execute("query-memory-devices")]
    images = {}
    for entry in qmp.execute("query-block"):
        number = command.disk_number(entry.get("qdev", ""))
        if number is not None and "inserted" in entry:
            images[number] = (
                str(entry["inserted"].get("node-name")), str(entry["inserted"]["file"])
            )
    return Machine(
        run_state=run_state,
        hvcpus=hvcpus,
        gvcpus=info["gvcpus"] if info else len(qmp.execute("query-cpus-fast")),
        memory_devices={
            str(entry.get("id", "?")): int(entry.get("max-size", entry.get("size", 0)))
            for entry in memory
        },
        devices=dict(_children(qmp, "/machine/peripheral")),
        anonymous=tuple(kind for _, kind in _children(qmp, "/machine/peripheral-anon")),
        images=images,
        jobs=tuple(f"{job['type']} {job['device']}" for job in qmp.execute("query-block-jobs")),
        blockers=tuple(qmp.execute("query-migrate").get("blocked-reasons", ())),
    )


def _children(qmp: Qmp, path: str) -> list[tuple[str, str]]:
    """Name and type of every object below a path."""
    found = []
    for entry in qmp.execute("qom-list", path=path):
        kind = str(entry["type"])
        if kind.startswith("child<"):
            found.append((str(entry["name"]), kind.removeprefix("child<").removesuffix(">")))
    return found


def judge(spec: VmSpec, argv: Iterable[str], machine: Machine, host: str) -> list[Check]:
    """What is not as the definition says. Pure."""
    check = partial(Check.of, host)
    plugged = ", ".join(
        f"{name} ({size >> 20} MiB)" for name, size in machine.memory_devices.items()
    )
    changed = _devices(list(argv), machine)
    images = _images(spec, machine)
    bad = [f"{d.split(',')[0]}: {why}" for d in spec.devices if (why := admit.device_problem(d))]
    blockers = [
        words for words in map(_blocker, machine.blockers)
        if words and not any(words.split()[1] in entry for entry in bad)
    ]
    again = f"shut the guest down and start VM {spec.name} from a definition"
    return [
        check(
            "gvcpus",
            machine.gvcpus == spec.vcpus,
            f"{machine.gvcpus} gvCPUs run, the definition says {spec.vcpus}",
            f"unplug what was added, or {again} with vcpus: {machine.gvcpus}",
        ),
        check(
            "memory-devices",
            not plugged,
            f"memory was plugged: {plugged}",
            f"unplug it, or {again} with more memory",
        ),
        check(
            "devices",
            not changed,
            "; ".join(changed),
            f"undo that, or {again} that says so",
        ),
        check(
            "images",
            not images,
            "; ".join(images),
            f"{again} with these images",
        ),
        check(
            "block-jobs",
            not machine.jobs,
            f"block jobs run: {', '.join(machine.jobs)}",
            "wait until they have ended, or cancel them",
        ),
        check(
            "qemu-blockers",
            not blockers,
            "; ".join(blockers),
            "start the VM without what is named",
        ),
        check(
            "device-kinds",
            not bad,
            f"device {'; device '.join(bad)}",
            "start the VM without the device",
        ),
    ]


def _devices(argv: list[str], machine: Machine) -> list[str]:
    """What was plugged or unplugged since the start."""
    begun: dict[str, str] = {}
    anonymous: Counter[str] = Counter()
    for word, value in itertools.pairwise(argv):
        if word == "-device":
            kind, *settings = value.split(",")
            named = [text.removeprefix("id=") for text in settings if text.startswith("id=")]
            if named:
                begun[named[-1]] = kind
            else:
                anonymous[kind] += 1
    now = {
        name: kind
        for name, kind in machine.devices.items()
        if name not in machine.memory_devices and not kind.endswith(CPU_TYPE)
    }
    found = [f"device {now[name]} ({name}) was plugged" for name in sorted(now.keys() - begun)]
    found += [
        f"device {begun[name]} ({name}) was unplugged"
        for name in sorted(begun.keys() - machine.devices.keys())
    ]
    here = Counter(kind for kind in machine.anonymous if not kind.endswith(CPU_TYPE))
    # A type may have been asked for by another name, so only their number is certain.
    more = here.total() - anonymous.total()
    if more > 0:
        kinds = ", ".join((here - anonymous).elements()) or "unknown"
        found.append(f"device {kinds} was plugged")
    elif more < 0:
        kinds = ", ".join((anonymous - here).elements()) or "unknown"
        found.append(f"device {kinds} was unplugged")
    return found


def _images(spec: VmSpec, machine: Machine) -> list[str]:
    """Disks that are on another image now, such as after a snapshot by QMP."""
    found = []
    for number, disk in enumerate(spec.disks):
        node, file = machine.images.get(number, (f"disk{number}", disk.path))
        # Of an open file that QEMU was handed, the node alone tells.
        same = file == disk.path or file.startswith(("/dev/fdset/", "json:"))
        if node != f"disk{number}" or not same:
            found.append(f"disk {disk.path} is on {file} now (block node {node})")
    return found


def _blocker(words: str) -> str:
    """One of QEMU's reasons; "" for those that do not concern our migrations."""
    if words.startswith(OTHER_MIGRATIONS):
        return ""
    if words.startswith(NON_MIGRATABLE):
        # "0000:00:04.0/nvme": the last part is the kind of device.
        kind = words.removeprefix(NON_MIGRATABLE).split("/")[-1]
        return f"device {kind}: QEMU cannot save its state"
    return f"QEMU: {words}"
