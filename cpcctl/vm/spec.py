# SPDX-License-Identifier: Apache-2.0
"""What a VM is: a strict reader of its YAML definition. No I/O but load()."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cpcctl import abi
from cpcctl.config.settings import ACCELS
from cpcctl.errors import CpcError, ExitCode, quoted, reason
from cpcctl.host.files import NotPlain, open_plain
from cpcctl.host.state import NAME
from cpcctl.snp import definition as snp
from cpcctl.snp.definition import Snp
from cpcctl.vm import values
from cpcctl.vm.values import Reader, refused

MACHINE = re.compile(r"pc|q35|pc-(?:q35|i440fx)-\d+\.\d+")
_FEATURE = r"[A-Za-z0-9_.-]+"
CPU = re.compile(rf"{_FEATURE}(?:,(?:[+-]{_FEATURE}|{_FEATURE}=(?:on|off)))*")
# A file this long is no VM definition.
FILE_LIMIT = 64 << 10


@dataclass(frozen=True)
class Disk:
    """A virtio-blk disk on a file that both hosts can open."""

    path: str
    format: str = "qcow2"
    cache: str = "none"
    readonly: bool = False


@dataclass(frozen=True)
class Nic:
    """A virtio-net card. tap: the device must exist; user: NAT in QEMU."""

    mode: str = "user"
    tap: str | None = None
    mac: str | None = None
    hostfwd: tuple[str, ...] = ()


@dataclass(frozen=True)
class VmSpec:
    """A VM. Sizes in bytes; the machine type is versioned once it was started."""

    name: str
    memory: int
    platform: str = "plain"
    machine: str = "q35"
    accel: str = "auto"  # tcg or kvm once it was started
    cpu: str = "max"
    vcpus: int = 1
    max_vcpus: int = 0  # 0: vcpus
    max_memory: int = 0  # 0: memory
    memory_blocks: int = 1
    hvcpu_max: int = 4
    hvcpus: int = 1
    ring_size: int = 8 << 20
    kernel: str | None = None
    initrd: str | None = None
    append: str | None = None
    uefi_code: str | None = None
    uefi_vars: str | None = None
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    console: str = "serial"
    devices: tuple[str, ...] = field(default=())
    snp: Snp = snp.DEFAULTS  # in a document: sev-snp

    @property
    def named_files(self) -> tuple[str, ...]:
        """Paths of everything to boot that it names; not the disks."""
        named = (self.kernel, self.initrd, self.uefi_code, self.uefi_vars, self.snp.firmware)
        return tuple(path for path in named if path is not None)

    @property
    def versioned(self) -> bool:
        """True when the machine type can be migrated."""
        return self.machine not in ("pc", "q35")

    def document(self) -> dict[str, Any]:
        """Plain values that read() turns into an equal VmSpec."""
        out: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value == entry.default:
                continue
            if entry.name in SIZES:
                out[entry.name] = values.text_size(value)
            elif entry.name == "snp":
                out[snp.PLATFORM] = value.document()
            elif entry.name in ("disks", "nics"):
                out[entry.name] = [_changed(part) for part in value]
            else:
                out[entry.name] = list(value) if isinstance(value, tuple) else value
        return out


SIZES = ("memory", "max_memory", "ring_size")


def _changed(part: Disk | Nic) -> dict[str, Any]:
    listed = {
        entry.name: getattr(part, entry.name)
        for entry in fields(part)
        if entry.name == "path" or getattr(part, entry.name) != entry.default
    }
    return {key: list(v) if isinstance(v, tuple) else v for key, v in listed.items()}


def _name(where: str, value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise refused(where, f"{quoted(value)} is not 1 to 48 letters, digits, '.', '_' and '-'")
    return str(value)


def _machine(where: str, value: Any) -> str:
    if not isinstance(value, str) or not MACHINE.fullmatch(value):
        raise refused(where, f"{quoted(value)} is neither pc, q35 nor one like pc-q35-10.0")
    return str(value)


def _cpu(where: str, value: Any) -> str:
    """A model and features; QEMU's -cpu takes other things too, such as memory=."""
    text: str = values.text(where, value)
    if text == "help" or not CPU.fullmatch(text):
        why = f"{quoted(value)} is not a model with features, such as max,+aes,pcid=off"
        raise refused(where, why)
    return text


def _tap(where: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", value):
        raise refused(where, f"{quoted(value)} is not the name of a network device")
    return str(value)


DISK: dict[str, Reader] = {
    "path": values.path,
    "format": values.choice("qcow2", "raw"),
    "cache": values.choice("none", "writeback"),
    "readonly": values.boolean,
}
NIC: dict[str, Reader] = {
    "mode": values.choice("user", "tap", "none"),
    "tap": _tap,
    "mac": values.mac,
    "hostfwd": values.listed(values.text, 32),
}


def _disk(where: str, value: Any) -> Disk:
    return Disk(**values.keys(where, value, DISK, {"path"}))


def _nic(where: str, value: Any) -> Nic:
    nic = Nic(**values.keys(where, value, NIC, set()))
    if (nic.mode == "tap") != (nic.tap is not None):
        raise refused(where, "tap names the device of mode tap, and of no other mode")
    if nic.hostfwd and nic.mode != "user":
        raise refused(where, "hostfwd needs mode user")
    return nic


SPEC: dict[str, Reader] = {
    "name": _name,
    "memory": values.size,
    "platform": values.choice("plain", snp.PLATFORM),
    snp.PLATFORM: snp.read,
    "machine": _machine,
    "accel": values.choice(*ACCELS),
    "cpu": _cpu,
    "vcpus": values.integer(1, abi.GVCPU_LIMIT),
    "max_vcpus": values.integer(1, abi.GVCPU_LIMIT),
    "max_memory": values.size,
    "memory_blocks": values.integer(1, 8),
    "hvcpu_max": values.integer(1, abi.HVCPU_LIMIT),
    "hvcpus": values.integer(0, abi.HVCPU_LIMIT),
    "ring_size": values.size,
    "kernel": values.path,
    "initrd": values.path,
    "append": values.text,
    "uefi_code": values.path,
    "uefi_vars": values.path,
    "disks": values.listed(_disk, 16),
    "nics": values.listed(_nic, 8),
    "console": values.choice("serial", "none"),
    "devices": values.listed(values.text, 32),
}


def read(document: Any, where: str = "VM definition") -> VmSpec:
    """Check a parsed definition, ours or another host's. Raises CpcError (2)."""
    found = values.keys(where, document, SPEC, {"name", "memory"})
    wanted = found.pop(snp.PLATFORM, None)
    if found.get("platform") == snp.PLATFORM:
        found.setdefault("cpu", snp.DEFAULT_CPU)
    elif wanted is not None:
        raise refused(where, "the key sev-snp needs platform: sev-snp")
    spec = VmSpec(**found, snp=wanted or snp.DEFAULTS)
    spec = replace(
        spec,
        max_vcpus=spec.max_vcpus or spec.vcpus,
        max_memory=spec.max_memory or spec.memory,
        nics=tuple(_with_mac(spec.name, i, nic) for i, nic in enumerate(spec.nics)),
    )
    _check_together(where, spec)
    return spec


def _check_together(where: str, spec: VmSpec) -> None:
    block = 2 << 20
    rules = (
        (spec.memory < 32 << 20, "memory must be at least 32M"),
        (spec.memory % (block * spec.memory_blocks) != 0,
         f"memory must be a multiple of 2M for each of {spec.memory_blocks} memory_blocks"),
        (spec.max_memory < spec.memory, "max_memory is less than memory"),
        (spec.max_memory % block != 0, "max_memory must be a multiple of 2M"),
        (spec.max_memory > 16 << 40, "max_memory is more than 16T"),
        (spec.max_vcpus < spec.vcpus, "max_vcpus is less than vcpus"),
        (spec.hvcpus > spec.hvcpu_max, "hvcpus is more than hvcpu_max"),
        (not abi.RING_MIN <= spec.ring_size <= abi.RING_MAX
         or spec.ring_size & (spec.ring_size - 1) != 0,
         "ring_size must be 2M, 4M, 8M, 16M, 32M or 64M"),
        (spec.kernel is None and (spec.initrd or spec.append) is not None,
         "initrd and append need kernel"),
        (spec.kernel is not None and spec.uefi_code is not None,
         "kernel and uefi_code exclude each other"),
        (spec.uefi_vars is not None and spec.uefi_code is None, "uefi_vars needs uefi_code"),
        (len({nic.mac for nic in spec.nics}) != len(spec.nics), "two nics have the same mac"),
        (len({disk.path for disk in spec.disks}) != len(spec.disks),
         "two disks have the same path"),
        *(snp.rules(spec) if spec.platform == snp.PLATFORM else ()),
    )
    for broken, why in rules:
        if broken:
            raise refused(where, why)


def _with_mac(name: str, index: int, nic: Nic) -> Nic:
    """A card without a mac gets one made of the VM's name: the same each time."""
    if nic.mac is not None:
        return nic
    digest = hashlib.sha256(f"{name}/{index}".encode()).digest()
    return replace(nic, mac="52:54:00:" + digest[:3].hex(":"))


def load(path: Path) -> VmSpec:
    """Read a YAML file. Raises CpcError (2)."""
    from cpcctl.config.document import parse

    try:
        with open_plain(path) as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise CpcError(
            f"{path} cannot be read",
            exit_code=ExitCode.USAGE,
            cause=reason(error),
            hint="write the definition into a plain file" if isinstance(error, NotPlain) else None,
        ) from error
    if len(data) > FILE_LIMIT:
        raise CpcError(f"{path} is too long", exit_code=ExitCode.USAGE)
    document = parse(data, str(path))
    if document is None:
        raise CpcError(
            f"{path} is empty",
            exit_code=ExitCode.USAGE,
            hint="a VM definition has at least name and memory",
        )
    return read(document, str(path))


def dump(spec: VmSpec) -> str:
    """The YAML of a definition."""
    import yaml

    return str(yaml.safe_dump(spec.document(), sort_keys=False))
