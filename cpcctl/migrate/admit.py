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

from cpcctl.config.settings import Settings
from cpcctl.errors import quoted, shown
from cpcctl.host.beneath import Outside, open_beneath
from cpcctl.migrate.checks import PASSED_THROUGH, VTPM
from cpcctl.qemu.images import BadImage
from cpcctl.ui.check import Check
from cpcctl.vm.files import Files, open_files
from cpcctl.vm.spec import VmSpec

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


def folders(settings: Settings) -> tuple[str, ...]:
    """The allowed folders: our own and the configured ones, which ':' separates."""
    own = str(settings.state_dir / "images")
    return (own, *filter(None, settings.allow_paths.split(":")))


def open_allowed(spec: VmSpec, allowed: Iterable[str]) -> Files:
    """Everything that a definition names below the allowed folders, open. Nothing else
    is: see Files.problems."""
    folders = tuple(allowed)
    return open_files(spec, lambda path, writes: open_beneath(path, writes, folders))


def judge(spec: VmSpec, files: Files, host: str) -> list[Check]:
    """The checks that come before any other of the destination. Pure."""
    outside = sorted(p for p, error in files.problems.items() if isinstance(error, Outside))
    odd = {p: error for p, error in files.problems.items() if isinstance(error, BadImage)}
    fixes = dict.fromkeys(error.fix for error in odd.values() if error.fix)
    drivers = [device.split(",")[0] for device in spec.devices]
    passed = sorted({driver for driver in drivers if driver in PASSED_THROUGH})
    tpm = sorted({driver for driver in drivers if driver in VTPM})
    bad = {device: why for device in spec.devices if (why := device_problem(device))}
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
            "; ".join(f"{shown(path)} {error}" for path, error in odd.items()),
            "\n".join(map(shown, fixes)) or "use an image whose backing files are plain files",
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
    ]


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
