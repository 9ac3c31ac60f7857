# SPDX-License-Identifier: GPL-2.0-or-later
"""sync_tree.py FROM TO: make TO equal to FROM, touching only files that differ.

Keeps the times of unchanged files, so that ninja recompiles only what a changed
patch touches.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
from pathlib import Path


def entries(top: Path) -> set[str]:
    """Relative names of every file and link below a folder."""
    found = set()
    for folder, folders, files in os.walk(top):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in files + links:
            found.add(os.path.relpath(os.path.join(folder, name), top))
    return found


def same(one: Path, other: Path) -> bool:
    """Equal content, kind and mode."""
    if one.is_symlink() or other.is_symlink():
        both = one.is_symlink() and other.is_symlink()
        return both and os.readlink(one) == os.readlink(other)
    if one.stat().st_mode != other.stat().st_mode:
        return False
    return filecmp.cmp(one, other, shallow=False)


def sync(source: Path, copy: Path) -> int:
    """Returns how many files were written or removed."""
    copy.mkdir(parents=True, exist_ok=True)
    wanted, there = entries(source), entries(copy)
    changed = 0
    for name in sorted(there - wanted):
        (copy / name).unlink()
        changed += 1
    for name in sorted(wanted):
        place = copy / name
        if name in there and same(source / name, place):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        shutil.copy(source / name, place, follow_symlinks=False)
        changed += 1
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: sync_tree.py FROM TO")
    print(f"qemu: {sync(Path(sys.argv[1]), Path(sys.argv[2]))} source files new", file=sys.stderr)
