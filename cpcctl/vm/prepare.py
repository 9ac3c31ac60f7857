# SPDX-License-Identifier: Apache-2.0
"""Before a start: what a definition leaves open is decided on this host."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cpcctl.accel import memory as accelerators
from cpcctl.accel.choose import Choice
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host import atomic, find
from cpcctl.host.state import Folders
from cpcctl.qemu.descriptors import Descriptors
from cpcctl.qemu.sockets import listening
from cpcctl.snp import definition as snp
from cpcctl.snp import hardware
from cpcctl.vm import command as commands
from cpcctl.vm.files import Files
from cpcctl.vm.spec import VmSpec

Note = Callable[[str], None]
# Of each log; the guest decides how much is written. The later half is left of a larger one.
LOG_SIZE = "4M"


def resolve(
    settings: Settings,
    spec: VmSpec,
    accel: str | None = None,
    note: Note | None = None,
    *,
    elsewhere: bool = False,
) -> VmSpec:
    """The definition with a versioned machine type and an accelerator.

    accel: what a flag says. note: is told which one auto became, and why.
    elsewhere: kvm that is asked for is taken for an SEV-SNP guest even where it does
    not work: the answer is for another host.
    Raises CpcError (3) for a firmware or a QEMU that is not there or not ours, an
    unknown machine type, and kvm where it does not work.
    """
    find.firmware_version(find.firmware_image(settings))
    binary = find.qemu_binary(settings)
    qemu = find.probe(binary, find.qemu_data(settings, binary))
    if qemu.missing:
        raise CpcError(
            f"QEMU {binary} has no hvCPUs: it is not the patched one",
            exit_code=ExitCode.REFUSED,
            cause="it lacks " + ", ".join(qemu.missing),
            hint="make qemu, or set CPCCTL_QEMU",
        )
    if spec.machine not in qemu.machines:
        raise CpcError(
            f"QEMU {binary} (version {qemu.version}) has no machine {spec.machine}",
            exit_code=ExitCode.REFUSED,
            hint=f"{binary} -machine help",
        )
    choice = _accelerator(settings, spec, accel, elsewhere)
    if choice.why is not None and note is not None:
        note(choice.why)
    return replace(spec, machine=qemu.machines[spec.machine], accel=choice.accel)


def _accelerator(
    settings: Settings, spec: VmSpec, flag: str | None, elsewhere: bool
) -> Choice:
    if spec.platform == snp.PLATFORM:
        return hardware.take(settings, flag, spec.accel, elsewhere=elsewhere)
    return accelerators.take(settings, flag, spec.accel)


def command_line(
    settings: Settings,
    spec: VmSpec,
    files: Files,
    fds: Descriptors | None = None,
    *,
    incoming: bool = False,
) -> list[str]:
    """QEMU's argv for a resolved definition on this host.

    fds: takes what QEMU must inherit; without it the files are named by their paths.
    The VM's folders must exist then. Raises OSError.
    """
    paths = Folders.of(settings).vm(spec.name)
    binary = find.qemu_binary(settings)
    confidential = spec.platform == snp.PLATFORM
    launch = commands.Launch(
        qemu=binary,
        qemu_data=find.qemu_data(settings, binary),
        firmware=find.firmware_image(settings),
        run=paths.run,
        state=paths.state,
        incoming=incoming,
        ovmf=find.ovmf_image(settings, spec.snp.firmware) if confidential else None,
        files=files,
    )
    if fds is None:
        return commands.command(spec, launch)
    launch = replace(
        launch,
        block=lambda file: fds.block(os.dup(file.fd), file.path),
        plain=lambda file: fds.plain(os.dup(file.fd)),
        socket=lambda path: f"fd={fds.inherit(listening(path))}",
    )
    argv = commands.command(spec, launch)
    return [*argv, *fds.argv, *_bounded(fds, paths.log, paths.console_log)]


def _bounded(fds: Descriptors, *logs: Path) -> list[str]:
    """Options that keep QEMU's logs below a size. Raises OSError."""
    argv = []
    for log in logs:
        fd = fds.inherit(atomic.update(log))
        argv += ["-run-with", f"log-fd={fd},log-size={LOG_SIZE}"]
    return argv
