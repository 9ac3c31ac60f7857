# SPDX-License-Identifier: Apache-2.0
"""Bare Debian systems to try the README in, each with its own files and processes.

What debootstrap makes, with git, make, python3 and ca-certificates and nothing else. It is made
once for each release and kept in the store; a run works on a copy. Needs root. Imports the
standard library only, as the set-up does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpcctl.setup import debian, store

TOP = Path(__file__).resolve().parents[2]
SUITES = ("bookworm", "trixie")
BARE = ("git", "make", "python3", "ca-certificates")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SHARED = "/srv/shared"
CHECKOUT = "/root/cpc"
# $1 is the folder of the system, $2 its name, $3 what both systems share; the rest is the command.
ENTER = r"""
set -e
root=$1 name=$2 shared=$3
shift 3
mount --bind "$root" "$root"
cd "$root"
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount --rbind /sys sys
mount -t proc proc proc
mkdir -p srv/shared
mount --bind "$shared" srv/shared
hostname "$name"
pivot_root . mnt
umount -l /mnt
cd /root
set +e
# This shell stays the first process in there, and reaps what is left to it: a QEMU that has ended
# and is not reaped would look alive.
"$@"
code=$?
exit "$code"
"""


class FreshError(Exception):
    """A bare system cannot be made; the text says why."""


def _install_debootstrap() -> None:
    if shutil.which("debootstrap", path="/usr/sbin:/usr/bin"):
        return
    store.say("installing: debootstrap")
    for argv in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", "debootstrap"]):
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            ["apt-get", "-y", *argv], env=env, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise FreshError(f"apt-get {argv[0]}: {done.stderr.strip()}")


def _build(folder: Path, suite: str) -> None:
    mirror = debian.choose_mirror(debian.system_entries())
    log = folder.with_suffix(".log")
    argv = [
        "/usr/sbin/debootstrap", "--variant=minbase", f"--include={','.join(BARE)}", suite,
        str(folder), mirror,
    ]  # fmt: skip
    with log.open("w") as out:
        done = subprocess.run(argv, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise FreshError(f"debootstrap {suite} failed; the whole log is {log}:\n{last}")
    log.unlink()


def provide(suite: str) -> Path:
    """The bare system of a release, made unless it is there. Raises FreshError, AptError."""
    if os.geteuid() != 0:
        raise FreshError("debootstrap needs root; run: sudo make test-fresh")
    _install_debootstrap()
    key = store.key([suite, *BARE])
    return store.provide(f"fresh-{suite}", key, lambda folder: _build(folder, suite))


class System:
    """A copy of a bare system in which commands run. name: its host name."""

    def __init__(self, suite: str, folder: Path, shared: Path) -> None:
        self.suite = suite
        self.name = f"fresh-{suite}"
        self.folder = folder
        self.shared = shared
        store.say(f"{self.name}: copying the bare system")
        subprocess.run(["cp", "-a", "--reflink=auto", provide(suite), folder], check=True)
        # How this machine reaches the outside holds in there as well.
        shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
        shutil.copy(CERTIFICATES, folder / str(CERTIFICATES).lstrip("/"))
        subprocess.run(
            ["git", "clone", "-q", "--no-hardlinks", TOP, folder / CHECKOUT.lstrip("/")], check=True
        )

    def popen(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command in the checkout in there; it ends with this process."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "CPC_TEST_", "CPCCTL_PATIENCE")) or name.endswith("_proxy")
        }
        outer = [
            "setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--uts", "--ipc", "--pid",
            "--fork", "--kill-child", "sh", "-c", ENTER, "sh", str(self.folder), self.name,
            str(self.shared), "env", "-i", "-C", CHECKOUT,
        ]  # fmt: skip
        inside = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root", "TERM": "dumb", "COLUMNS": "100", **kept, **(env or {}),
        }  # fmt: skip
        words = [f"{name}={value}" for name, value in inside.items()]
        options.setdefault("text", True)
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen([*outer, *words, *argv], **options)

    def run(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in there to its end."""
        with self.popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        ) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)


@contextlib.contextmanager
def systems(suites: Sequence[str]) -> Iterator[dict[str, System]]:
    """Copies of the bare systems, which go again; those of dead owners go first."""
    base = store.root() / "work"
    base.mkdir(parents=True, exist_ok=True)
    for old in base.glob("fresh-*"):
        if not Path(f"/proc/{old.name.split('-')[1]}").exists():
            shutil.rmtree(old, ignore_errors=True)
    place = base / f"fresh-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    try:
        (place / "shared").mkdir(parents=True)
        yield {suite: System(suite, place / suite, place / "shared") for suite in suites}
    finally:
        shutil.rmtree(place, ignore_errors=True)
