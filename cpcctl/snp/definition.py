# SPDX-License-Identifier: Apache-2.0
"""What a VM definition says of SEV-SNP, and what such a VM cannot be. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from cpcctl.vm import values
from cpcctl.vm.values import Reader, refused

if TYPE_CHECKING:
    from cpcctl.vm.spec import VmSpec

PLATFORM = "sev-snp"
# The first processor that has SEV-SNP: verifiers of reports refuse an older family and model.
DEFAULT_CPU = "EPYC-Milan"
DEFAULT_POLICY = 0x30000
POLICY_SMT, POLICY_ONE, POLICY_DEBUG = 1 << 16, 1 << 17, 1 << 19
POLICY_KNOWN = (1 << 26) - 1
ID_BLOCK_SIZE, ID_AUTH_SIZE, HOST_DATA_SIZE = 96, 4096, 32
# In the ID block.
BLOCK_DIGEST, BLOCK_POLICY = slice(0, 48), slice(88, 96)
# In the ID authentication structure: the algorithm of the author's key, 0 for none.
AUTHOR_ALGORITHM = slice(4, 8)
# A processor numbers its vCPUs with 8 bits unless interrupts are remapped.
VCPUS_MAX = 255
# Below this OVMF finds no room to unpack itself and load a kernel.
MEMORY_MIN = 256 << 20
# Device types whose other half is outside QEMU.
OUTSIDE = ("vhost-user-", "vhost-vdpa-", "vfio-", "ivshmem-")
ON = ("on", "yes", "true", "y")


@dataclass(frozen=True)
class Snp:
    """What the owner of a guest wants of the processor.

    policy:    the 64-bit guest policy
    id_block, id_auth: base64; the processor launches only what they allow
    host_data: 64 hex digits that reports contain
    firmware:  path of the OVMF image; None: the one that make ovmf fetched, or Debian's
    """

    policy: int = DEFAULT_POLICY
    id_block: str | None = None
    id_auth: str | None = None
    host_data: str | None = None
    firmware: str | None = None

    @property
    def author_key(self) -> bool:
        """True when the ID authentication structure holds an author's key."""
        return self.id_auth is not None and any(base64.b64decode(self.id_auth)[AUTHOR_ALGORITHM])

    @property
    def signed_digest(self) -> str | None:
        """The only launch digest that the ID block allows, in hex."""
        return None if self.id_block is None else self._block(BLOCK_DIGEST).hex()

    @property
    def signed_policy(self) -> int | None:
        """The only policy that the ID block allows."""
        if self.id_block is None:
            return None
        return int.from_bytes(self._block(BLOCK_POLICY), "little")

    def _block(self, part: slice) -> bytes:
        return base64.b64decode(self.id_block or "")[part]

    @property
    def debug(self) -> bool:
        """True when the policy lets the host read the guest."""
        return bool(self.policy & POLICY_DEBUG)

    def document(self) -> dict[str, Any]:
        """Plain values that read() turns into an equal Snp."""
        return {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if getattr(self, entry.name) != entry.default
        }


def _policy(where: str, value: Any) -> int:
    found: int = values.integer(0, (1 << 64) - 1)(where, value)
    if not found & POLICY_ONE:
        raise refused(where, f"{found:#x} lacks bit 17, which is 1 in all, as {DEFAULT_POLICY:#x}")
    if found & ~POLICY_KNOWN:
        raise refused(where, f"{found:#x} has bits above 25, which must be 0")
    return found


def _base64(size: int) -> Callable[[str, Any], str]:
    """A reader of so many bytes as base64."""

    def read(where: str, value: Any) -> str:
        try:
            found = base64.b64decode(value, validate=True) if isinstance(value, str) else None
        except ValueError:
            found = None
        if found is None or not isinstance(value, str):
            raise refused(where, "is not base64")
        if len(found) != size:
            raise refused(where, f"has {len(found)} bytes, not {size}")
        return str(value)

    return read


def _host_data(where: str, value: Any) -> str:
    digits = 2 * HOST_DATA_SIZE
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value):
        raise refused(where, f"is not a string of {digits} hex digits")
    return value.lower()


DEFAULTS = Snp()
KEYS: dict[str, Reader] = {
    "policy": _policy,
    "id_block": _base64(ID_BLOCK_SIZE),
    "id_auth": _base64(ID_AUTH_SIZE),
    "host_data": _host_data,
    "firmware": values.path,
}


def read(where: str, value: Any) -> Snp:
    """The key sev-snp of a definition. Raises CpcError (2)."""
    found = Snp(**values.keys(where, value, KEYS, set()))
    if (found.id_block is None) != (found.id_auth is None):
        raise refused(where, "id_block and id_auth need each other")
    if found.signed_policy not in (None, found.policy):
        raise refused(
            where, f"id_block was signed for policy {found.signed_policy:#x}, not {found.policy:#x}"
        )
    return found


def rules(spec: VmSpec) -> Iterable[tuple[bool, str]]:
    """Whether a rule is broken, and why, for a VM that is to be such a guest."""
    model = spec.cpu.split(",")[0]
    bad = {device: why for device in spec.devices if (why := device_problem(device))}
    return (
        (not re.fullmatch(r"q35|pc-q35-.*", spec.machine), "platform sev-snp needs machine q35"),
        (model in ("max", "host"),
         f"cpu {model} is another one on each host, so no measurement could be expected; "
         f"write cpu: {DEFAULT_CPU} or another named model of AMD"),
        (spec.uefi_code is not None,
         "platform sev-snp takes its firmware from sev-snp: firmware, not from uefi_code"),
        (spec.memory < MEMORY_MIN, f"platform sev-snp needs memory of {MEMORY_MIN >> 20}M or more"),
        (spec.max_memory != spec.memory or spec.memory_blocks != 1,
         "memory of platform sev-snp is one block that cannot grow: "
         "leave max_memory and memory_blocks out"),
        (spec.max_vcpus != spec.vcpus,
         "vCPUs of platform sev-snp are measured at the launch, so none can be added: "
         "leave max_vcpus out"),
        (spec.vcpus > VCPUS_MAX,
         f"{spec.vcpus} vcpus are too many for platform sev-snp: {VCPUS_MAX} at most"),
        (bool(bad), "; ".join(f"device {device}: {why}" for device, why in bad.items())),
    )


def _setting(word: str) -> tuple[str, str]:
    """As QEMU reads one: KEY=VALUE, or KEY for on and noKEY for off."""
    key, equals, value = word.partition("=")
    if equals:
        return key, value
    return (key[2:], "off") if key.startswith("no") else (key, "on")


def device_problem(device: str) -> str:
    """"" for a -device value that such a guest can use, else why not and what to do."""
    if device.startswith("{"):
        return "JSON is not looked into; write it as DRIVER,KEY=VALUE"
    driver, *words = device.split(",")
    settings = dict(_setting(word) for word in words)
    if driver.startswith(OUTSIDE):
        return "what is outside QEMU has no way to the memory that the guest shares; remove it"
    if not driver.startswith("virtio-"):
        return ""
    old = driver.endswith("-transitional") and not driver.endswith("-non-transitional")
    legacy = settings.get("disable-legacy", "on") not in ON
    if old or legacy or settings.get("disable-modern", "off") in ON:
        return "virtio before version 1 knows no iommu_platform; leave these settings out"
    if settings.get("iommu_platform", "on") not in ON:
        return "without iommu_platform it looks for its rings in private memory; leave it out"
    return ""
