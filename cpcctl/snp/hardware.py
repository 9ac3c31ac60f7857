# SPDX-License-Identifier: Apache-2.0
"""Whether this host's processor and kernel run SEV-SNP guests; else it is emulated."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cpcctl.accel import choose, device
from cpcctl.accel.choose import Choice
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode, reason

MODULE = Path("/sys/module/kvm_amd")
PARAMETER = Path("parameters/sev_snp")
SEV = Path("/dev/sev")
BIOS = "turn SMEE, SNP memory coverage and the IOMMU on in the BIOS; dmesg | grep -i -e sev -e ccp"


@dataclass(frozen=True)
class Obstacle:
    """What keeps this host from it, and what to do."""

    why: str
    fix: str


def obstacles() -> list[Obstacle]:
    """Everything that lacks; empty where real SEV-SNP guests can run."""
    found = [_kvm(), _module(), _processor()]
    return [obstacle for obstacle in found if obstacle is not None]


def _kvm() -> Obstacle | None:
    verdict = device.look()
    return None if verdict is None else Obstacle(verdict.reason, verdict.fix or "cpcctl doctor")


def _module() -> Obstacle | None:
    if not MODULE.exists():
        return Obstacle("the kernel module kvm_amd is not loaded", f"modprobe kvm_amd; {BIOS}")
    try:
        text = (MODULE / PARAMETER).read_text().strip()
    except FileNotFoundError:
        return Obstacle(
            "kvm_amd has no parameter sev_snp: this kernel hosts no SEV-SNP guests",
            "use Linux 6.11 or later with CONFIG_KVM_AMD_SEV=y",
        )
    except OSError as error:
        return Obstacle(f"sev_snp of kvm_amd cannot be read: {reason(error)}", BIOS)
    if text not in ("Y", "1"):
        return Obstacle(
            f"kvm_amd was loaded with sev_snp={text[:8]}",
            f"modprobe -r kvm_amd && modprobe kvm_amd sev=1 sev_es=1 sev_snp=1; {BIOS}",
        )
    return None


def _processor() -> Obstacle | None:
    """The security processor, to which QEMU talks itself."""
    try:
        os.close(os.open(SEV, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Obstacle(f"there is no {SEV}", "modprobe ccp; dmesg | grep -i ccp")
    except OSError as error:
        return Obstacle(f"{SEV} cannot be opened: {reason(error)}", f"chmod 660 {SEV}, as root; "
                        "its group is who may start such guests")
    return None


def take(
    settings: Settings, flag: str | None, defined: str, *, elsewhere: bool = False
) -> Choice:
    """The accelerator of such a guest that is started here. Raises CpcError (3), see decide().

    elsewhere: it is started on another host, of which the wish is right.
    """
    wish = choose.wanted(flag, defined, settings.accel)
    found = [] if wish == choose.TCG else obstacles()
    if elsewhere and wish == choose.KVM and found:
        why = "; ".join(obstacle.why for obstacle in found)
        return Choice(choose.KVM, f"for a host with SEV-SNP; not for this one: {why}")
    return decide(wish, found)


def decide(wish: str, found: list[Obstacle]) -> Choice:
    """Pure. kvm is the real thing, tcg the emulation.

    Raises CpcError (3) for kvm where something lacks.
    """
    if wish == choose.TCG:
        return Choice(choose.TCG)
    why = "; ".join(obstacle.why for obstacle in found)
    if wish == choose.KVM:
        if found:
            raise CpcError(
                "this host runs no SEV-SNP guests with KVM",
                exit_code=ExitCode.REFUSED,
                cause=why,
                hint=f"{found[0].fix}\n--accel tcg, which emulates SEV-SNP",
            )
        return Choice(choose.KVM)
    if found:
        return Choice(choose.TCG, f"emulated SEV-SNP, since {why}; using TCG")
    return Choice(choose.KVM, "this host runs SEV-SNP guests; using KVM")
