# SPDX-License-Identifier: Apache-2.0
"""platform: sev-snp through cpcctl, in the emulation: a life, a death, and refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cpcctl import abi
from cpcctl.config.settings import Settings
from cpcctl.host import find
from cpcctl.host.firmware import HvcpuDead
from cpcctl.setup import store
from cpcctl.snp import ovmf
from cpcctl.vm import lifecycle, ready
from tests import printed as printed_command
from tests.one_host import Cli
from tests.onevm import images
from tests.onevm.faulty import OUTSIDE, REQUEST
from tests.patience import patient
from tests.snp import dying_kernel
from tests.snp.boot import BOOT_SECONDS
from tests.snp.conftest import Define
from tests.snp.steps import BAD_EVENT, BAD_SCRATCH, BUFFER, FAILED, MMIO_WRITE, PSC_REQUEST

FEATURES = 0x8000FFFD
TOP = Path(__file__).resolve().parents[2]
ACTIVE = "Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP"
EMULATED = "sev-snp, emulated: no protection from this host's root"


def wait_for_words(log: Path, words: str, seconds: float = BOOT_SECONDS) -> str:
    """Until a console's log has them; the log. Fails with its end."""
    deadline = time.monotonic() + patient(seconds)
    while words not in (text := log.read_text(errors="replace") if log.exists() else ""):
        assert time.monotonic() < deadline, f"no {words!r}: {text[-2000:]}"
        time.sleep(0.05)
    return text


def test_another_hvcpu_for_a_dead_one(
    place: Settings, define: Define, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead one cannot be started again; one that never ran takes its place."""
    monkeypatch.setenv("CPCCTL_FIRMWARE", str(images.faults() / "cpc-firmware.bin"))
    code, _, err = cli("vm", "start", str(define(hvcpu_max=2)))
    assert code == 0, err
    vm = lifecycle.attach(place, "a")
    with vm.qmp() as qmp, vm.rings() as rings, pytest.raises(HvcpuDead):
        vm.hvcpu(qmp, rings, 0).call(OUTSIDE, (1,), timeout=patient(20))
    assert "cpcctl hvcpu remove a 0, then cpcctl hvcpu add a" in cli("hvcpu", "ping", "a")[2]
    assert cli("hvcpu", "remove", "a", "0")[0] == 0
    code, out, err = cli("hvcpu", "add", "a")
    assert out == "added hvCPU 1\n", err
    code, out, err = cli("hvcpu", "ping", "a", "--format", "json")
    assert (code, [entry["hvcpu"] for entry in json.loads(out)]) == (0, [1]), err
    code, _, err = cli("hvcpu", "add", "a")
    assert code != 0 and "in use or dead" in err
    assert lifecycle.status(place, "a")["state"] == "running"


def test_an_hvcpu_asks_with_its_own_ghcb_only(
    place: Settings, define: Define, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither another request than those it is for, nor with what lies elsewhere."""
    monkeypatch.setenv("CPCCTL_FIRMWARE", str(images.faults() / "cpc-firmware.bin"))
    code, _, err = cli("vm", "start", str(define(hvcpu_max=2)))
    assert code == 0, err
    vm = lifecycle.attach(place, "a")
    # The second hvCPU's GHCB: shared, and no other vCPU's business.
    elsewhere = abi.SNP_SHM_GPA + abi.SHM_GHCB + 4096 + BUFFER
    with vm.qmp() as qmp, vm.rings() as rings:
        hvcpu = vm.hvcpu(qmp, rings, 0)
        for request, answer in (
            ((PSC_REQUEST, 0, 0, BUFFER), (0, 1 << 32 | 2)),  # taken: its entry asks for nothing
            ((PSC_REQUEST, 0, 0, elsewhere), (FAILED, BAD_SCRATCH)),
            ((MMIO_WRITE, abi.SNP_MMIO_GPA, 8, elsewhere), (FAILED, BAD_SCRATCH)),
            ((MMIO_WRITE, 0xFEE00000, 8, BUFFER), (FAILED, BAD_EVENT)),
            ((FEATURES, 0, 0, BUFFER), (FAILED, BAD_EVENT)),
        ):
            assert tuple(hvcpu.call(REQUEST, request).result[:2]) == answer, request
        assert hvcpu.ping().hvcpu == 0


def test_a_life(place: Settings, define: Define, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(b"cpc-disk\n".ljust(1 << 20, b"\0"))
    path = str(define(
        vcpus=3, cpu="EPYC-Rome", nics=[{"mode": "user"}], devices=["virtio-rng-pci"],
        disks=[{"path": str(tmp_path / "d.raw"), "format": "raw", "cache": "writeback"}],
        **{"sev-snp": {"host_data": "5a" * 32}},
    ))
    code, out, _ = cli("vm", "start", path, "--print-command", "--format", "json")
    assert code == 0
    printed = json.loads(out)
    assert printed["platform"] == "sev-snp-emulated"
    assert cli("vm", "list", "--format", "json")[1].strip() == "[]"

    code, out, err = cli("vm", "start", path)
    assert code == 0, err
    assert EMULATED in err
    assert "1 of 4 hvCPUs" in out
    code, out, err = cli("vm", "status", "a", "--format", "json")
    assert (code, err.startswith(EMULATED)) == (0, True)
    shown = json.loads(out)
    assert (shown["state"], shown["platform"], shown["gvcpus"]) == ("running", "sev-snp", 3)
    assert shown["emulated"] is True
    # What the emulated processor took, against what was expected before it started.
    assert shown["launch_digest"] == printed["launch_digest"]
    vm = lifecycle.attach(place, "a")
    printed_command.check(vm.argv, printed["argv"])

    log = vm.paths.console_log
    assert ACTIVE in wait_for_words(log, "CPC-READY")
    console = subprocess.Popen(
        [sys.executable, "-m", "cpcctl", "vm", "console", "a"], stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=TOP,
    )
    assert console.stdin
    console.stdin.write(b"head -c 8 /dev/vda; echo; ls /sys/class/net /dev/hwrng; echo E''ND\n")
    console.stdin.flush()
    said = wait_for_words(log, "\nEND")
    assert "\ncpc-disk" in said.replace("\r", "")
    assert "eth0" in said and "\n/dev/hwrng" in said.replace("\r", "")
    console.stdin.write(b"\x1d")
    console.stdin.close()
    assert console.wait(patient(20)) == 0

    for verb in ("ping", "add", "ping"):
        code, out, err = cli("hvcpu", verb, "a", "--format", "json")
        assert code == 0, err
    assert [entry["platform"] for entry in json.loads(out)] == ["sev-snp", "sev-snp"]
    assert cli("vm", "status", "a")[0] == 0
    assert cli("vm", "stop", "a", "--force")[1] == "stopped a\n"
    assert not vm.alive
    assert cli("vm", "list", "--format", "json")[1].strip() == "[]"


def test_a_guest_that_ends_itself(
    place: Settings, define: Define, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "vmlinuz").write_bytes(dying_kernel.image(1, 3))
    path = define(kernel=str(tmp_path / "vmlinuz"), initrd=None, append=None, vcpus=1)
    code, _, err = cli("vm", "start", str(path))
    assert code == 0, err
    vm = lifecycle.attach(place, "a")
    assert vm.process.wait_gone(patient(60)), wait_for_words(vm.paths.console_log, "")
    code, out, _ = cli("vm", "status", "a", "--format", "json")
    shown = json.loads(out)
    assert (code, shown["state"]) == (0, "stopped")
    assert shown["ended"] == (
        "the guest ended itself: the kernel does not run at VMPL0 (Linux, reason set 1, code 3)"
    )
    assert shown["ended"] in cli("vm", "status", "a")[1]


def old_firmware(path: Path) -> Path:
    """The OVMF at hand as one of before 2024.05 would describe itself."""
    data = (store.current("ovmf") / "OVMF.fd").read_bytes()
    area = next(s for s in ovmf.read(data).sections if s.kind == ovmf.SVSM_AREA)
    words = ovmf.SECTION.pack(area.address, area.size, area.kind)
    assert data.count(words) == 1
    path.write_bytes(data.replace(words, ovmf.SECTION.pack(area.address, area.size, 1)))
    return path


def old_kernel(vmlinuz: Path, path: Path) -> Path:
    """The kernel at hand, said to be Linux 5.10."""
    data = vmlinuz.read_bytes()
    at = 0x200 + int.from_bytes(data[0x20E:0x210], "little")
    path.write_bytes(data[:at] + b"5.10.0\0" + data[at + 7 :])
    return path


def test_what_is_refused_before_the_start(
    define: Define, cli: Cli, built: Any, place: Settings, tmp_path: Path
) -> None:
    bios = str(built.qemu_data / "bios-256k.bin")
    old = str(old_firmware(tmp_path / "old.fd"))
    early = str(old_kernel(built.vmlinuz, tmp_path / "vmlinuz"))
    for changes, words, fix in (
        ({"sev-snp": {"firmware": bios}}, f"the firmware {bios} cannot be used: it is SeaBIOS",
         "make ovmf"),
        ({"sev-snp": {"firmware": old}}, f"{old} is older than 2024.05", "make ovmf"),
        ({"kernel": early}, "Linux 5.10.0 is older than 5.19", "such as Debian's"),
        ({"kernel": bios}, "is not a Linux kernel", "such as Debian's"),
        ({"cpu": "qemu64"}, "cpu qemu64 lacks xsave, xsavec, rdrand", "use cpu: EPYC-Milan"),
        ({"cpu": "EPYC,xsavec=off"}, "lacks xsavec", "or EPYC,+xsavec"),
        ({"cpu": "EPYC,-aes"}, "lacks aes, which its hvCPUs need", "or EPYC,+aes"),
        ({"cpu": "EPYC,+la57,la57=off"}, "has LA57", "use cpu: EPYC,la57=off"),
        ({"cpu": "EPYC-Genoa"}, "has LA57", "use cpu: EPYC-Genoa,la57=off"),
        ({"cpu": "Skylake-Server"}, "is of GenuineIntel", "use cpu: EPYC-Milan"),
        ({"cpu": "nonsense"}, "no CPU nonsense", " -cpu help; use cpu: EPYC-Milan or"),
        ({"sev-snp": {"policy": 0x20000}}, "policy 0x20000 forbids SMT", "use policy: 0x30000"),
    ):
        path = str(define(**changes))
        for more in ([], ["--print-command"]):
            code, out, err = cli("vm", "start", path, *more)
            assert (code, out) == (3, ""), (changes, err)
            assert words in err and fix in err, (changes, err)
    missing = str(tmp_path / "none")
    for changes, fix in (
        ({"sev-snp": {"firmware": missing}}, find.OVMF_FIX),
        ({"kernel": missing}, ready.KERNEL_FIX),
    ):
        for more in ([], ["--print-command"]):
            code, out, err = cli("vm", "start", str(define(**changes)), *more)
            assert (code, out) == (3, ""), err
            assert missing in err and fix in err, err
    assert cli("vm", "list", "--format", "json")[1].strip() == "[]"
    assert not (place.run_dir / "vms" / "a").exists()


def test_what_a_host_with_the_hardware_would_run(define: Define, cli: Cli) -> None:
    """On a host without it; one that has it may start it, and is not asked to here."""
    path = str(define())
    code, out, _ = cli("vm", "start", path, "--print-command", "--accel", "kvm")
    assert code == 0
    command, _, comment = out.partition("\n")
    assert " -accel kvm " in command
    emulated, _, digest = cli("vm", "start", path, "--print-command")[1].partition("\n")
    # hvCPUs in a guest of the real processor are to come; the rest is the same.
    hvcpus = r",hvcpu-max=\d+| -object \S+id=cpc-shm\S+| -chardev pipe,\S+| -device cpc,\S+"
    without = re.sub(hvcpus, "", emulated)
    assert without != emulated
    assert command.replace("-accel kvm", "-accel tcg,thread=multi") == without
    assert comment.startswith("# sev-snp; launch digest ")
    assert comment.split()[-1] != digest.split()[-1]
    # A shell takes it as it is printed.
    assert subprocess.run(["sh", "-n"], input=out, text=True, check=False).returncode == 0


def test_a_reset_ends_it(place: Settings, define: Define, cli: Cli) -> None:
    """As on silicon: nobody can put the registers back, and no hvCPU makes that otherwise."""
    assert cli("vm", "start", str(define()))[0] == 0
    vm = lifecycle.attach(place, "a")
    with vm.qmp() as qmp:
        qmp.execute("system_reset")
    deadline = time.monotonic() + patient(20)
    while json.loads(cli("vm", "status", "a", "--format", "json")[1])["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
