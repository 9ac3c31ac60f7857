# SPDX-License-Identifier: Apache-2.0
"""The Python environment: this checkout, editable, and what its tests use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cpcctl.setup import store

TOP = Path(__file__).resolve().parents[2]
CONSTRAINTS = TOP / "tests" / "constraints.txt"
# The system's own interpreter: another one in PATH may come and go.
PYTHON = "/usr/bin/python3"


def recipe_key() -> str:
    """Digest of everything the environment is made from, the checkout's place included."""
    version = subprocess.run([PYTHON, "-V"], capture_output=True, text=True, check=True).stdout
    return store.key(
        [str(TOP), version], [TOP / "setup.cfg", TOP / "pyproject.toml", CONSTRAINTS]
    )


def build(folder: Path) -> None:
    """Create the environment in place; its scripts name the final folder."""
    final = folder.with_suffix("")
    subprocess.run([PYTHON, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "-c", str(CONSTRAINTS), "-e", f"{TOP}[test]"], check=True, stdout=sys.stderr
    )
    relocate(folder, final)


def relocate(folder: Path, final: Path) -> None:
    """Make scripts and configuration name the folder's final place."""
    old, new = str(folder).encode(), str(final).encode()
    for path in [*(folder / "bin").iterdir(), folder / "pyvenv.cfg"]:
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if old in data:
                path.write_bytes(data.replace(old, new))


def main() -> int:
    """Build the environment unless it is there; 2 when pip cannot."""
    try:
        store.provide("venv", recipe_key(), build)
    except (OSError, subprocess.CalledProcessError) as error:
        store.say(f"error: the Python environment cannot be built: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
