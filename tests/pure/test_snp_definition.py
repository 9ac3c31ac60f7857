# SPDX-License-Identifier: Apache-2.0
"""platform: sev-snp in a definition: what is read, what is refused, what must move alike."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpcctl.errors import CpcError
from cpcctl.snp import definition
from cpcctl.vm import protection, spec

SMALL: dict[str, Any] = {"name": "a", "memory": "512M", "platform": "sev-snp"}
BLOCK = base64.b64encode(b"\xab" * 48 + bytes(42) + b"\x0b" + bytes(5)).decode()
AUTH = base64.b64encode(bytes(4096)).decode()
AUTHOR = base64.b64encode(bytes(4) + b"\1" + bytes(4091)).decode()
FULL: dict[str, Any] = {
    "policy": 0xB0000, "id_block": BLOCK, "id_auth": AUTHOR, "host_data": "AB" * 32,
    "firmware": "/o.fd",
}


def test_defaults() -> None:
    found = spec.read(SMALL)
    assert (found.platform, found.cpu, found.snp.policy) == ("sev-snp", "EPYC-Milan", 0x30000)
    assert not found.snp.debug and not found.snp.author_key
    assert spec.read({**SMALL, "cpu": "EPYC-Rome"}).cpu == "EPYC-Rome"


def test_what_is_written_is_read_back() -> None:
    changes: tuple[dict[str, Any], ...] = ({}, {"sev-snp": {}}, {"sev-snp": FULL})
    for change in changes:
        found = spec.read({**SMALL, **change})
        assert spec.read(yaml.safe_load(spec.dump(found))) == found
    assert found.snp.debug and found.snp.author_key
    assert found.snp.host_data == "ab" * 32
    assert (found.snp.signed_digest, found.snp.signed_policy) == ("ab" * 48, 0xB0000)
    assert found.named_files == ("/o.fd",)
    assert yaml.safe_load("0x30000") == 0x30000


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ([], "must be keys and values"),
        ({"polcy": 1}, "unknown key 'polcy'"),
        ({"policy": "0x30000"}, "policy: '0x30000' is not a whole number"),
        ({"policy": 1 << 64}, "is not a whole number"),
        ({"policy": 0x10000}, "policy: 0x10000 lacks bit 17"),
        ({"policy": 0x30000 | 1 << 40}, "has bits above 25"),
        ({"id_block": BLOCK}, "id_block and id_auth need each other"),
        ({"id_auth": AUTH}, "id_block and id_auth need each other"),
        ({"id_block": BLOCK, "id_auth": AUTH}, "signed for policy 0xb0000, not 0x30000"),
        ({"id_block": "!", "id_auth": AUTH}, "id_block: is not base64"),
        ({"id_block": 5, "id_auth": AUTH}, "id_block: is not base64"),
        ({"id_block": "é", "id_auth": AUTH}, "id_block: is not base64"),
        ({"id_block": AUTH, "id_auth": AUTH}, "id_block: has 4096 bytes, not 96"),
        ({"id_block": BLOCK, "id_auth": BLOCK}, "id_auth: has 96 bytes, not 4096"),
        ({"host_data": "ab"}, "host_data: is not a string of 64 hex digits"),
        ({"host_data": "g" * 64}, "host_data: is not a string of 64 hex digits"),
        ({"host_data": 1}, "host_data: is not a string of 64 hex digits"),
        ({"firmware": "o.fd"}, "firmware: 'o.fd' is not an absolute path"),
    ],
)
def test_keys_that_are_refused(wanted: Any, words: str) -> None:
    with pytest.raises(CpcError) as caught:
        spec.read({**SMALL, "sev-snp": wanted})
    assert words in caught.value.message
    assert caught.value.message.startswith("VM definition: sev-snp")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"platform": "plain", "sev-snp": {}}, "the key sev-snp needs platform: sev-snp"),
        ({"platform": "sev"}, "'sev' is not one of plain, sev-snp"),
        ({"machine": "pc"}, "needs machine q35"),
        ({"machine": "pc-i440fx-10.0"}, "needs machine q35"),
        ({"cpu": "max"}, "cpu max is another one on each host"),
        ({"cpu": "host,+aes"}, "write cpu: EPYC-Milan or another"),
        ({"uefi_code": "/c"}, "takes its firmware from sev-snp: firmware"),
        ({"memory": "254M"}, "needs memory of 256M or more"),
        ({"max_memory": "1G"}, "leave max_memory and memory_blocks out"),
        ({"memory_blocks": 2}, "leave max_memory and memory_blocks out"),
        ({"max_vcpus": 2}, "leave max_vcpus out"),
        ({"vcpus": 256}, "256 vcpus are too many for platform sev-snp: 255 at most"),
        ({"devices": ["virtio-rng-pci,iommu_platform=off"]}, "looks for its rings in private"),
        ({"devices": ["virtio-rng-pci,noiommu_platform"]}, "looks for its rings in private"),
        ({"devices": ['{"driver": "virtio-rng-pci", "iommu_platform": false}']}, "as DRIVER,KEY"),
        ({"devices": ["virtio-rng-pci,nodisable-legacy"]}, "virtio before version 1"),
        ({"devices": ["virtio-rng-pci,disable-legacy=off"]}, "virtio before version 1"),
        ({"devices": ["virtio-rng-pci,disable-modern=on"]}, "virtio before version 1"),
        ({"devices": ["virtio-rng-pci-transitional"]}, "virtio before version 1"),
        ({"devices": ["vhost-user-fs-pci,chardev=c"]}, "outside QEMU"),
        ({"devices": ["vfio-pci,host=01:00.0"]}, "outside QEMU"),
    ],
)
def test_vms_that_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CpcError) as caught:
        spec.read({**SMALL, **change})
    assert words in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "device",
    ["virtio-rng-pci", "virtio-rng-pci,iommu_platform=on,disable-legacy=on", "pcie-root-port",
     "virtio-rng-pci,iommu_platform,nodisable-modern",
     "virtio-rng-pci-non-transitional", "pvpanic-pci", "virtio-scsi-pci,disable-modern=off"],
)
def test_devices_that_may_be_there(device: str) -> None:
    assert spec.read({**SMALL, "devices": [device]}).devices == (device,)


def test_a_plain_vm_may_have_what_this_one_may_not() -> None:
    assert spec.read({
        "name": "a", "memory": "64M", "max_vcpus": 4, "machine": "pc",
        "devices": ["virtio-rng-pci,iommu_platform=off"],
    })


def test_what_is_said_of_the_protection() -> None:
    assert "emulated: no protection from this host's root" in protection.line("sev-snp", "tcg")
    assert "attestation report" in protection.line("sev-snp", "kvm")
    assert "allows debugging" in protection.line("sev-snp", "kvm", debug=True)
    assert "emulated" in protection.line("sev-snp", "tcg", debug=True)
    assert protection.line("plain", "kvm").startswith("plain: ")


def test_a_real_guest_and_an_emulated_one_are_not_alike() -> None:
    kinds = [protection.kind(p, a) for p in ("plain", "sev-snp") for a in ("tcg", "kvm")]
    assert kinds == ["plain", "plain", "sev-snp-emulated", "sev-snp"]


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "vm-definition.md").read_text()
    for key in definition.KEYS:
        assert f"`{key}`" in text, key
