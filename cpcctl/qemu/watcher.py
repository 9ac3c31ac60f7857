# SPDX-License-Identifier: Apache-2.0
"""Starts a QEMU that outlives us, with somebody who notes how it ends.

Only its parent learns a process's exit status, and `vm start` has ended long before
QEMU does. So a shell is the parent: it writes the status into QEMU's log and ends with
it. QEMU goes on should the shell be killed; then nobody notes its end.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cpcctl.host import atomic
from cpcctl.host.process import ProcessId

# As a shell has it: 128 and the signal's number for one that was killed.
NOT_FOUND, NOT_EXECUTABLE, SIGNALLED = 127, 126, 128
NOTE = "cpcctl: QEMU ended with status "
NOTED = re.compile(rf"^{NOTE}(\d{{1,3}})$", re.M)
SCRIPT = (
    '"$@" >&2 & echo $!; exec >&2; wait $! 2>/dev/null; status=$?; '
    f'echo "{NOTE}$status"; exit $status'
)
# What the kernel runs; a shell would read anything else as commands.
PROGRAMS = (b"\x7fELF", b"#!")


@dataclass
class Child:
    """qemu: the process itself; shell: its parent, a child of ours with its status."""

    qemu: ProcessId
    shell: subprocess.Popen[bytes]


def start(
    argv: list[str],
    log: Path,
    pass_fds: Iterable[int] = (),
    env: Mapping[str, str] | None = None,
    limits: str = "",
) -> Child:
    """Start QEMU in a session of its own; its output is appended to log.

    It inherits pass_fds, under the same numbers, and no other environment than env;
    None: as ours. limits: shell commands that come first. :raise OSError: it cannot be executed.
    """
    _check_program(Path(argv[0]))
    with open(atomic.append(log), "ab") as output:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", limits + SCRIPT, "cpcctl-qemu", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
            cwd="/",
            pass_fds=tuple(pass_fds),
            env=env,
        )
    assert shell.stdout is not None
    with shell.stdout:
        word = shell.stdout.readline()
    if not word.strip().isdigit():
        shell.kill()
        shell.wait()
        raise OSError(errno.EAGAIN, "no process could be made for it", argv[0])
    pid = int(word)
    # One that has ended already stays known by its number, which says that it is gone.
    return Child(ProcessId.of(pid) or ProcessId(pid, 0), shell)


def _check_program(path: Path) -> None:
    with open(path, "rb") as file:
        begin = file.read(4)
    if not os.access(path, os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if not begin.startswith(PROGRAMS):
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), str(path))
