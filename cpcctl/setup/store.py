# SPDX-License-Identifier: Apache-2.0
"""The store of built things.

A thing is built into ``<root>/<name>-<key>/``, where the key is a digest of
everything it is built from, and ``<root>/current/<name>`` points to the one in
use. A folder appears under its final name only when it is complete, so an
interrupted build leaves nothing that could be taken for a result.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


def root() -> Path:
    """The store's folder: CPC_CACHE, else the user's cache folder."""
    named = os.environ.get("CPC_CACHE")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base).absolute() / "cpc"


def key(texts: Iterable[str], files: Iterable[Path] = ()) -> str:
    """Sixteen hex digits over some texts and the names and bytes of files."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(b"t%d:" % len(text.encode()) + text.encode())
    for path in files:
        data = path.read_bytes()
        digest.update(b"f%d:" % len(data) + path.name.encode() + b":" + data)
    return digest.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def current(name: str) -> Path:
    """Where the thing in use is found."""
    return root() / "current" / name


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """One builder at a time; a second one waits and then finds the result."""
    root().mkdir(parents=True, exist_ok=True)
    with (root() / f".{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def link(name: str, folder: Path) -> None:
    """Make ``current/<name>`` point to folder, in one step."""
    place = current(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.parent / f".{name}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(folder, place.parent))
    os.replace(fresh, place)


def place(name: str, digest: str) -> Path:
    """Where a thing is, or would be."""
    return root() / f"{name}-{digest}"


def provide(name: str, digest: str, build: Callable[[Path], None]) -> Path:
    """The folder of a thing; build(folder) runs only if it is not there yet.

    Raises whatever build raises; nothing is published then.
    """
    folder = place(name, digest)
    with lock(name):
        if not folder.is_dir():
            part = place(name, f"{digest}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            build(part)
            part.rename(folder)
            say(f"{name}: built {folder}")
        link(name, folder)
    return folder


def say(text: str) -> None:
    """One line of progress for a person, on stderr."""
    print(text, file=sys.stderr, flush=True)
