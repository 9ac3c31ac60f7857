# SPDX-License-Identifier: Apache-2.0
"""Folders and files of this host: where they are, locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode, quoted, reason
from cpcctl.host import atomic, life
from cpcctl.host.folders import check as check_folder
from cpcctl.host.folders import make_folder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")
# sockaddr_un has 108 bytes, the last one NUL.
SOCKET_PATH_MAX = 107


def check_name(name: str) -> str:
    """Return a VM name that is safe as a file name. Raises CpcError (2)."""
    if not NAME.fullmatch(name):
        raise CpcError(
            f"{quoted(name)} is not a VM name",
            exit_code=ExitCode.USAGE,
            cause="1 to 48 letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )
    return name


@dataclass(frozen=True)
class VmPaths:
    """Files of one VM. `state` survives a reboot, `run` does not."""

    state: Path
    run: Path
    lock: Path

    @property
    def definition(self) -> Path:
        """The VM as it was started, with the resolved machine type."""
        return self.state / "vm.yaml"

    @property
    def log(self) -> Path:
        """QEMU's stderr."""
        return self.state / "qemu.log"

    @property
    def life(self) -> Path:
        """Locked by its QEMU as long as that lives, see host/life.py."""
        return self.state / "qemu.lock"

    @property
    def console_log(self) -> Path:
        """Everything the guest wrote to its serial console."""
        return self.state / "console.log"

    @property
    def process(self) -> Path:
        """pid, start time and command line, as JSON."""
        return self.run / "process.json"

    @property
    def qmp(self) -> Path:
        """QMP socket for short commands."""
        return self.run / "qmp.sock"

    @property
    def qmp_job(self) -> Path:
        """QMP socket for jobs, so that a job does not shut out `vm status`."""
        return self.run / "qmp-job.sock"

    @property
    def console(self) -> Path:
        """Socket of the serial console."""
        return self.run / "console.sock"

    @property
    def suite_speeds(self) -> Path:
        """How fast its firmware seals and opens, see suite_speed."""
        return self.run / "suites.json"

    @property
    def ring(self) -> Path:
        """The ring file."""
        return self.run / "ring"


class Folders:
    """The state and the run folder of one host."""

    def __init__(self, state: Path, run: Path) -> None:
        self.state = state
        self.run = run

    @classmethod
    def of(cls, settings: Settings) -> Folders:
        """The folders the settings name, which need not exist.

        Raises CpcError (2) when one of them is no folder or not ours to read.
        """
        for path in (settings.state_dir, settings.run_dir):
            _check_folder(path)
        return cls(settings.state_dir, settings.run_dir)

    @property
    def jobs(self) -> Path:
        """Where job files are."""
        return self.state / "jobs"

    def vm(self, name: str) -> VmPaths:
        """Paths of a VM, which need not exist. Raises CpcError (2)."""
        check_name(name)
        paths = VmPaths(
            self.state / "vms" / name,
            self.run / "vms" / name,
            self.run / "locks" / name,
        )
        if len(os.fsencode(paths.qmp_job)) > SOCKET_PATH_MAX:
            raise CpcError(
                f"the run folder {self.run} has too long a name for sockets",
                exit_code=ExitCode.USAGE,
                hint="set CPCCTL_RUN_DIR to a shorter path",
            )
        return paths

    def vm_names(self) -> list[str]:
        """Every VM that was started here and not stopped, sorted.

        Also one of which files are lost, while its QEMU may live.
        """
        found = {path.parent.name for path in self.state.glob("vms/*/vm.yaml")}
        found |= {path.parent.name for path in self.run.glob("vms/*/process.json")}
        locks = self.state.glob("vms/*/qemu.lock")
        found |= {path.parent.name for path in locks if _may_be_held(path)}
        return sorted(name for name in found if NAME.fullmatch(name))


def _may_be_held(path: Path) -> bool:
    try:
        return life.held(path) is True
    except OSError:
        return True


def _check_folder(path: Path) -> None:
    # Without this a mistyped folder would look like a host without any VM.
    check_folder(path)
    try:
        with os.scandir(path):
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise CpcError(
            f"{path} cannot be used as a folder",
            exit_code=ExitCode.USAGE,
            cause=reason(error),
            hint="set CPCCTL_STATE_DIR and CPCCTL_RUN_DIR to folders you may write",
        ) from error


def disk_error(path: Path, error: OSError) -> CpcError:
    """The error for a file of ours that could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    look = "findmnt -T" if error.errno == errno.EROFS else "ls -ld"
    return CpcError(
        f"{'no space left to write' if full else 'cannot write'} {path}",
        exit_code=ExitCode.REFUSED,
        cause=reason(error),
        hint=f"df -h {path.parent}\ndf -i {path.parent}" if full else f"{look} {path.parent}",
    )


def remove_tree(path: Path) -> None:
    """Delete a folder of ours; missing is fine."""
    shutil.rmtree(path, ignore_errors=True)


class VmLock:
    """Held while something changes a VM. Freed when its holder dies.

    A child that inherits fileno() keeps it held.
    """

    def __init__(self, name: str, path: Path, fd: int) -> None:
        self.name = name
        self.path = path
        self._fd = fd

    @classmethod
    def take(cls, folders: Folders, name: str, purpose: str) -> VmLock:
        """Lock a VM. Raises CpcError (75) at once when it is locked."""
        path = folders.vm(name).lock
        make_folder(path.parent)
        try:
            fd = atomic.update(path)
        except OSError as error:
            raise disk_error(path, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
            os.close(fd)
            raise CpcError(
                f"VM {name} is busy",
                exit_code=ExitCode.BUSY,
                cause=holder or None,
                hint=f"cpcctl job list --vm {name}",
            ) from None
        if not _same_file(fd, path):
            # Its last holder removed it between our open and our lock.
            os.close(fd)
            return cls.take(folders, name, purpose)
        # Only words for people; a full disk must not stop the work.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{purpose} (process {os.getpid()})\n".encode(), 0)
        return cls(name, path, fd)

    def fileno(self) -> int:
        """The descriptor that holds the lock, to hand to a child."""
        return self._fd

    def remove(self) -> None:
        """Unlock and leave no lock file, for a VM that does not exist after all.

        Not when a child was handed fileno(): it would hold nothing any more.
        """
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.release()

    def release(self) -> None:
        """Unlock, unless a child still holds it. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> VmLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
