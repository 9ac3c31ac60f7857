# SPDX-License-Identifier: Apache-2.0
"""The kernel's own self-tests: what passes in a plain guest passes in an SEV-SNP guest.

The plain guest is emulated too: what TCG itself cannot do fails in both, and is not compared.
Which self-tests, and why not the others: selftests_image.py.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cpcctl.demo.image import ImageError
from cpcctl.setup.debian import AptError
from cpcctl.setup.kernels import SUITES, Kernel
from tests.patience import patient
from tests.snp import selftests_image
from tests.snp.boot import OBJECTS, Guest, Parts, command

Boot = Callable[..., Guest]
Launch = Callable[[list[str]], Guest]
LIMIT_SECONDS = patient(60.0)
PASS, SKIP = 0, 4  # kselftest.h; others are failures
VERDICTS = r"^ *(not )?ok |\[(OK|PASS|FAIL|SKIP|ERROR)\]"
BAD = {"not ok", "[FAIL]", "[ERROR]"}
# As many have to pass in the plain guest, or too little would be compared.
ENOUGH = 65
# Some do `int $0x80`. From 6.7 an SEV guest refuses it unless told: sme_early_init(),
# arch/x86/mm/mem_encrypt_amd.c ("the VMM is capable of injecting interrupt 0x80").
APPEND = "ia32_emulation=on"
# What passes in a plain guest and must fail in an SEV-SNP guest, on silicon as well.
DIFFERENT = {
    # After iopl(3) a process has no bitmap of its own, and Linux asks nothing else when OUT
    # raises #VC in user mode: vc_ioio_check(), arch/x86/kernel/sev.c, 6.12: coco/sev/core.c.
    "x86/iopl": "Linux allows user space only ports of ioperm() in #VC",
    # The guest only notes what it wants in DR7: vc_handle_dr7_write() in the same file. KVM
    # leaves DR7 as it is: dr_interception(), arch/x86/kvm/svm/svm.c of 6.12.
    "breakpoints/breakpoint_test": "no hardware breakpoints without DebugSwap",
}


@dataclass(frozen=True)
class Outcome:
    """How a self-test ended: its exit status, and how often it said each verdict."""

    status: int
    verdicts: Counter[str]

    @property
    def result(self) -> str:
        """Of the whole. Some say that a part failed and nevertheless end well."""
        if self.status not in (PASS, SKIP) or BAD & set(self.verdicts):
            return "FAIL"
        return "SKIP" if self.status == SKIP else "PASS"

    def __str__(self) -> str:
        said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items()))
        return f"{self.result} (status {self.status}: {said})"


def outcome(guest: Guest, name: str) -> Outcome:
    """Run one self-test in its folder. Its words stay there, but for the verdicts."""
    folder, _, program = name.rpartition("/")
    said = guest.run(
        f"(cd /selftests/{folder}; "
        f"timeout -s KILL {LIMIT_SECONDS:g} ./{program} < /dev/null > /tmp/o 2>&1; "
        f"echo status $?; grep -aE '{VERDICTS}' /tmp/o)",
        LIMIT_SECONDS + 60.0,
    )
    status = re.search(r"^status (\d+)$", said, re.M)
    assert status, said
    lines = said[status.end() :].splitlines()
    found = [match[0] for line in lines if (match := re.search(VERDICTS, line))]
    return Outcome(int(status[1]), Counter(word.strip() for word in found))


def crypto(guest: Guest) -> dict[str, str]:
    """Every algorithm that the kernel has, and what it says of its self-test."""
    said = guest.run("grep -E '^(driver|selftest) ' /proc/crypto")
    return dict(re.findall(r"^driver +: (\S+)\nselftest +: (\w+)$", said, re.M))


def check_crypto(of: dict[str, dict[str, str]]) -> None:
    """Every algorithm passed its test, and both guests have the same ones."""
    assert of["plain"], "no algorithms"
    assert of["sev-snp"] == of["plain"]
    assert set(of["plain"].values()) == {"passed"}, of["plain"]


def check_memory(guest: Guest) -> None:
    """No device was sent to private memory."""
    seen = guest.query()
    assert (seen["reads-scrambled"], seen["writes-denied"]) == (0, 0)


def test_the_kernel_passes_its_crypto_self_tests(boot: Boot) -> None:
    of = {}
    for platform in ("plain", "sev-snp"):
        guest = boot("6.1", platform)
        of[platform] = crypto(guest)
        guest.end()
    check_crypto(of)


@pytest.fixture
def archive(kernel: str) -> Path:
    """That kernel's self-tests. Built the first time."""
    try:
        return selftests_image.provide(kernel)
    except (AptError, ImageError, subprocess.SubprocessError) as error:
        pytest.fail(f"the self-tests cannot be built: {error}", pytrace=False)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kernel", SUITES)
def test_the_kernel_passes_its_own_self_tests(
    parts: Parts,
    launch: Launch,
    kernels: dict[str, Kernel],
    kernel: str,
    archive: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    initrd = tmp_path / "initrd"
    # The kernel unpacks archives one after the other.
    initrd.write_bytes(kernels[kernel].initrd.read_bytes() + archive.read_bytes())
    mine = replace(parts, vmlinuz=kernels[kernel].vmlinuz, initrd=initrd)
    of: dict[str, dict[str, Outcome]] = {}
    ciphers = {}
    for platform in ("plain", "sev-snp"):
        guest = launch(command(mine, OBJECTS[platform], memory_mib=1024, append=APPEND))
        guest.ready()
        guest.run("dmesg -n 1")  # nothing of the kernel's between the verdicts
        ciphers[platform] = crypto(guest)
        of[platform] = {name: outcome(guest, name) for name in selftests_image.names(kernel)}
        if platform == "sev-snp":
            check_memory(guest)
        guest.end()
    with capsys.disabled():
        print(f"\nself-tests of {kernel}:")
        for name, plain in of["plain"].items():
            print(f"  {name}: {plain}; SEV-SNP: {of['sev-snp'][name]}")
    check_crypto(ciphers)
    good = {name: plain for name, plain in of["plain"].items() if plain.result != "FAIL"}
    passed = [name for name, plain in good.items() if plain.result == "PASS"]
    assert len(passed) >= ENOUGH, f"only {len(passed)} pass in a plain guest"
    differ = [name for name, plain in good.items() if of["sev-snp"][name] != plain]
    assert sorted(differ) == sorted(DIFFERENT)
