# SPDX-License-Identifier: Apache-2.0
"""A stock kernel under stock OVMF as a confidential guest of the emulated processor."""

from __future__ import annotations

import hashlib
import mmap
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpcctl.snp.definition import DEFAULT_CPU
from tests.patience import patient
from tests.snp.boot import MEMORY_MIB, Guest, Parts, command, refusal

ACTIVE = {
    "plain": [],
    "sev": ["Memory Encryption Features active: AMD SEV"],
    "sev-es": ["Memory Encryption Features active: AMD SEV SEV-ES"],
    "sev-snp": ["Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP"],
}
Start = Callable[[str], Guest]


def predicted_digest(ovmf: Path) -> str:
    """What sev-snp-measure, which knows nothing of the emulation, says of such a guest."""
    return subprocess.run(
        [
            sys.executable, "-m", "sevsnpmeasure.cli", "--mode", "snp", "--vcpus", "2",
            "--vcpu-type", DEFAULT_CPU, "--vmm-type", "QEMU", "--ovmf", str(ovmf),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=patient(60.0),
    ).stdout.strip()  # fmt: skip


def host_finds(guest: Guest, secret: bytes, image: Path) -> bool:
    """Whether the guest's memory, as the host can save it, has the secret in it."""
    guest.qmp().execute("pmemsave", val=0, size=MEMORY_MIB << 20, filename=str(image))
    try:
        with (
            image.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as memory,
        ):
            assert len(memory) == MEMORY_MIB << 20
            return memory.find(secret) >= 0
    finally:
        image.unlink()


@pytest.mark.parametrize("platform", ACTIVE)
def test_what_the_kernel_and_what_the_host_finds(
    start: Start, parts: Parts, tmp_path: Path, platform: str
) -> None:
    """The kernel what it runs on; the host a secret in a plain guest only. The secret is computed
    in the guest: the console, which the host may read, never had it."""
    nonce = secrets.token_hex(16)
    secret = hashlib.md5(f"{nonce}\n".encode()).hexdigest()
    check = hashlib.md5(f"{secret}  -\n".encode()).hexdigest()
    guest = start(platform)
    assert guest.active_features() == ACTIVE[platform]
    assert "\n2\n" in guest.run("nproc")
    guest.run(f"echo {nonce} | md5sum > /data/secret")
    # That it is in there, without a word of it on the console.
    shown = guest.run("md5sum /data/secret")
    assert check in shown and secret not in shown
    assert host_finds(guest, secret.encode(), tmp_path / "memory") is (platform == "plain")
    if platform == "sev-snp":
        assert guest.query()["launch-digest"] == predicted_digest(parts.ovmf)


@pytest.mark.parametrize(
    ("position", "words"),
    [
        ("cbitpos=12,reduced-phys-bits=1", "cbitpos=12: the emulated processor takes 36 to 51"),
        ("cbitpos=51,reduced-phys-bits=0", "reduced-phys-bits=0: take 1"),
    ],
)
@pytest.mark.parametrize("kind", ["sev-guest", "sev-snp-guest"])
def test_refused_before_the_start(parts: Parts, kind: str, position: str, words: str) -> None:
    assert words in refusal(command(parts, f"{kind},id=sev0,{position}"))
