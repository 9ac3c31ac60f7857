# SPDX-License-Identifier: Apache-2.0
"""What is refused before an SEV-SNP guest is started, with the reason and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.host import cpu_model, find
from cpcctl.host.files import open_plain
from cpcctl.host.qmp import Qmp
from cpcctl.snp import cpu as cpus
from cpcctl.snp import kernel, measure, ovmf
from cpcctl.snp.cpu import Cpu
from cpcctl.snp.definition import DEFAULT_CPU, POLICY_SMT
from cpcctl.snp.launch import FirmwareLaunch
from cpcctl.snp.ovmf import NoOvmf, Ovmf
from cpcctl.vm import command, ready
from cpcctl.vm.spec import VmSpec

OBJECT = "sev-snp-guest"
EMULATION = "query-sev-emulation"


@dataclass(frozen=True)
class Qemu:
    """What a QEMU can do for such guests.

    launches: it has the object that makes one. emulates: without the hardware, too
    """

    launches: bool
    emulates: bool


def qemu(qmp: Qmp) -> Qemu:
    """Asked of a QEMU without a machine."""
    types = {entry["name"] for entry in qmp.execute("qom-list-types", implements="object")}
    commands = {entry["name"] for entry in qmp.execute("query-commands")}
    return Qemu(OBJECT in types, EMULATION in commands)


def check(settings: Settings, spec: VmSpec) -> str:
    """The launch digest to expect of a resolved definition. Raises CpcError (3)."""
    image = find.ovmf_image(settings, spec.snp.firmware)
    binary = find.qemu_binary(settings)

    fix = f"{binary} -cpu help; use cpu: {DEFAULT_CPU} or another one of AMD"

    def ask(qmp: Qmp) -> tuple[Qemu, Cpu]:
        return qemu(qmp), cpus.read(cpu_model.expand(qmp, spec.cpu, fix))

    # Of a named model QEMU says the same with either accelerator.
    able, cpu = find.ask(binary, find.qemu_data(settings, binary), ask)
    found = _qemu(binary, able, spec.accel == "tcg")
    found += cpus.problems(spec.cpu, cpu, command.has_hvcpus(spec))
    found += _firmware(image, spec.accel == "tcg")
    found += _kernel(spec)
    if spec.accel == "tcg" and not spec.snp.policy & POLICY_SMT:
        found.append((
            f"policy {spec.snp.policy:#x} forbids SMT (bit 16), which the emulated processor has",
            f"use policy: {spec.snp.policy | POLICY_SMT:#x}",
        ))
    if found:
        raise CpcError(
            f"VM {spec.name} cannot be started as SEV-SNP guest",
            exit_code=ExitCode.REFUSED,
            host=settings.host,
            cause="\n".join(why for why, _ in found),
            hint="\n".join(dict.fromkeys(fix for _, fix in found)),
        )
    hvcpus = _hvcpus(settings, spec, image) if command.has_hvcpus(spec) else None
    digest = measure.launch_digest(image, spec.vcpus, cpu.signature, hvcpus)
    if spec.snp.signed_digest not in (None, digest):
        raise CpcError(
            f"the ID block of VM {spec.name} was signed for another guest",
            exit_code=ExitCode.REFUSED,
            host=settings.host,
            cause=f"its launch digest is {digest}, the ID block is for {spec.snp.signed_digest}",
            hint="undo the change, or have the owner sign the new digest",
        )
    return digest


def _hvcpus(settings: Settings, spec: VmSpec, image: Path) -> FirmwareLaunch:
    """What the launch has for hvCPUs."""
    firmware = read_firmware(image)
    return FirmwareLaunch(
        image=find.firmware_image(settings).read_bytes(),
        hvcpu_max=spec.hvcpu_max,
        max_vcpus=spec.max_vcpus,
        max_memory=spec.max_memory,
        ring_size=spec.ring_size,
        shm_size=command.layout(spec).size,
        ap_reset=firmware.ap_entry,
        launch=firmware.launch,
    )


def read_firmware(path: Path) -> Ovmf:
    """Parse an image. Raises NoOvmf, which says what is wrong, also when it cannot be read."""
    try:
        with open_plain(path) as file:
            return ovmf.read(file.read(ovmf.SIZE_MAX + 1))
    except OSError as error:
        raise NoOvmf(f"it cannot be read: {reason(error)}") from error


def firmware_problem(path: Path, emulated: bool) -> str:
    """"" for an image that starts such guests, else why it does not."""
    try:
        image = read_firmware(path)
    except NoOvmf as error:
        return f"the firmware {path} cannot be used: {error}"
    if emulated and not image.recent:
        return f"the firmware {path} is older than 2024.05; such crash in the emulation"
    return ""


def _firmware(path: Path, emulated: bool) -> list[tuple[str, str]]:
    why = firmware_problem(path, emulated)
    return [(why, find.OVMF_FIX)] if why else []


def _qemu(binary: Path, able: Qemu, emulated: bool) -> list[tuple[str, str]]:
    if not able.launches:
        return [(f"QEMU {binary} knows no SEV-SNP guests", "make qemu, or set CPCCTL_QEMU")]
    if emulated and not able.emulates:
        return [(f"QEMU {binary} does not emulate SEV-SNP", "make qemu, or set CPCCTL_QEMU")]
    return []


def _kernel(spec: VmSpec) -> list[tuple[str, str]]:
    """Of a VM that boots from a disk, the kernel is not known."""
    if spec.kernel is None:
        return []
    try:
        why = kernel.look(Path(spec.kernel))
    except OSError as error:
        why = f"the kernel cannot be read: {reason(error)}"
        return [(why, ready.fix(spec, spec.kernel, error))]
    fix = (
        f"use a kernel of 5.19 or later with {kernel.OPTION}=y, such as Debian's 6.1, 6.12 or 7.2"
    )
    return [(why, fix)] if why else []
