# SPDX-License-Identifier: Apache-2.0
"""Finds QEMU and the hvCPU firmware, and reads what they say about themselves."""

from __future__ import annotations

import ctypes
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cpcctl import abi
from cpcctl.config.patience import patient
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.host.qmp import Qmp, QmpGone
from cpcctl.ui import interrupts

LIBRARY = Path("/usr/lib/cpc")
# For one that a definition names.
OVMF_FIX = "make ovmf, and leave sev-snp: firmware out"
FIRMWARE_FIX = "make firmware, or set CPCCTL_FIRMWARE"
T = TypeVar("T")
ASK_SECONDS = patient(20.0)
COMMANDS = frozenset(
    {
        "query-cpc",
        "cpc-hvcpu-add",
        "cpc-hvcpu-remove",
        "cpc-wake",
        "cpc-dirty-log",
        "cpc-dirty-sync",
        "cpc-save-device-state",
        "cpc-load-device-state",
    }
)


def _first(what: str, named: Path | None, usual: list[Path], fix: str) -> Path:
    """Raises CpcError (3), as for a part that is there and does not do."""
    if named is not None:
        if not named.is_file():
            raise CpcError(f"no {what} at {named}", exit_code=ExitCode.REFUSED, hint=fix)
        return named
    for path in usual:
        if path.is_file():
            return path
    raise CpcError(
        f"no {what} found",
        exit_code=ExitCode.REFUSED,
        cause="looked at " + ", ".join(str(path) for path in usual),
        hint=fix,
    )


def qemu_binary(settings: Settings) -> Path:
    """The QEMU to use. Raises CpcError (3)."""
    usual = [
        settings.cache_dir / "current" / "qemu" / "bin" / "qemu-system-x86_64",
        LIBRARY / "qemu" / "bin" / "qemu-system-x86_64",
    ]
    return _first("patched QEMU", settings.qemu, usual, "make qemu, or set CPCCTL_QEMU")


def qemu_data(settings: Settings, qemu: Path) -> Path | None:
    """The folder with SeaBIOS for -L; None leaves it to QEMU."""
    if settings.qemu_data is not None:
        return settings.qemu_data
    beside = qemu.parent.parent / "share" / "qemu"
    return beside if beside.is_dir() else None


def firmware_image(settings: Settings) -> Path:
    """The firmware to use. Raises CpcError (3)."""
    usual = [
        settings.cache_dir / "current" / "firmware" / "cpc-firmware.bin",
        LIBRARY / "cpc-firmware.bin",
    ]
    return _first("hvCPU firmware", settings.firmware, usual, FIRMWARE_FIX)


def ovmf_image(settings: Settings, named: str | None = None) -> Path:
    """The UEFI firmware of SEV-SNP guests, code and variables in one file.

    named: what a definition says. Raises CpcError (3).
    """
    usual = [
        settings.cache_dir / "current" / "ovmf" / "OVMF.fd",
        LIBRARY / "OVMF.fd",
        Path("/usr/share/ovmf/OVMF.fd"),
    ]
    fix = OVMF_FIX if named else "make ovmf, or apt install ovmf"
    return _first("OVMF", Path(named) if named else None, usual, fix)


def probe_guest(settings: Settings) -> Path:
    """The guest that finds out whether KVM works. Raises CpcError (3)."""
    name = "kvm-probe.bin"
    usual = [settings.firmware.parent / name] if settings.firmware is not None else []
    usual += [settings.cache_dir / "current" / "firmware" / name, LIBRARY / name]
    return _first("probe guest for KVM", None, usual, "make firmware")


def firmware_version(path: Path) -> str:
    """The version in an image's header. Raises CpcError (3) for no such image."""
    try:
        with path.open("rb") as file:
            data = file.read(ctypes.sizeof(abi.ImageHeader))
    except OSError as error:
        raise CpcError(
            f"the firmware {path} cannot be read",
            exit_code=ExitCode.REFUSED,
            cause=reason(error),
            hint=FIRMWARE_FIX,
        ) from error
    if len(data) < ctypes.sizeof(abi.ImageHeader):
        why = f"it has only {len(data)} bytes"
    else:
        header = abi.ImageHeader.from_buffer_copy(data)
        if header.magic == abi.IMAGE_MAGIC and header.abi == abi.ABI_VERSION:
            return str(header.version.decode("ascii", "replace"))
        why = f"magic {header.magic:#x}, ABI {header.abi}; expected ABI {abi.ABI_VERSION}"
    raise CpcError(
        f"{path} is not a firmware image of this version",
        exit_code=ExitCode.REFUSED,
        cause=why,
        hint=FIRMWARE_FIX,
    )


_probed: dict[tuple[object, ...], Qemu] = {}


@dataclass(frozen=True)
class Qemu:
    """What a QEMU binary says about itself.

    version:  like "10.0.13"
    machines: alias and name to the versioned name, e.g. q35 to pc-q35-10.0
    commands: of QMP
    """

    version: str
    machines: dict[str, str]
    commands: frozenset[str]

    @property
    def missing(self) -> tuple[str, ...]:
        """QMP commands of ours that it does not have."""
        return tuple(sorted(COMMANDS - self.commands))


def probe(binary: Path, data: Path | None, timeout: float = ASK_SECONDS) -> Qemu:
    """What a binary says about itself, once for each file that has been there under its name.

    Raises CpcError (4) when it does not start.
    """
    try:
        seen = binary.stat()
    except OSError:
        return ask(binary, data, _ask, timeout)  # which says what is wrong with it
    key = (binary, data, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)
    if key not in _probed:
        _probed[key] = ask(binary, data, _ask, timeout)
    return _probed[key]


def ask(
    binary: Path,
    data: Path | None,
    question: Callable[[Qmp], T],
    timeout: float = ASK_SECONDS,
    accel: str = "tcg",
) -> T:
    """Start a QEMU without a machine, ask it over QMP, end it.

    accel: what it says of CPUs depends on it.
    Raises CpcError (4) with its stderr when it does not start.
    """
    ours, theirs = socket.socketpair()
    argv = [str(binary), "-machine", "none", "-nodefaults", "-display", "none", "-S"]
    argv += ["-accel", accel]
    argv += ["-no-user-config", *(("-L", str(data)) if data else ())]
    argv += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
    child: subprocess.Popen[bytes] | None = None
    with tempfile.TemporaryFile() as log, ours:
        try:
            try:
                with interrupts.whole(), theirs:
                    child = subprocess.Popen(
                        argv,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=(theirs.fileno(),),
                    )
            except OSError as error:
                raise _does_not_run(binary, reason(error)) from error
            with Qmp.over(ours, timeout, label=binary.name) as qmp:
                found = question(qmp)
                qmp.execute("quit")
            return found
        except QmpGone as error:
            log.seek(0)
            words = log.read(4096).decode("utf-8", "replace").strip()
            raise _does_not_run(binary, words or _silent(child, error)) from error
        finally:
            if child is not None:
                child.kill()
                child.wait()


def _silent(child: subprocess.Popen[bytes] | None, error: CpcError) -> str:
    """What to say of a program that said nothing itself."""
    assert child is not None
    try:
        code = child.wait(1.0)
    except subprocess.TimeoutExpired:
        return error.cause or error.message
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return f"it {how} without a QMP greeting: it is not QEMU"


def _does_not_run(binary: Path, cause: str) -> CpcError:
    return CpcError(
        f"{binary} does not run as QEMU",
        exit_code=ExitCode.UNREACHABLE,
        cause=cause,
        hint="make qemu, or set CPCCTL_QEMU",
    )


def _ask(qmp: Qmp) -> Qemu:
    version = qmp.execute("query-version")["qemu"]
    commands = frozenset(entry["name"] for entry in qmp.execute("query-commands"))
    machines: dict[str, str] = {}
    for entry in qmp.execute("query-machines"):
        machines[entry["name"]] = entry["name"]
        if "alias" in entry:
            machines[entry["alias"]] = entry["name"]
    return Qemu(
        f"{version['major']}.{version['minor']}.{version['micro']}",
        machines,
        commands,
    )
