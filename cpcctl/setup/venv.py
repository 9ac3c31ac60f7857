# SPDX-License-Identifier: Apache-2.0
"""The Python environment: this checkout, editable, and what its tests use.

Each checkout has its own. ``current/venv`` is that of the last one that was set
up; ``--print`` says which folder is this checkout's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cpcctl.setup import store, watched

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


def imported(folder: Path) -> Path | None:
    """The folder whose cpcctl an environment imports; None when it imports none."""
    command = [str(folder / "bin/python"), "-P", "-c", "import cpcctl; print(*cpcctl.__path__)"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            command, cwd="/", env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return Path(done.stdout.strip()).resolve().parent


def moved(folder: Path) -> bool:
    """True for an environment that was made in another place: its scripts run what is there."""
    activate = folder / "bin/activate"
    return not activate.is_file() or str(folder) not in activate.read_text()


def discard_foreign(folder: Path) -> None:
    """Remove an environment that imports another checkout's cpcctl, or none, or was moved.

    Somebody may have installed another one into it, or copied the store.
    """
    with store.lock("venv"):
        if not folder.is_dir():
            return
        if (found := imported(folder)) != TOP:
            store.say(f"venv: {folder} has {found or 'no'}/cpcctl; it is made anew")
        elif moved(folder):
            store.say(f"venv: {folder} was made in another place; it is made anew")
        else:
            return
        shutil.rmtree(folder)


def build(folder: Path) -> None:
    """Create the environment in place; its scripts name the final folder."""
    final = folder.with_suffix("")
    subprocess.run([PYTHON, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"]
    watched.run(
        "venv: installing Python packages",
        [*pip, "-c", str(CONSTRAINTS), "-e", f"{TOP}[test]"],
        store.root() / "log" / "venv.log",
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
        key = recipe_key()
        folder = store.place("venv", key)
        if sys.argv[1:] == ["--print"]:
            print(folder)
            return 0
        discard_foreign(folder)
        store.provide("venv", key, build)
    except (OSError, subprocess.CalledProcessError, watched.CommandFailed) as error:
        store.say(f"error: the Python environment cannot be built: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
