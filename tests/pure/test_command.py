# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line, compared word for word."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpcctl.vm import command as commands
from cpcctl.vm import spec
from cpcctl.vm.command import Launch, layout
from cpcctl.vm.files import unopened

LAUNCH = Launch(
    qemu=Path("/q/qemu-system-x86_64"),
    qemu_data=Path("/q/share"),
    firmware=Path("/fw/a,b.bin"),
    run=Path("/run/vms/a"),
    state=Path("/state/vms/a"),
    ovmf=Path("/o/OVMF.fd"),
)
CASES: dict[str, dict[str, Any]] = {
    "q35": {
        "machine": "pc-q35-10.0", "accel": "kvm", "vcpus": 2, "kernel": "/boot/vmlinuz",
        "initrd": "/boot/initrd", "append": "console=ttyS0 x=a,b",
        "disks": [{"path": "/disk,1.qcow2"}],
        "nics": [{"mode": "tap", "tap": "tap0"}],
    },
    "pc": {
        "machine": "pc-i440fx-10.0", "accel": "tcg", "max_vcpus": 4, "memory": "1G",
        "max_memory": "2G", "memory_blocks": 2, "hvcpu_max": 2, "ring_size": "2M",
        "console": "none", "uefi_code": "/code.fd", "uefi_vars": "/vars.fd",
        "disks": [{"path": "/d.raw", "format": "raw", "cache": "writeback", "readonly": True}],
        "nics": [{"hostfwd": ["tcp::22-:22"]}, {"mode": "none"}],
        "devices": ["virtio-rng-pci"],
    },
    "snp": {
        "machine": "pc-q35-10.0", "platform": "sev-snp", "accel": "tcg", "vcpus": 2,
        "kernel": "/boot/vmlinuz", "disks": [{"path": "/d.qcow2"}], "nics": [{}],
    },
    "snp-all": {
        "machine": "pc-q35-10.0", "platform": "sev-snp", "accel": "kvm", "cpu": "EPYC-Milan",
        "disks": [{"path": "/d.qcow2"}], "nics": [{"mode": "none"}],
        "sev-snp": {
            "policy": 0x20000, "host_data": "01" * 32,
            "id_block": base64.b64encode(b"block".ljust(90, b"\0") + b"\2" + bytes(5)).decode(),
            "id_auth": base64.b64encode(b"auth".ljust(4096)).decode(),
        },
    },
}


def command(vm: spec.VmSpec, launch: Launch) -> list[str]:
    return commands.command(vm, replace(launch, files=unopened(vm)))


@pytest.mark.parametrize("incoming", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_command_line(
    case: str, incoming: bool, golden: Callable[[str, str], None]
) -> None:
    vm = spec.read({"name": "a", "memory": "512M", **CASES[case]})
    argv = command(vm, replace(LAUNCH, incoming=incoming))
    golden(f"command-{case}{'-incoming' if incoming else ''}.txt", "\n".join(argv) + "\n")


def test_an_emulated_guest_and_a_real_one_differ_in_the_accelerator_and_hvcpus() -> None:
    emulated, real = (
        command(spec.read({"name": "a", "memory": "512M", **CASES["snp"], "accel": accel}), LAUNCH)
        for accel in ("tcg", "kvm")
    )
    extra = [word for word in emulated if "cpc-shm" in word or "cpc-bell" in word]
    assert len(extra) == 3
    rest = [word.replace(",hvcpu-max=4", "") for word in emulated if word not in extra]
    for word in ("-object", "-chardev", "-device"):
        rest.remove(word)
    rest[rest.index("tcg,thread=multi")] = "kvm"
    assert sorted(rest) == sorted(real)


def test_without_a_data_folder_qemu_looks_itself() -> None:
    vm = spec.read({"name": "a", "memory": "512M", "accel": "tcg"})
    assert "-L" not in command(vm, replace(LAUNCH, qemu_data=None))


def test_the_ring_file_grows_with_maximum_memory() -> None:
    small = spec.read({"name": "a", "memory": "512M"})
    large = spec.read({"name": "a", "memory": "512M", "max_memory": "1T"})
    assert layout(small).data_offset == 2 << 20
    assert layout(large).data_offset == 34 << 20
