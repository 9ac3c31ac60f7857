# SPDX-License-Identifier: Apache-2.0
"""The launch digest that an SEV-SNP guest should have.

The processor hashes, in this order, every page of the firmware, every page that
the firmware's metadata asks for, and the first register state of every vCPU. Not
in it: the policy, and a kernel that QEMU hands to the firmware. Where the guest has
hvCPUs, their firmware and what it is told is hashed behind the other firmware, every
vCPU begins there, and the hvCPUs' register states come last.
"""

from __future__ import annotations

from pathlib import Path

from cpcctl import abi
from cpcctl.snp.launch import FirmwareLaunch
from cpcctl.snp.package import part

# Register states have the SEV features with them: SEV-SNP, nothing else.
SEV_FEATURES = 1


def launch_digest(
    firmware: Path, vcpus: int, signature: int, hvcpus: FirmwareLaunch | None
) -> str:
    """96 hex digits.

    firmware:  an image that ovmf.read() has accepted
    signature: family, model and stepping of the vCPUs, as CPUID function 1 has it in EAX
    hvcpus:    what the launch puts into memory for them, if the guest has any
    Raises CpcError (3) when the package sev-snp-measure is missing.
    """
    gctx, guest, ovmf, vmsa = (part(name) for name in ("gctx", "guest", "ovmf", "vmsa"))
    qemu = part("vmm_types").VMMType.QEMU
    image = ovmf.OVMF(str(firmware))
    digest = gctx.GCTX()
    digest.update_normal_pages(image.gpa(), image.data())
    if hvcpus:
        content, zero = hvcpus.content()
        digest.update_normal_pages(abi.SNP_TRUSTED_GPA, content)
        digest.update_zero_pages(abi.SNP_TRUSTED_GPA + len(content), zero)
    guest.snp_update_metadata_pages(digest, image, None, qemu)
    if hvcpus:
        begin = [abi.ENTRY_GVCPU] * vcpus + list(range(hvcpus.hvcpu_max))
        pages = [hvcpus.save_area(rdi) for rdi in begin]
    else:
        mode = part("sev_mode").SevMode.SEV_SNP
        states = vmsa.VMSA(mode, image.sev_es_reset_eip(), signature, SEV_FEATURES, qemu)
        pages = list(states.pages(vcpus))
    for page in pages:
        digest.update_vmsa_page(page)
    return str(digest.ld().hex())
