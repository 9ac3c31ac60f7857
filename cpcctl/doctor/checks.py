# SPDX-License-Identifier: Apache-2.0
"""The checks of `cpcctl doctor`: each looks at one thing and names the fix."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cpcctl.accel import choose, memory
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, reason
from cpcctl.host import find, suite_speed
from cpcctl.host.folders import make_folder
from cpcctl.snp import checks as snp
from cpcctl.snp import hardware, package
from cpcctl.ui.check import Check
from cpcctl.vm import lifecycle
from cpcctl.vm.spec import VmSpec

PACKAGES = ("qemu.qmp", "pyyaml", "rich", "cryptography")
RING_SPACE = 64 << 20
MEMORY = 1 << 30
TUN = Path("/dev/net/tun")
OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Finding(Check):
    """A check of this host.

    detail: what was found, None unless ok
    required: False when something works without it, e.g. the demo
    """

    detail: str | None = None
    required: bool = True

    @property
    def state(self) -> str:
        """One word for people."""
        return OK if self.ok else FAIL if self.required else WARN


def _finding(state: str, detail: str, fix: str | None = None) -> Finding:
    """What one check found; check_one() adds its name and the host."""
    if state == OK:
        return Finding("", "", True, detail=detail)
    return Finding("", "", False, detail, fix, required=state == FAIL)


def _python(_: Settings) -> Finding:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    fix = None if good else "install Python 3.11 or later"
    return _finding(OK if good else FAIL, version if good else f"{version} is too old", fix)


def _packages(_: Settings) -> Finding:
    missing = []
    for name in PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        fix = f"{sys.executable} -m pip install {' '.join(missing)}"
        return _finding(FAIL, "missing: " + ", ".join(missing), fix)
    return _finding(OK, ", ".join(PACKAGES))


def _qemu(settings: Settings) -> Finding:
    binary = find.qemu_binary(settings)
    found = find.probe(binary, find.qemu_data(settings, binary))
    return _finding(OK, f"{found.version}, {binary}")


def _patched(settings: Settings) -> Finding:
    binary = find.qemu_binary(settings)
    missing = find.probe(binary, find.qemu_data(settings, binary)).missing
    if missing:
        return _finding(FAIL, "lacks " + ", ".join(missing), "make qemu")
    return _finding(OK, "has every command for hvCPUs")


def _tcg(_: Settings) -> Finding:
    # TCG gives each vCPU a thread only where the host orders memory as x86.
    machine = platform.machine()
    if machine != "x86_64":
        return _finding(FAIL, f"this host is {machine}", "use an x86-64 host")
    return _finding(OK, "every hvCPU and gvCPU gets a thread of its own")


def _firmware(settings: Settings) -> Finding:
    path = find.firmware_image(settings)
    return _finding(OK, f"{find.firmware_version(path)}, {path}")


def _kvm(settings: Settings) -> Finding:
    # Asked anew: this is how somebody who repaired something has it noticed.
    found = memory.ask(settings, fresh=True)
    return _finding(OK if found.works else WARN, found.reason, "\n".join(found.remedies) or None)


def _accelerator(settings: Settings) -> Finding:
    choice = memory.take(settings, None)
    return _finding(OK, f"{choice.accel} ({_origin(settings, choice)})")


def _origin(settings: Settings, choice: choose.Choice) -> str:
    if choice.why is None:
        return "as the setting accel or --accel says"
    return "since KVM works" if choice.accel == choose.KVM else "since KVM does not work"


def _hvcpu(settings: Settings) -> Finding:
    """A machine with nothing to boot: start, call an hvCPU, end."""
    with tempfile.TemporaryDirectory(prefix="cpc-") as folder:
        place = replace(
            settings, state_dir=Path(folder) / "s", run_dir=Path(folder) / "r",
            kvm_verdict=memory.file(settings),
        )  # fmt: skip
        spec = VmSpec("doctor", 32 << 20, hvcpu_max=1, ring_size=2 << 20)
        spec = replace(spec, max_vcpus=1, max_memory=spec.memory, console="none")
        vm = lifecycle.start(place, spec)
        try:
            with vm.qmp() as qmp, vm.rings() as rings:
                hvcpu = vm.hvcpu(qmp, rings, 0)
                answer = hvcpu.ping()
                speeds = suite_speed.shown(vm.paths.suite_speeds, hvcpu)
        finally:
            vm.kill()
    detail = f"firmware {answer.version} answers in {answer.seconds * 1e6:.0f} us"
    ciphers = ", ".join(f"{name} {_slower(speeds.get(name))}" for name in answer.suites)
    detail += f", with {vm.spec.accel}; sealing and opening: {ciphers}"
    return _finding(OK, detail)


def _slower(found: dict[str, float] | None) -> str:
    return suite_speed.text(min(found.values())) if found else "not measured"


def _ovmf(settings: Settings) -> Finding:
    """Without it, VMs of platform plain work as well as ever."""
    try:
        path = find.ovmf_image(settings)
    except CpcError as error:
        return _finding(WARN, error.message, error.hint)
    why = snp.firmware_problem(path, emulated=True)
    return _finding(WARN, why, "make ovmf") if why else _finding(OK, str(path))


def _snp_emulated(settings: Settings) -> Finding:
    binary = find.qemu_binary(settings)
    able = find.ask(binary, find.qemu_data(settings, binary), snp.qemu)
    if not (able.launches and able.emulates):
        return _finding(WARN, "QEMU does not emulate SEV-SNP", "make qemu")
    try:
        importlib.metadata.version(package.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        why = f"without the Python package {package.PACKAGE} no launch digest is known"
        fix = f"{sys.executable} -m pip install {package.PACKAGE}"
        return _finding(WARN, why, fix)
    return _finding(OK, "TCG emulates SEV-SNP guests, without protecting them")


def _snp_hardware(settings: Settings) -> Finding:
    """The real thing: kernel and processor, and what QEMU and OVMF need for it."""
    found = [(obstacle.why, obstacle.fix) for obstacle in hardware.obstacles()]
    binary = find.qemu_binary(settings)
    if not find.ask(binary, find.qemu_data(settings, binary), snp.qemu).launches:
        found.append((f"QEMU {binary} knows no SEV-SNP guests", "make qemu"))
    try:
        why = snp.firmware_problem(find.ovmf_image(settings), emulated=False)
    except CpcError as error:
        why = error.message
    if why:
        found.append((why, "make ovmf"))
    if found:
        what = "; ".join(why for why, _ in found)
        return _finding(WARN, f"lacks: {what}", "\n".join(dict.fromkeys(fix for _, fix in found)))
    return _finding(OK, "SEV-SNP guests can run with KVM; no test of ours did so yet")


def _run_space(settings: Settings) -> Finding:
    free = shutil.disk_usage(make_folder(settings.run_dir)).free
    detail = f"{free >> 20} MiB free in {settings.run_dir}"
    if free < RING_SPACE:
        return _finding(FAIL, detail, "set CPCCTL_RUN_DIR to a folder with more room")
    return _finding(OK, detail)


def _memory(_: Settings) -> Finding:
    # Guest memory is memfd, which every tmpfs limit but the machine's spares.
    free = lifecycle.available_memory()
    detail = f"{free >> 20} MiB available"
    if free < MEMORY:
        return _finding(WARN, detail, "end something, or use smaller VMs")
    return _finding(OK, detail)


def _state_folder(settings: Settings) -> Finding:
    folder = make_folder(settings.state_dir)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 65536)
            file.flush()
    except OSError as error:
        return _finding(FAIL, f"{folder}: {reason(error)}", f"df -h {folder}")
    return _finding(OK, str(folder))


def _namespaces(_: Settings) -> Finding:
    flags = "-n" if os.geteuid() == 0 else "-rn"
    try:
        done = subprocess.run(
            ["unshare", flags, "true"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _finding(WARN, reason(error), "apt install util-linux")
    if done.returncode != 0:
        fix = "run as root, or sysctl kernel.unprivileged_userns_clone=1"
        return _finding(WARN, done.stderr.strip(), fix)
    return _finding(OK, "two hosts can be played on this machine")


def _tun(_: Settings) -> Finding:
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return _finding(WARN, reason(error), "modprobe tun, or use nics of mode user")
    return _finding(OK, "tap devices can be made")


CHECKS: tuple[tuple[str, Callable[[Settings], Finding]], ...] = (
    ("python", _python),
    ("packages", _packages),
    ("qemu", _qemu),
    ("qemu-patched", _patched),
    ("tcg-threads", _tcg),
    ("firmware", _firmware),
    ("kvm", _kvm),
    ("accelerator", _accelerator),
    ("hvcpu-ping", _hvcpu),
    ("ovmf", _ovmf),
    ("snp-emulated", _snp_emulated),
    ("snp-hardware", _snp_hardware),
    ("ring-space", _run_space),
    ("memory", _memory),
    ("state-folder", _state_folder),
    ("namespaces", _namespaces),
    ("tun", _tun),
)


def check_all(settings: Settings) -> list[Finding]:
    """Every check in order; one that raises has failed, with its words."""
    return [check_one(settings, name) for name, _ in CHECKS]


def check_one(settings: Settings, name: str) -> Finding:
    """The check of that name."""
    try:
        found = dict(CHECKS)[name](settings)
    except CpcError as error:
        words = error.message + (f": {error.cause}" if error.cause else "")
        found = _finding(FAIL, words, error.hint)
    return replace(found, name=name, host=settings.host)
