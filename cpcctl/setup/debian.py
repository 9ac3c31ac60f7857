# SPDX-License-Identifier: Apache-2.0
"""A private apt that downloads packages and sources without touching the system.

Its configuration, lists and archives live in the store. The mirror is the one
the machine already uses. Needs no root; installs nothing. Every download is
verified by apt against the Debian archive key.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from cpcctl.setup import store, watched

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCE_SUITE = "trixie"
RELEASES = ("bookworm", "trixie")
LIST_AGE_SECONDS = 24 * 3600


class AptError(Exception):
    """apt could not do it; the text is apt's own last words."""


def parse_mirrors(text: str) -> list[tuple[str, list[str]]]:
    """(address, suites) of every binary entry, in one-line or deb822 style."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", line)
        if match:
            found.append((match[1], [match[2]]))
    for block in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", block, re.M))
        if "deb" not in fields.get("Types", "").split() or fields.get("Enabled") == "no":
            continue
        found += [(uri, fields.get("Suites", "").split()) for uri in fields.get("URIs", "").split()]
    return found


def choose_mirror(entries: list[tuple[str, list[str]]]) -> str:
    """The first plain Debian archive among the entries. Raises AptError: there is none."""
    for uri, suites in entries:
        if uri.startswith(("http://", "https://")) and any(s in RELEASES for s in suites):
            return uri.rstrip("/")
    raise AptError(
        "apt on this machine knows no Debian archive; add a `deb` line of "
        f"{' or '.join(RELEASES)} to its sources"
    )


def system_entries() -> list[tuple[str, list[str]]]:
    """What the machine's own apt is configured with."""
    places = [Path("/etc/apt/sources.list")]
    folder = Path("/etc/apt/sources.list.d")
    if folder.is_dir():
        places += sorted(p for p in folder.iterdir() if p.suffix in (".list", ".sources"))
    entries: list[tuple[str, list[str]]] = []
    for place in places:
        if place.is_file():
            entries += parse_mirrors(place.read_text(errors="replace"))
    return entries


def release() -> str:
    """Codename whose packages the guest is made of: this machine's, if Debian."""
    text = Path("/etc/os-release").read_text()
    match = re.search(r"^VERSION_CODENAME=\"?(\w+)", text, re.M)
    return match[1] if match and match[1] in RELEASES else SOURCE_SUITE


def _folder(suite: str) -> Path:
    return store.root() / "apt" / suite


def _configure(suite: str, kind: str) -> Path:
    """Write the private configuration; returns its file."""
    here = _folder(suite + "-" + kind)
    for name in ("lists/partial", "cache/archives/partial", "state", "empty"):
        (here / name).mkdir(parents=True, exist_ok=True)
    mirror = choose_mirror(system_entries())
    signed = f"[signed-by={KEYRING}] " if KEYRING.is_file() else ""
    lines = [f"{kind} {signed}{mirror} {suite} main"]
    security = re.sub(r"/debian$", "/debian-security", mirror)
    if security != mirror:
        lines.append(f"{kind} {signed}{security} {suite}-security main")
    (here / "sources.list").write_text("\n".join(lines) + "\n")
    (here / "status").touch()
    config = here / "apt.conf"
    config.write_text(
        f'Dir::Etc::sourcelist "{here}/sources.list";\n'
        f'Dir::Etc::sourceparts "{here}/empty";\n'
        f'Dir::Etc::preferencesparts "{here}/empty";\n'
        f'Dir::State "{here}/state";\n'
        f'Dir::State::Lists "{here}/lists";\n'
        f'Dir::State::status "{here}/status";\n'
        f'Dir::Cache "{here}/cache";\n'
        'Debug::NoLocking "1";\n'
        'APT::Sandbox::User "root";\n'
        'APT::Get::List-Cleanup "0";\n'
        'APT::Install-Recommends "0";\n'
        'Acquire::Languages "none";\n'
        'Acquire::Retries "3";\n'
    )
    return config


def _download(what: str, config: Path, argv: list[str], cwd: Path) -> None:
    """The same for what takes long and whose output nobody needs."""
    try:
        watched.run(what, argv, config.parent / "log", cwd=cwd, env=_environment(config))
    except FileNotFoundError as error:
        raise AptError(f"{argv[0]} is not there: this needs a Debian machine") from error
    except watched.CommandFailed as error:
        raise AptError(f"{' '.join(argv[:3])}: {error}") from error


def _environment(config: Path) -> dict[str, str]:
    return {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}


def _run(config: Path, argv: list[str], cwd: Path) -> str:
    env = _environment(config)
    try:
        done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise AptError(f"{argv[0]} is not there: this needs a Debian machine") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()[-4:]
        raise AptError(f"{' '.join(argv[:3])}: " + " / ".join(words))
    return done.stdout


def _updated(suite: str, kind: str) -> Path:
    config = _configure(suite, kind)
    stamp = config.parent / "updated"
    if not stamp.exists() or time.time() - stamp.stat().st_mtime > LIST_AGE_SECONDS:
        what = f"apt: reading the package lists of {suite} ({kind})"
        _download(what, config, ["apt-get", "update", "-q"], config.parent)
        stamp.touch()
    return config


def fetch_source(package: str, folder: Path, suite: str = SOURCE_SUITE) -> list[Path]:
    """Download a source package's files into folder; returns them.

    Raises AptError where apt does not offer it.
    """
    config = _updated(suite, "deb-src")
    folder.mkdir(parents=True, exist_ok=True)
    what = f"apt: downloading the source of {package}"
    _download(what, config, ["apt-get", "source", "-q", "--download-only", package], folder)
    return sorted(p for p in folder.iterdir() if p.is_file())


def fetch(packages: list[str], suite: str) -> list[Path]:
    """Download packages (without what they depend on); returns the files."""
    config = _updated(suite, "deb")
    archives = config.parent / "cache" / "archives"
    # Asked in an empty folder: of files that are there it would say nothing.
    empty = config.parent / "empty"
    names = _run(config, ["apt-get", "download", "--print-uris", *packages], empty)
    # apt checks what is there already against the lists and keeps it.
    count = "a package" if len(packages) == 1 else f"{len(packages)} packages"
    what = f"apt: downloading {count} of {suite}"
    _download(what, config, ["apt-get", "download", "-q", *packages], archives)
    return [archives / line.split()[1] for line in names.splitlines() if line.startswith("'")]


def closure(packages: list[str], suite: str) -> list[str]:
    """Names of the packages and of everything they depend on."""
    config = _updated(suite, "deb")
    out = _run(config, ["apt-get", "install", "-s", "-y", *packages], config.parent)
    return sorted(set(re.findall(r"^Inst (\S+)", out, re.M)))


def dependencies(package: str, suite: str) -> list[str]:
    """Direct dependencies of one package."""
    config = _updated(suite, "deb")
    out = _run(config, ["apt-cache", "depends", package], config.parent)
    return re.findall(r"^\s+Depends: (\S+)", out, re.M)


def versions(packages: list[str], suite: str) -> list[str]:
    """``name=version`` of each package as the lists offer it now."""
    config = _updated(suite, "deb")
    out = _run(config, ["apt-cache", "--no-all-versions", "show", *packages], config.parent)
    names = re.findall(r"^Package: (\S+)", out, re.M)
    return sorted(
        f"{n}={v}" for n, v in zip(names, re.findall(r"^Version: (\S+)", out, re.M), strict=True)
    )


def unpack(archive: Path, folder: Path) -> None:
    """Extract one package's files, running none of its scripts."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
