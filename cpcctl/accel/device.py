# SPDX-License-Identifier: Apache-2.0
"""A first look at /dev/kvm: is it there, and may this user open it?"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path

from cpcctl.accel.verdict import ABSENT, DENIED, UNUSABLE, Verdict
from cpcctl.errors import reason

DEVICE = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")


def look() -> Verdict | None:
    """What is in the way of even trying; None when nothing is."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
        return None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            return Verdict(DENIED, f"{DEVICE} may not be opened by this user", _permit())
        if error.errno == errno.ENOENT:
            return Verdict(ABSENT, f"there is no {DEVICE}", missing(_cpu_flags()))
        return Verdict(
            UNUSABLE, f"{DEVICE} cannot be opened: {reason(error)}", "dmesg | grep -i kvm"
        )


def identity() -> list[int]:
    """Numbers that change when it becomes another device or gets other rights."""
    try:
        found = os.stat(DEVICE)
    except OSError:
        return []
    return [found.st_dev, found.st_ino, found.st_rdev, found.st_mode, found.st_uid, found.st_gid]


def missing(flags: set[str]) -> str:
    """What to do when there is no device, from the CPU's flags."""
    for flag, module in (("svm", "kvm_amd"), ("vmx", "kvm_intel")):
        if flag in flags:
            return f"modprobe {module}; if that fails, turn virtualization on in the BIOS"
    return (
        "turn virtualization (SVM or VT-x) on in the BIOS; in a VM, nested virtualization "
        "on its host"
    )


def permit(name: str, user: str, group: str | None) -> str:
    """What lets a user open the device. group: one that may; None: there is none."""
    open_it = f"chgrp kvm {name} && chmod 660 {name} && " if group is None else ""
    return f"{open_it}usermod -aG {group or 'kvm'} {user}, as root; then log in again"


def _permit() -> str:
    try:
        found = os.stat(DEVICE)
        open_to_group = stat.S_IMODE(found.st_mode) & 0o060 == 0o060 and found.st_gid != 0
        group = grp.getgrgid(found.st_gid).gr_name if open_to_group else None
        user = pwd.getpwuid(os.geteuid()).pw_name
    except (OSError, KeyError):
        return f"ls -l {DEVICE}"
    return permit(str(DEVICE), user, group)


def _cpu_flags() -> set[str]:
    try:
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass
    return set()
