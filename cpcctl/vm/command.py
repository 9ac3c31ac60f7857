# SPDX-License-Identifier: Apache-2.0
"""A VM definition becomes QEMU's command line. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from cpcctl.host.shm import Layout, doorbell
from cpcctl.qemu import images
from cpcctl.qemu.images import Image, OpenFile
from cpcctl.snp import definition as snp
from cpcctl.snp.definition import Snp
from cpcctl.vm.ending import TRACE
from cpcctl.vm.files import Files
from cpcctl.vm.spec import Disk, Nic, VmSpec

# Where every processor that runs SEV-SNP has its C-bit, and what it costs of addresses.
POSITION = "cbitpos=51,reduced-phys-bits=1"


@dataclass(frozen=True)
class Launch:
    """Where a command line finds and puts things on this host.

    run, state: the VM's folders
    incoming:   launched stopped, disks inactive, to receive a guest
    ovmf:       the firmware of an SEV-SNP guest
    files:      what the definition names
    block, plain: what QEMU is told in place of a file's path, in a block node and elsewhere
    socket:     what it is told of a socket it listens on
    """

    qemu: Path
    qemu_data: Path | None
    firmware: Path
    run: Path
    state: Path
    incoming: bool = False
    ovmf: Path | None = None
    files: Files = field(default_factory=Files)
    block: Callable[[OpenFile], str] = attrgetter("path")
    plain: Callable[[OpenFile], str] = attrgetter("path")
    socket: Callable[[Path], str] = lambda path: f"path={_quoted(path)}"


def has_hvcpus(spec: VmSpec) -> bool:
    """Whether such a VM has hvCPUs, and so a ring file and trusted memory.

    Those of an SEV-SNP guest on the real processor are to come: nobody has run them there.
    """
    return spec.platform != snp.PLATFORM or spec.accel != "kvm"


def no_hvcpus(spec: VmSpec) -> str:
    """Why such a VM has none, to be put into a sentence about hvCPUs."""
    return f"in {spec.platform} guests under {spec.accel} they are to come"


def layout(spec: VmSpec) -> Layout:
    """The ring file such a VM needs."""
    return Layout.of(spec.hvcpu_max, spec.ring_size, spec.max_memory)


def command(spec: VmSpec, launch: Launch) -> list[str]:
    """QEMU's argv for a definition whose machine type is versioned and accel is not auto."""
    argv = [str(launch.qemu)]
    if launch.qemu_data:
        argv += ["-L", str(launch.qemu_data)]
    argv += ["-name", f"guest={_quoted(spec.name)},debug-threads=on"]
    argv += ["-no-user-config", "-nodefaults", "-display", "none"]
    # Why it ends, in its log, also when nobody is attached then.
    argv += ["-trace", TRACE]
    argv += _machine(spec, launch)
    argv += _memory(spec)
    if spec.platform == snp.PLATFORM:
        argv += _snp(spec.snp, launch)
    if has_hvcpus(spec):
        argv += _cpc(spec, launch)
    argv += _control(spec, launch)
    argv += _boot(spec, launch)
    for index, (disk, image) in enumerate(zip(spec.disks, launch.files.images, strict=True)):
        argv += _disk(index, disk, image, launch, _virtio(spec))
    for index, nic in enumerate(spec.nics):
        argv += _nic(index, nic, _virtio(spec))
    for device in spec.devices:
        argv += ["-device", device]
    if launch.incoming:
        argv.append("-S")
    return argv


def accelerator(accel: str) -> str:
    """QEMU's -accel for tcg or kvm."""
    # With TCG several hvCPUs and gvCPUs run at once only when told to.
    return {"tcg": "tcg,thread=multi", "kvm": "kvm"}[accel]


def _quoted(text: object) -> str:
    """A value inside QEMU's key=value lists: a comma is written twice."""
    return str(text).replace(",", ",,")


def _machine(spec: VmSpec, launch: Launch) -> list[str]:
    machine = spec.machine
    if has_hvcpus(spec):
        machine += f",hvcpu-max={spec.hvcpu_max}"
    if spec.platform == snp.PLATFORM:
        machine += ",confidential-guest-support=sev0"
    if spec.memory_blocks == 1:
        machine += ",memory-backend=ram0"
    argv = []
    if spec.uefi_code:
        argv += _flash("uefi-code", spec.uefi_code, launch, False)
        machine += ",pflash0=uefi-code"
    if spec.uefi_vars:
        argv += _flash("uefi-vars", spec.uefi_vars, launch, launch.incoming)
        machine += ",pflash1=uefi-vars"
    argv += ["-machine", machine]
    argv += ["-accel", accelerator(spec.accel), "-cpu", spec.cpu]
    argv += ["-smp", f"cpus={spec.vcpus},maxcpus={spec.max_vcpus}"]
    return argv


def _memory(spec: VmSpec) -> list[str]:
    mib = spec.memory >> 20
    size = f"size={mib}M"
    if spec.max_memory > spec.memory:
        size += f",slots=8,maxmem={spec.max_memory >> 20}M"
    argv = ["-m", size]
    each = spec.memory // spec.memory_blocks
    for index in range(spec.memory_blocks):
        # Shared, so that holes stay holes and are seen as absent pages.
        argv += ["-object", f"memory-backend-memfd,id=ram{index},size={each},share=on"]
        if spec.memory_blocks > 1:
            argv += ["-numa", f"node,nodeid={index},memdev=ram{index}"]
    return argv


def _snp(wanted: Snp, launch: Launch) -> list[str]:
    """The same for the processor and for its emulation: only -accel tells which."""
    words = f"sev-snp-guest,id=sev0,{POSITION},policy={wanted.policy:#x}"
    if wanted.id_block and wanted.id_auth:
        words += f",id-block={wanted.id_block},id-auth={wanted.id_auth}"
        words += ",author-key-enabled=on" if wanted.author_key else ""
    if wanted.host_data:
        words += f",host-data={base64.b64encode(bytes.fromhex(wanted.host_data)).decode()}"
    # As -bios: flash needs memory that is read-only, of which KVM has none for such guests.
    named = launch.files.boot.get(str(launch.ovmf))
    return ["-object", words, "-bios", launch.plain(named) if named else str(launch.ovmf)]


def _virtio(spec: VmSpec) -> str:
    """What a virtio device needs beside its own settings: to reach only memory that
    the guest shares."""
    return ",iommu_platform=on,disable-legacy=on" if spec.platform == snp.PLATFORM else ""


def _cpc(spec: VmSpec, launch: Launch) -> list[str]:
    ring = _quoted(launch.run / "ring")
    device = f"cpc,id=cpc,firmware={_quoted(launch.firmware)},shm=cpc-shm"
    device += f",ring-size={spec.ring_size},doorbell=cpc-bell"
    if launch.incoming:
        device += ",incoming=on"
    return [
        "-object",
        f"memory-backend-file,id=cpc-shm,mem-path={ring},size={layout(spec).size},share=on",
        "-chardev",
        f"pipe,id=cpc-bell,path={_quoted(doorbell(launch.run / 'ring'))}",
        "-device",
        device,
    ]


def _control(spec: VmSpec, launch: Launch) -> list[str]:
    argv = []
    for name in ("qmp", "qmp-job"):
        socket = launch.socket(launch.run / f"{name}.sock")
        argv += ["-chardev", f"socket,id={name},{socket},server=on,wait=off"]
        argv += ["-mon", f"chardev={name},mode=control"]
    if spec.console == "serial":
        socket = launch.socket(launch.run / "console.sock")
        log = _quoted(launch.state / "console.log")
        argv += [
            "-chardev",
            f"socket,id=console,{socket},server=on,wait=off,logfile={log},logappend=on",
            "-serial",
            "chardev:console",
        ]
    return argv


def _boot(spec: VmSpec, launch: Launch) -> list[str]:
    argv = []
    for option in ("kernel", "initrd"):
        path = getattr(spec, option)
        if path is not None:
            argv += [f"-{option}", launch.plain(launch.files.boot[path])]
    return argv if spec.append is None else [*argv, "-append", spec.append]


def _blockdevs(nodes: Iterable[dict[str, Any]]) -> list[str]:
    argv = []
    for node in nodes:
        argv += ["-blockdev", json.dumps(node, sort_keys=True)]
    return argv


def _flash(name: str, path: str, launch: Launch, inactive: bool) -> list[str]:
    image = Image(launch.files.boot[path], "raw")
    return _blockdevs(images.nodes(name, image, launch.block, inactive=inactive))


def _disk(index: int, disk: Disk, image: Image, launch: Launch, virtio: str) -> list[str]:
    direct = disk.cache == "none"
    argv = _blockdevs(
        images.nodes(
            f"disk{index}", image, launch.block, direct=direct, inactive=launch.incoming
        )
    )
    return [*argv, "-device", f"virtio-blk-pci,id=blk{index},drive=disk{index}{virtio}"]


def disk_number(qdev: str) -> int | None:
    """Which disk of the definition a block device of query-block is; None for others."""
    name = next((part for part in qdev.split("/") if part.startswith("blk")), "")
    return int(name[3:]) if name[3:].isdigit() else None


def _nic(index: int, nic: Nic, virtio: str) -> list[str]:
    # No option ROM: nothing boots from the network.
    device = f"virtio-net-pci,id=nic{index},mac={nic.mac},romfile={virtio}"
    argv: list[str] = []
    if nic.mode == "tap":
        argv += ["-netdev", f"tap,id=net{index},ifname={nic.tap},script=no,downscript=no"]
        device += f",netdev=net{index}"
    elif nic.mode == "user":
        forwards = "".join(f",hostfwd={_quoted(rule)}" for rule in nic.hostfwd)
        argv += ["-netdev", f"user,id=net{index}{forwards}"]
        device += f",netdev=net{index}"
    return [*argv, "-device", device]
