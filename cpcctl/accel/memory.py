# SPDX-License-Identifier: Apache-2.0
"""Asks whether KVM works here, once for each boot, QEMU, firmware and device.

The verdict is kept in a file of the state folder. A file that is damaged or
was written for something else is as good as none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cpcctl.accel import choose, device, probe, verdict
from cpcctl.accel.choose import Choice
from cpcctl.accel.verdict import Verdict
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host import atomic, find
from cpcctl.host.folders import make_folder

FORMAT = 1
FILE_LIMIT = 1 << 16
BOOT = Path("/proc/sys/kernel/random/boot_id")
LOOK_EVERY = 0.05


def file(settings: Settings) -> Path:
    """Where the verdict is kept."""
    return settings.kvm_verdict or settings.state_dir / "kvm-verdict.json"


def take(settings: Settings, flag: str | None, defined: str = choose.AUTO) -> Choice:
    """The accelerator for a VM that is started here. Raises CpcError (3), see decide()."""
    wish = choose.wanted(flag, defined, settings.accel)
    return choose.decide(wish, None if wish == choose.TCG else ask(settings))


def known(settings: Settings) -> str | None:
    """The accelerator that auto, or the setting, leads to; None when that is not known yet."""
    if settings.accel == choose.TCG:
        return choose.TCG
    found = device.look()
    if found is None:
        with contextlib.suppress(CpcError):
            found = _remembered(file(settings), _key(settings), 0.0)
    if found is None:
        return None
    try:
        return choose.decide(settings.accel, found).accel
    except CpcError:
        return None


def ask(settings: Settings, *, fresh: bool = False, seconds: float | None = None) -> Verdict:
    """The verdict. fresh: found out anew. seconds: how long the probe may take."""
    obstacle = device.look()
    if obstacle is not None:
        return obstacle
    limit = probe.SECONDS if seconds is None else seconds
    try:
        key = _key(settings)
    except CpcError:
        return probe.run(settings, limit)  # says which part lacks
    path = file(settings)
    found = None if fresh else _remembered(path, key, limit)
    if found is not None:
        return found
    with _alone(path, 2 * limit):
        found = None if fresh else _remembered(path, key, limit)
        if found is None:
            found = probe.run(settings, limit)
            # What only lacks to ask with may be there the next time.
            if found.kind != verdict.PARTS:
                _remember(path, key, limit, found)
    return found


def _key(settings: Settings) -> dict[str, Any]:
    """Everything that a verdict is about. Raises CpcError when a part lacks."""
    guest = find.probe_guest(settings)
    try:
        return {
            "boot": BOOT.read_text().strip(),
            "device": device.identity(),
            "qemu": _file_identity(find.qemu_binary(settings)),
            "firmware": _file_identity(find.firmware_image(settings)),
            "guest": hashlib.sha256(guest.read_bytes()).hexdigest(),
        }
    except OSError as error:
        raise CpcError(str(error), exit_code=ExitCode.USAGE) from error


def _file_identity(path: Path) -> list[Any]:
    real = path.resolve()
    found = real.stat()
    return [str(real), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]


def _remembered(path: Path, key: dict[str, Any], limit: float) -> Verdict | None:
    try:
        document = json.loads(_content(path))
        if document["format"] != FORMAT or document["key"] != key:
            return None
        found = verdict.read(document["verdict"])
        # Who has more patience than the last one may see it work after all.
        return found if found.works or float(document["seconds"]) >= limit else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _content(path: Path) -> bytes:
    # Whatever was put in its place, such as a pipe, is not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("no file")
        return stream.read(FILE_LIMIT)


def _remember(path: Path, key: dict[str, Any], limit: float, found: Verdict) -> None:
    document = {"format": FORMAT, "key": key, "seconds": limit, "verdict": found.document()}
    # One that cannot be written is found out again the next time.
    with contextlib.suppress(OSError, CpcError):
        make_folder(path.parent)
        atomic.write_atomic(path, json.dumps(document, indent=1).encode() + b"\n")


@contextlib.contextmanager
def _alone(path: Path, seconds: float) -> Iterator[None]:
    """Let no two probes take each other's time; but wait for nobody for ever."""
    descriptor = -1
    try:
        with contextlib.suppress(OSError, CpcError):
            make_folder(path.parent)
            name = path.with_name(f".{path.name}.lock")
            descriptor = atomic.update(name)
        deadline = time.monotonic() + seconds
        while descriptor >= 0 and time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(LOOK_EVERY)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)
