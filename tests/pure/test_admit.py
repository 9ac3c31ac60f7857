# SPDX-License-Identifier: Apache-2.0
"""What a source may make the destination open: only what its operator allows."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpcctl.config.load import load
from cpcctl.errors import CpcError
from cpcctl.migrate import admit
from cpcctl.ui.check import Check
from cpcctl.vm import spec as specs
from cpcctl.vm.spec import Disk, VmSpec
from tests import qcow2

SPEC = VmSpec(name="t", memory=1 << 30, machine="pc-q35-10.0")


def failed(spec: VmSpec, *allowed: Path) -> dict[str, Check]:
    with admit.open_allowed(spec, map(str, allowed)) as files:
        found = admit.judge(spec, files, "host-b")
    return {check.name: check for check in found if not check.ok}


def test_all_is_well(tmp_path: Path) -> None:
    spec = replace(
        SPEC, kernel=str(tmp_path / "k"), disks=(Disk(str(tmp_path / "d" / "disk")),),
        devices=("virtio-rng-pci,id=rng,max-bytes=1024,period=1000", "pvpanic"),
    )
    assert failed(spec, tmp_path) == {}
    assert failed(SPEC) == {}


@pytest.mark.parametrize("key", ["kernel", "initrd", "uefi_code", "uefi_vars", "disks"])
@pytest.mark.parametrize(
    "path",
    ["/etc/shadow", "IN/../out/x", "IN/link", "IN/folder/x", "INSIDE", "IN", "/dev/sda",
     "/proc/self/mem", "/srvx/disk"],
)
def test_paths_outside_are_refused(tmp_path: Path, key: str, path: str) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "link").symlink_to("/etc/shadow")
    (inside / "folder").symlink_to("/etc")
    path = path.replace("IN", str(inside), 1)
    value: Any = (Disk(path, "raw"),) if key == "disks" else path
    found = failed(replace(SPEC, **{key: value}), inside)
    assert list(found) == ["paths"]
    assert path in str(found["paths"].reason)
    assert f"--allow-path {os.path.dirname(path)}" in str(found["paths"].fix)


def test_a_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert failed(replace(SPEC, kernel=str(tmp_path / "link" / "k")), tmp_path / "link") == {}
    assert failed(replace(SPEC, kernel=str(tmp_path / "real" / "k")), tmp_path / "link") == {}


@pytest.mark.parametrize(
    ("base", "name"),
    [("/etc/shadow", "paths"), ("../out", "paths"), ("json:{}", "images"),
     ("nbd://h/x", "images"), ("top", "images"), ("middle", "paths"), ("x" * 1024, "images")],
)
def test_what_an_image_is_based_on(tmp_path: Path, base: str, name: str) -> None:
    qcow2.write(tmp_path / "middle", "/etc/passwd")
    top = qcow2.write(tmp_path / "top", base)
    assert list(failed(replace(SPEC, disks=(Disk(top),)), tmp_path)) == [name]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (qcow2.header(data_file="/etc/shadow"), "paths"),
        (qcow2.header(data_file="data"), "images"),
        # Shorter than a header: QEMU would take the rest for zeros and open the base.
        (qcow2.header("/etc/shadow", version=2)[:20], "images"),
        (b"", "images"),
        (b"raw".ljust(512), "images"),
    ],
)
def test_what_an_image_says(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / "top").write_bytes(data)
    assert list(failed(replace(SPEC, disks=(Disk(str(tmp_path / "top")),)), tmp_path)) == [name]


def test_an_image_with_a_base_inside(tmp_path: Path) -> None:
    qcow2.write(tmp_path / "base")
    top = qcow2.write(tmp_path / "top", "base")
    disks = (Disk(top), Disk(str(tmp_path / "none")), Disk(qcow2.write(tmp_path / "alone")),
             Disk(qcow2.write(tmp_path / "raw", "/etc/shadow"), "raw"))
    assert failed(replace(SPEC, disks=disks), tmp_path) == {}


def test_folders() -> None:
    """None that the operator did not name, but cpcctl's own."""
    settings = load({}, {"CPCCTL_STATE_DIR": "/var/lib/cpcctl", "HOME": "/none"})
    assert admit.folders(settings) == ("/var/lib/cpcctl/images",)
    settings = replace(settings, allow_paths="/a::/b")
    assert admit.folders(settings)[1:] == ("/a", "/b")


@pytest.mark.parametrize(
    "device",
    [
        "loader,file=/etc/passwd", "help", "cpc,firmware=/x", "virtio-rng-pci,romfile=/etc/shadow",
        "virtio-rng-pci,help", "virtio-rng-pci,rng=x", "virtio-rng-pci,,id=x",
        '{"driver":"loader","file":"/etc/passwd"}', "virtio-scsi-pci,chardev=x",
        "ivshmem-plain,memdev=x", "virtio-rng-pci,id=/x", "pvpanic,id=", " pvpanic", "",
        "usb-mtp,rootdir=/", "virtio-9p-pci,path=/", "intel-iommu",
    ],
)
def test_devices_are_of_a_few_kinds(device: str) -> None:
    assert list(failed(replace(SPEC, devices=(device,)))) == ["devices"]


@pytest.mark.parametrize(
    ("device", "name"),
    [("vfio-pci,host=01:00.0", "passthrough"), ("usb-host,vendorid=1", "passthrough"),
     ("tpm-crb,tpmdev=x", "vtpm")],
)
def test_what_belongs_to_a_host(device: str, name: str) -> None:
    assert list(failed(replace(SPEC, devices=(device,)))) == [name]


def test_nothing_hostile_is_printed_as_it_is() -> None:
    # specs.read refuses what is not printable; this must hold without it.
    spec = replace(SPEC, kernel="/\x1b[2J/k", devices=("\x1b[2J",))
    for check in failed(spec).values():
        assert (check.reason or "").isprintable()
        assert (check.fix or "").isprintable()


@pytest.mark.parametrize("cpu", ["max", "qemu64,+aes", "EPYC-v4,-svm,pcid=off,avx512f=on"])
def test_cpu(cpu: str) -> None:
    assert specs.read({"name": "t", "memory": "64M", "cpu": cpu}).cpu == cpu


@pytest.mark.parametrize(
    "cpu",
    ["help", "?", "max,memory=ram0", "max,", "max,,", "max,pcid", "max,pcid=maybe", "max,+a,b=/x",
     "max,vendor=x", " max", "", "max,pcid=on ", 7],
)
def test_cpu_is_a_model_and_features(cpu: object) -> None:
    with pytest.raises(CpcError):
        specs.read({"name": "t", "memory": "64M", "cpu": cpu})
