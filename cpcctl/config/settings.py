# SPDX-License-Identifier: Apache-2.0
"""What can be set, and which source wins. No I/O here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from cpcctl.errors import CpcError, ExitCode, quoted

FORMATS = ("text", "json")
PROGRESS = ("auto", "bar", "plain", "none")
ACCELS = ("auto", "tcg", "kvm")
CHOICES = {"format": FORMATS, "progress": PROGRESS, "accel": ACCELS}
PATHS = ("state_dir", "run_dir", "cache_dir", "qemu", "qemu_data", "firmware", "kvm_verdict")


@dataclass(frozen=True)
class Settings:
    """Every setting, resolved. Paths are absolute.

    state_dir: what must survive a reboot: VM definitions, job files, logs
    run_dir:   sockets, ring files, locks
    cache_dir: where things the project builds are looked for
    qemu, qemu_data, firmware: None means: look in the usual places
    host:      this host's name in messages
    allow_paths: folders whose files a VM that is received may use, besides
               the usual ones; ':' separates them
    accel: for VMs whose definition leaves it open
    kvm_verdict: file that remembers whether KVM works; None: in state_dir
    """

    state_dir: Path
    run_dir: Path
    cache_dir: Path
    qemu: Path | None
    qemu_data: Path | None
    firmware: Path | None
    host: str
    format: str
    progress: str
    allow_paths: str = ""
    accel: str = "auto"
    kvm_verdict: Path | None = None


NAMES = tuple(field.name for field in fields(Settings))


def unknown_key(what: str, key: str, known: Iterable[str]) -> CpcError:
    """The error for a key nobody knows, with the nearest known one."""
    near = difflib.get_close_matches(key, list(known), n=1)
    return CpcError(
        f"{what}: unknown key {quoted(key)}",
        exit_code=ExitCode.USAGE,
        hint=f"did you mean {quoted(near[0])}?" if near else None,
    )


def defaults(env: Mapping[str, str], root: bool, host: str) -> dict[str, str]:
    """The folders of the FHS for root, the XDG ones otherwise."""
    home = env.get("HOME") or "/"
    cache = env.get("CPC_CACHE") or (env.get("XDG_CACHE_HOME") or f"{home}/.cache") + "/cpc"
    if root:
        state, run = "/var/lib/cpcctl", "/run/cpcctl"
    else:
        state = (env.get("XDG_STATE_HOME") or f"{home}/.local/state") + "/cpcctl"
        # Without a folder of its own from the system: one that is nobody else's.
        runtime = env.get("XDG_RUNTIME_DIR")
        run = f"{runtime}/cpcctl" if runtime else f"{state}/run"
    return {
        "state_dir": state,
        "run_dir": run,
        "cache_dir": cache,
        "host": host,
        "format": "text",
        "progress": "auto",
        "accel": "auto",
    }


def from_environment(env: Mapping[str, str]) -> dict[str, str]:
    """CPCCTL_STATE_DIR=... and so on; empty means unset."""
    found = {name: env.get(f"CPCCTL_{name.upper()}", "") for name in NAMES}
    return {name: value for name, value in found.items() if value}


def from_document(document: object, source: str) -> dict[str, str]:
    """Check a parsed configuration file. Raises CpcError (2)."""
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise CpcError(f"{source}: must be keys and values", exit_code=ExitCode.USAGE)
    for key, value in document.items():
        if key not in NAMES:
            raise unknown_key(source, key if isinstance(key, str) else quoted(key), NAMES)
        if not isinstance(value, str) or not value:
            raise CpcError(f"{source}: {key} must be a string", exit_code=ExitCode.USAGE)
    return {key: str(value) for key, value in document.items()}


def resolve(layers: Iterable[Mapping[str, str | None]]) -> Settings:
    """The first layer that names a setting wins. Raises CpcError (2)."""
    chosen: dict[str, str] = {}
    for layer in layers:
        for name, value in layer.items():
            if value is not None:
                chosen.setdefault(name, value)
    for name, allowed in CHOICES.items():
        if chosen[name] not in allowed:
            raise CpcError(
                f"{name} must be one of {', '.join(allowed)}, not {quoted(chosen[name])}",
                exit_code=ExitCode.USAGE,
            )
    paths = {name: _path(name, chosen[name]) for name in PATHS if name in chosen}
    return Settings(
        state_dir=paths["state_dir"],
        run_dir=paths["run_dir"],
        cache_dir=paths["cache_dir"],
        qemu=paths.get("qemu"),
        qemu_data=paths.get("qemu_data"),
        firmware=paths.get("firmware"),
        host=chosen["host"],
        format=chosen["format"],
        progress=chosen["progress"],
        allow_paths=_folders(chosen.get("allow_paths", "")),
        accel=chosen["accel"],
        kvm_verdict=paths.get("kvm_verdict"),
    )


def _path(name: str, text: str) -> Path:
    _check_printable(name, text)
    return Path(text).expanduser().absolute()


def _folders(text: str) -> str:
    for word in filter(None, text.split(":")):
        _check_printable("allow_paths", word)
        if not word.startswith("/"):
            raise CpcError(
                f"allow_paths: {quoted(word)} is not an absolute path", exit_code=ExitCode.USAGE
            )
    return text


def _check_printable(name: str, text: str) -> None:
    """As its flag does."""
    if not text.isprintable():
        raise CpcError(f"{name}: {quoted(text)} is not a path", exit_code=ExitCode.USAGE)
