# SPDX-License-Identifier: Apache-2.0
"""What a source may make this host open, attach or listen on.

A VM definition that comes over the network names files of this host, and
QEMU's devices can read and write more of them. The source is believed in
none of it: files lie below folders that the operator of `receive` allows,
and devices are of a few emulated kinds, with a few harmless settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from cpcctl.errors import quoted, shown
from cpcctl.migrate import image
from cpcctl.migrate.checks import PASSED_THROUGH, VTPM
from cpcctl.ui.check import Check
from cpcctl.vm.spec import VmSpec

DEFAULT_FOLDERS = ("/var/lib/cpcctl/images", "/srv")
DRIVERS = frozenset(
    {
        "virtio-rng-pci", "virtio-balloon-pci", "virtio-scsi-pci", "virtio-keyboard-pci",
        "virtio-mouse-pci", "virtio-tablet-pci", "pvpanic", "pvpanic-pci", "qemu-xhci",
        "usb-kbd", "usb-mouse", "usb-tablet", "pcie-root-port",
    }
)
SETTINGS = frozenset(
    {
        "id", "bus", "addr", "port", "chassis", "slot", "multifunction", "disable-legacy",
        "disable-modern", "max-bytes", "period", "free-page-reporting", "deflate-on-oom",
        "num_queues", "events",
    }
)
VALUE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
FORWARD = re.compile(r"(?:tcp|udp):[0-9.]*:\d{1,5}-[0-9.]*:\d{1,5}")


def folders(configured: str) -> tuple[Path, ...]:
    """The allowed folders: ours and the configured ones, which ':' separates."""
    return tuple(Path(word) for word in (*DEFAULT_FOLDERS, *filter(None, configured.split(":"))))


def look(spec: VmSpec, allowed: Iterable[Path], host: str) -> list[Check]:
    """The checks that come before any other of the destination, which open files."""
    real = {path: os.path.realpath(path) for path in _paths(spec)}
    roots = [os.path.realpath(folder).rstrip("/") + "/" for folder in allowed]
    odd: dict[str, str] = {}
    # What is in a raw disk is the guest's and means nothing to QEMU.
    for disk in (disk for disk in spec.disks if disk.format == "qcow2"):
        _follow(disk.path, real, odd, roots)
    return judge(spec, real, odd, roots, host)


def _follow(path: str, real: dict[str, str], odd: dict[str, str], roots: list[str]) -> None:
    """Add what an image is based on, as long as that may be looked at."""
    for _ in range(image.CHAIN_MAX):
        if not _below(real[path], roots):
            return
        try:
            base = image.base(path)
        except ValueError as error:
            odd[path] = str(error)
            return
        except OSError:
            return  # another check says so
        if base is None:
            return
        path = base
        real[path] = os.path.realpath(path)
    odd[path] = "is one base too many"


def _below(found: str, roots: list[str]) -> bool:
    return any(found.startswith(root) for root in roots)


def judge(
    spec: VmSpec, real: dict[str, str], odd: dict[str, str], roots: list[str], host: str
) -> list[Check]:
    """Pure. real: every path, without symbolic links. odd: images and what is
    wrong with them. roots: the folders, without links and with a final slash."""
    outside = sorted(path for path, found in real.items() if not _below(found, roots))
    drivers = [device.split(",")[0] for device in spec.devices]
    passed = sorted({driver for driver in drivers if driver in PASSED_THROUGH})
    tpm = sorted({driver for driver in drivers if driver in VTPM})
    bad = {device: why for device in spec.devices if (why := device_problem(device))}
    forwards = [rule for nic in spec.nics for rule in nic.hostfwd if not FORWARD.fullmatch(rule)]
    options = " ".join(
        f"--allow-path {shown(parent)}"
        for parent in dict.fromkeys(os.path.dirname(path) for path in outside)
    )
    check = partial(Check.of, host)
    return [
        check(
            "paths",
            not outside,
            f"{', '.join(shown(path) for path in outside)} is not below a folder that this "
            "host's operator allows",
            f"cpcctl receive {options}",
        ),
        check(
            "images",
            not odd,
            "; ".join(f"{shown(path)} {why}" for path, why in odd.items()),
            "use an image whose bases are files",
        ),
        check(
            "passthrough",
            not passed,
            f"{', '.join(passed)} belongs to the other host's hardware",
            "remove the device from the guest, then migrate",
        ),
        check(
            "vtpm",
            not tpm,
            f"{', '.join(tpm)} keeps its state outside the guest",
            "start the VM without a vTPM",
        ),
        check(
            "devices",
            not bad,
            "; ".join(f"{shown(device, 256)}: {why}" for device, why in bad.items()),
            "start the VM without the device",
        ),
        check(
            "hostfwd",
            not forwards,
            f"{', '.join(shown(rule, 256) for rule in forwards)} is no plain TCP or UDP rule",
            "start the VM with rules such as tcp::2222-:22",
        ),
    ]


def _paths(spec: VmSpec) -> list[str]:
    return [*spec.named_files, *(disk.path for disk in spec.disks)]


def device_problem(device: str) -> str:
    """"" for a device that opens nothing of this host, else why it is refused."""
    driver, *words = device.split(",")
    if driver in PASSED_THROUGH or driver in VTPM:
        return ""  # said by a check of its own
    if driver not in DRIVERS:
        return "no device that may come over the network"
    for word in words:
        key, _, value = word.partition("=")
        if key not in SETTINGS or not VALUE.fullmatch(value):
            return f"its setting {quoted(word)} may not come over the network"
    return ""
