# SPDX-License-Identifier: Apache-2.0
"""Two hosts and a client on this machine, each in its own network namespace.

Everything lives in private network, mount and process namespaces owned by one
keeper process (keeper.py). Nothing can be left behind: closing, a crash or a
SIGKILL of the owner ends the keeper, and with it the kernel removes all of it;
the files, which lie outside, are removed by a guard (guard.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cpcctl.config.patience import patient
from cpcctl.demo.guard import Guard
from cpcctl.demo.keeper import HOSTS, SUBNET
from cpcctl.setup import store

GUEST_ADDRESS = f"{SUBNET}.10"
START_SECONDS = patient(20.0)
VERB_SECONDS = patient(120.0)
DO_SECONDS = patient(60.0)
ROOM_BYTES = 512 << 20
TOP = Path(__file__).resolve().parents[2]


class NoNamespaces(Exception):
    """This user may not make namespaces; the text says what was refused."""


class Place(Protocol):
    """What holds two hosts: namespaces, or only two folders (see local.py)."""

    cache: Path
    folder: Path
    settings: dict[str, str]

    @property
    def a(self) -> Host:
        """host-a."""

    @property
    def b(self) -> Host:
        """host-b."""

    def popen(
        self, where: str, argv: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command on a host."""


@dataclass(frozen=True)
class Host:
    """One host: where its cpcctl keeps state, and how to run things on it."""

    name: str
    address: str
    folder: Path
    world: Place

    @property
    def environment(self) -> dict[str, str]:
        """What makes cpcctl see this host and no other."""
        return {
            "CPCCTL_STATE_DIR": str(self.folder / "state"),
            "CPCCTL_RUN_DIR": str(self.folder / "run"),
            "CPCCTL_HOST": self.name,
            "HOME": str(self.folder),
            "CPC_CACHE": str(self.world.cache),
            "CPCCTL_ALLOW_PATHS": f"{self.world.cache}:{self.folder.parent}",
            **self.world.settings,
        }

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command here; ``options`` as subprocess.Popen takes them."""
        return self.world.popen(self.name, argv, env=self.environment, **options)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = VERB_SECONDS,
        input_text: str | None = None,
        stderr: int | None = subprocess.PIPE,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end. Raises subprocess.TimeoutExpired."""
        with self.popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        ) as process:
            try:
                out, err = process.communicate(input_text, timeout=timeout)
            except BaseException:
                kill(process, signal.SIGKILL)
                process.communicate()
                raise
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def cpcctl(
        self, *argv: str, timeout: float = VERB_SECONDS, stderr: int | None = subprocess.PIPE
    ) -> subprocess.CompletedProcess[str]:
        """Run this checkout's cpcctl here."""
        return self.run(
            [sys.executable, "-m", "cpcctl", *argv], timeout=timeout, stderr=stderr
        )


def kill(process: subprocess.Popen[str], number: int) -> None:
    """Signal the command itself, not the nsenter it runs under."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(inner_pid(process), number)


def inner_pid(process: subprocess.Popen[str]) -> int:
    """Id, seen from here, of the command that nsenter runs; nsenter's if ended.

    nsenter forks once to get into the process namespace and its only child
    becomes the command.
    """
    with contextlib.suppress(OSError):
        if Path(f"/proc/{process.pid}/comm").read_text().strip() not in ("nsenter", "unshare"):
            return process.pid
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                if int(stat.rsplit(")", 1)[1].split()[1]) == process.pid:
                    return int(entry)
    return process.pid


class World:
    """The two hosts. A context manager; see Host for what to do with them."""

    def __init__(
        self, cache: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """cache: where built things are. settings: CPCCTL_* for both hosts.

        Raises NoNamespaces.
        """
        self.cache = cache or store.root()
        self.settings = dict(settings or {})
        self.folder = fresh_folder()
        self._guard = Guard(place_mark(self.folder), self.folder)
        try:
            self._keeper = self._start()
            self._target = self._keeper_pid()
        except BaseException:
            self._guard.close()
            raise
        self.hosts = {
            name: make_host(name, f"{SUBNET}.{number}", self) for name, number in HOSTS.items()
        }

    @property
    def a(self) -> Host:
        """host-a."""
        return self.hosts["host-a"]

    @property
    def b(self) -> Host:
        """host-b."""
        return self.hosts["host-b"]

    def _start(self) -> subprocess.Popen[str]:
        argv = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if os.geteuid() != 0:
            argv += ["--user", "--map-root-user"]
        try:
            keeper = subprocess.Popen(
                [*argv, sys.executable, "-m", "cpcctl.demo.keeper"],
                cwd=TOP,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NoNamespaces(str(error)) from error
        assert keeper.stdout is not None
        line = keeper.stdout.readline()
        if line.strip() != "READY":
            rest = line + keeper.stdout.read()
            keeper.kill()
            keeper.wait()
            raise NoNamespaces(rest.strip() or "unshare ended without a message")
        return keeper

    def _keeper_pid(self) -> int:
        pid = inner_pid(self._keeper)
        if pid == self._keeper.pid:
            raise NoNamespaces("the keeper has exited")
        return pid

    def popen(
        self, where: str, argv: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command in a namespace: a host's name, "client", or "lan"."""
        enter = ["nsenter", "-t", str(self._target), "-m", "-n", "-p"]
        if os.geteuid() != 0:
            enter += ["-U", "--preserve-credentials"]
        inside = [] if where == "lan" else ["ip", "netns", "exec", where]
        options.setdefault("text", True)
        options.setdefault("cwd", TOP)
        return subprocess.Popen(
            [*enter, *inside, *argv], env=place_environment(self.folder, env), **options
        )

    def do(self, where: str, *argv: str) -> str:
        """Run a command in a namespace; its stdout. Raises CalledProcessError."""
        with self.popen(
            where, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            out, err = process.communicate(timeout=DO_SECONDS)
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, argv, out, err)
        return str(out)

    def cut(self, host: str, broken: bool = True) -> None:
        """Unplug a host from the network, or plug it in again."""
        self.do("lan", "ip", "link", "set", f"to-{host}", "down" if broken else "up")

    def close(self) -> None:
        """End everything in there and remove the files."""
        assert self._keeper.stdin is not None
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        try:
            self._keeper.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()
        self._guard.close()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_host(name: str, address: str, world: Place) -> Host:
    """A host with its folders."""
    host = Host(name, address, world.folder / name, world)
    for part in ("state", "run"):
        (host.folder / part).mkdir(parents=True, exist_ok=True)
    return host


def place_mark(folder: Path) -> str:
    """What everything that runs in a place has in its environment."""
    return f"CPC_PLACE={folder}"


def place_environment(folder: Path, env: Mapping[str, str] | None) -> dict[str, str]:
    """For a command in a place: ours, that mark, and env."""
    return {**os.environ, "CPC_PLACE": str(folder), **(env or {})}


def fresh_folder() -> Path:
    """A folder in memory, named after this process.

    In memory, because ring files on a disk would be written back all the time.
    The name is short: UNIX socket paths end at 108 bytes.
    """
    shm = Path("/dev/shm")
    room = os.statvfs(shm) if shm.is_dir() else None
    base = shm if room and room.f_bavail * room.f_frsize > ROOM_BYTES else Path("/tmp")
    return Path(tempfile.mkdtemp(prefix=f"cpc-world-{os.getpid()}-", dir=base))


def wait_until(what: str, check: Any, seconds: float, pause: float = 0.05) -> Any:
    """The first true value of check(); raises TimeoutError naming what."""
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)
