# SPDX-License-Identifier: Apache-2.0
"""The second disk of the Debian guest: this checkout and what was built from it.

Everything has the path it has here, so that links, scripts and settings that
name a file name the same one there. Compiled Python comes along: compiling it
there is slow.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cpcctl.setup import store
from tests.nested.system import file_system

TOP = Path(__file__).resolve().parents[2]
# What `make setup` builds, and things that tests built for themselves.
BUILT = ("qemu", "firmware", "guest", "ovmf", "test-*")
START = ".cpc-nested-start"


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder in the store that goes again; those of dead owners go first."""
    base = store.root() / "work"
    base.mkdir(parents=True, exist_ok=True)
    for old in base.glob("nested-*"):
        if not Path(f"/proc/{old.name.split('-')[1]}").exists():
            shutil.rmtree(old, ignore_errors=True)
    place = base / f"nested-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _link(source: str, destination: str) -> str:
    """The same file under a second name, or a copy where that cannot be."""
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, destination, follow_symlinks=False)
    return destination


def _inside(tree: Path, path: Path) -> Path:
    place = tree / path.relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _checkout(tree: Path) -> None:
    """Files of the checkout without what is hidden or built, compiled."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        out = {name for name in names if Path(folder, name) == store.root()}
        if Path(folder) == TOP:
            out |= {name for name in names if name.startswith(".") or name == "build"}
        return out

    place = _inside(tree, TOP)
    shutil.copytree(TOP, place, symlinks=True, ignore=ignored)
    subprocess.run(
        [
            sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/",
            str(place / "cpcctl"), str(place / "tests"),
        ],
        check=False,
        stdout=subprocess.DEVNULL,
    )


def environment() -> Path:
    """The Python environment that runs this; the one in use when that is not ours."""
    mine = Path(sys.prefix).resolve()
    return mine if mine.parent == store.root().resolve() else store.current("venv").resolve()


def _built(tree: Path) -> None:
    """The things in use, each with the link that says so."""
    found = {
        link: link.resolve() for name in BUILT for link in store.current("x").parent.glob(name)
    }
    # Here that link may be another checkout's by now.
    found[store.current("venv")] = environment()
    for link, folder in found.items():
        place = _inside(tree, folder)
        if not place.exists():
            shutil.copytree(folder, place, symlinks=True, copy_function=_link)
        _inside(tree, link).symlink_to(folder)


def disk(out: Path, start: str) -> None:
    """Write the disk. start: the shell script that the guest runs."""
    tree = out.with_suffix(".tree")
    tree.mkdir()
    _checkout(tree)
    _built(tree)
    (tree / START).write_text(start)
    file_system(tree, out)
    shutil.rmtree(tree)
