# SPDX-License-Identifier: Apache-2.0
"""The launch digest that an SEV-SNP guest should have.

The processor hashes, in this order, every page of the firmware, every page that
the firmware's metadata asks for, and the first register state of every vCPU. Not
in it: the policy, the memory size, and a kernel that QEMU hands to the firmware.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from cpcctl.errors import CpcError, ExitCode

PACKAGE = "sev-snp-measure"
# Register states have the SEV features with them: SEV-SNP, nothing else.
SEV_FEATURES = 1


def launch_digest(firmware: Path, vcpus: int, signature: int) -> str:
    """96 hex digits.

    firmware:  an image that ovmf.read() has accepted
    signature: family, model and stepping of the vCPUs, as CPUID function 1 has it in EAX
    Raises CpcError (2) when the package sev-snp-measure is missing.
    """
    gctx, guest, ovmf, vmsa = (_part(name) for name in ("gctx", "guest", "ovmf", "vmsa"))
    qemu = _part("vmm_types").VMMType.QEMU
    image = ovmf.OVMF(str(firmware))
    digest = gctx.GCTX()
    digest.update_normal_pages(image.gpa(), image.data())
    guest.snp_update_metadata_pages(digest, image, None, qemu)
    states = vmsa.VMSA(
        _part("sev_mode").SevMode.SEV_SNP, image.sev_es_reset_eip(), signature, SEV_FEATURES, qemu
    )
    for page in states.pages(vcpus):
        digest.update_vmsa_page(page)
    return str(digest.ld().hex())


def _part(name: str) -> Any:
    """A module of the package, which only this needs."""
    try:
        return importlib.import_module(f"sevsnpmeasure.{name}")
    except ImportError as error:
        raise CpcError(
            f"the Python package {PACKAGE} is missing; without it no launch digest is known",
            exit_code=ExitCode.USAGE,
            cause=str(error),
            hint=f"pip install {PACKAGE}, or make venv",
        ) from error
