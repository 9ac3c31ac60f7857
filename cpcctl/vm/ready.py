# SPDX-License-Identifier: Apache-2.0
"""What a host must have before QEMU is started for a VM: files and taps."""

from __future__ import annotations

import socket
from pathlib import Path

from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.host import find
from cpcctl.host.files import other_kind
from cpcctl.vm.spec import VmSpec

KERNEL_FIX = (
    "ls /boot/vmlinuz-*, and name one of these as kernel; "
    "apt install linux-image-cloud-amd64 where there is none"
)


def check(host: str, spec: VmSpec) -> None:
    """Raises CpcError (3) for the first thing that is not there."""
    for path in [*spec.named_files, *(disk.path for disk in spec.disks)]:
        try:
            kind = other_kind(Path(path))
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            words = "is not there" if missing else "cannot be looked at"
            raise CpcError(
                f"VM {spec.name} needs {path}, which {words}",
                exit_code=ExitCode.REFUSED,
                host=host,
                cause=None if missing else reason(error),
                hint=fix(spec, path, error),
            ) from error
        if kind:
            # QEMU refuses some of them, and would wait for ever for others.
            raise CpcError(
                f"VM {spec.name} needs a file {path}, which is {kind}",
                exit_code=ExitCode.REFUSED,
                host=host,
                hint=f"ls -l {path}; name a plain file in its place",
            )
    for nic in spec.nics:
        if nic.tap is not None:
            _check_tap(host, spec.name, nic.tap)


def fix(spec: VmSpec, path: str, error: OSError) -> str:
    """What to type for a file of a definition that is not there, or cannot be read."""
    if isinstance(error, FileNotFoundError):
        if path == spec.kernel:
            return KERNEL_FIX
        if path == spec.snp.firmware:
            return find.OVMF_FIX
    return f"ls -l {path}"


def _check_tap(host: str, name: str, tap: str) -> None:
    # QEMU would silently make one that nothing is connected to. Asked of the
    # kernel, not of /sys, which may show another network namespace.
    try:
        socket.if_nametoindex(tap)
    except OSError:
        raise CpcError(
            f"VM {name} needs the network device {tap}, which is not there",
            exit_code=ExitCode.REFUSED,
            host=host,
            cause="QEMU would make one without any network behind it",
            hint=f"ip tuntap add dev {tap} mode tap && ip link set {tap} master BRIDGE up",
        ) from None
