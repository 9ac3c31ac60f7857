# SPDX-License-Identifier: Apache-2.0
"""What was added to a machine that runs, and what QEMU cannot save."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cpcctl.host.qmp import Qmp
from cpcctl.migrate import running
from cpcctl.migrate.running import Machine
from cpcctl.vm.spec import Disk, VmSpec

SPEC = VmSpec(name="t", memory=1 << 30, machine="pc-q35-10.0", accel="tcg", vcpus=2,
              max_vcpus=4, disks=(Disk("/d"),), devices=("virtio-rng-pci",))
ARGV = ["qemu", "-device", "cpc,id=cpc,firmware=/f", "-device", "virtio-blk-pci,id=blk0,drive=x",
        "-device", "virtio-rng-pci"]
HERE = Machine(
    "running", {0: "parked"}, 2, devices={"cpc": "cpc", "blk0": "virtio-blk-pci"},
    anonymous=("virtio-rng-pci",), images={0: ("disk0", "/d")},
    blockers=("Memory and registers of a guest with hvCPUs are not for the host to read; "
              "use cpcctl", "SEV-SNP: Migration is not implemented"),
)


def found(machine: Machine, spec: VmSpec = SPEC) -> dict[str, str]:
    checks = running.judge(spec, ARGV, machine, "host-a")
    assert all(check.fix for check in checks if not check.ok)
    return {check.name: check.reason or "" for check in checks if not check.ok}


def test_a_machine_as_it_was_started() -> None:
    assert found(HERE) == {}
    assert found(replace(HERE, images={0: ("disk0", "/dev/fdset/7")})) == {}


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        ({"gvcpus": 3, "devices": {**HERE.devices, "c2": "max-x86_64-cpu"}}, "gvcpus",
         "3 gvCPUs run, the definition says 2"),
        ({"memory_devices": {"dimm0": 128 << 20}, "devices": {**HERE.devices, "dimm0": "pc-dimm"}},
         "memory-devices", "memory was plugged: dimm0 (128 MiB)"),
        ({"devices": {**HERE.devices, "nvme9": "nvme"}}, "devices",
         "device nvme (nvme9) was plugged"),
        ({"devices": {"cpc": "cpc"}}, "devices", "device virtio-blk-pci (blk0) was unplugged"),
        ({"anonymous": ("virtio-rng-pci", "nvme")}, "devices", "device nvme was plugged"),
        ({"anonymous": ()}, "devices", "device virtio-rng-pci was unplugged"),
        ({"images": {0: ("overlay", "/d.snap")}}, "images",
         "disk /d is on /d.snap now (block node overlay)"),
        ({"images": {0: ("disk0", "/d.copy")}}, "images",
         "disk /d is on /d.copy now (block node disk0)"),
        ({"jobs": ("mirror job0",)}, "block-jobs", "block jobs run: mirror job0"),
        ({"blockers": ("non-migratable device: 0000:00:04.0/nvme",)}, "qemu-blockers",
         "device nvme: QEMU cannot save its state"),
        ({"blockers": ("Migration is disabled when VirtFS export path is mounted",)},
         "qemu-blockers", "QEMU: Migration is disabled when VirtFS export path is mounted"),
    ],
)
def test_what_is_not_as_the_definition_says(
    change: dict[str, Any], name: str, reason: str
) -> None:
    assert found(replace(HERE, **change)) == {name: reason}


def test_a_device_is_named_once() -> None:
    spec = replace(SPEC, devices=("virtio-rng-pci", "nvme,serial=x"))
    machine = replace(HERE, anonymous=("virtio-rng-pci", "nvme"),
                      blockers=("non-migratable device: 0000:00:04.0/nvme",))
    seen = running.judge(spec, [*ARGV, "-device", "nvme,serial=x"], machine, "host-a")
    assert [check.name for check in seen if not check.ok] == ["device-kinds"]


def test_the_machine_is_asked_by_qmp(qmp_server: Any) -> None:
    """Words as QEMU 10.0 says them."""
    answers: dict[str, Any] = {
        "query-status": {"status": "running", "running": True},
        "query-memory-devices": [{"type": "dimm", "data": {"id": "m", "size": 1 << 27}},
                                 {"type": "virtio-mem", "data": {"max-size": 1 << 28, "size": 0}}],
        "query-block": [
            {"device": "", "qdev": "/machine/peripheral/blk0/virtio-backend",
             "inserted": {"node-name": "disk0", "file": "/d"}},
            {"device": "pflash0", "qdev": "/machine/system.flash0", "inserted": {"file": "/f"}},
        ],
        "query-block-jobs": [{"type": "mirror", "device": "job0"}],
        "query-migrate": {"blocked-reasons": ["x"]},
    }
    for name, answer in answers.items():
        qmp_server.handlers[name] = lambda _, answer=answer: answer
    qmp_server.handlers["qom-list"] = lambda arguments: [
        {"name": "type", "type": "string"},
        {"name": "dev", "type": f"child<{arguments['path'].rsplit('/')[-1]}>"},
    ]
    info = {"frozen": False, "gvcpus": 2,
            "hvcpus": [{"id": 0, "state": "parked"}, {"id": 1, "state": "inactive"}]}
    with Qmp.connect(qmp_server.path) as qmp:
        machine = running.read(qmp, info)
    assert machine == Machine(
        "running", {0: "parked"}, 2, {"m": 1 << 27, "?": 1 << 28}, {"dev": "peripheral"},
        ("peripheral-anon",), {0: ("disk0", "/d")}, ("mirror job0",), ("x",),
    )
