# SPDX-License-Identifier: Apache-2.0
"""What QMP commands do on a machine with hvCPUs; patches/qemu's cpc device is the model."""

from __future__ import annotations

import base64
import ctypes
import fcntl
import hashlib
import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpcctl import abi
from tests.lib.fake_machine.command_line import Config
from tests.lib.fake_machine.monitor import Handler, Refused

# What devices are: enough to be no accident.
DEVICES = b"fake devices " + bytes(range(256)) * 8
CALLS = {
    value: name.removeprefix("OP_")
    for name, value in vars(abi).items()
    if name.startswith("OP_") and isinstance(value, int)
}


# Of the suite that every processor has. To measure all of them, as cpcctl does at a VM's first
# migration, would be a fifth of the time that a test of one takes.
SPEEDS = {way: {str(abi.SUITE_CHACHA20POLY1305): 4e8} for way in ("seal", "open")}


class Layout(ctypes.Structure):
    """struct fake_layout of machine.c."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("ring_size", "ram_pages", "max_pages")),
        *((name, ctypes.c_uint32) for name in ("hvcpus", "gvcpus", "gvcpu_max", "incoming")),
        *((name, ctypes.c_int32) for name in ("ring", "journal", "guest", "news")),
    ]


class Disk:
    """An image and QEMU's lock on it: at most one machine has it active."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def activate(self, active: bool) -> None:
        """Take the lock, or drop it. Raises Refused."""
        if not active and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if not active or self._fd >= 0:
            return
        # An open file that was handed over goes by the number of its set, which is its own.
        path = self.path.replace("/dev/fdset/", "/proc/self/fd/")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            # As the other QEMU's would: of the open file, not of the process.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise Refused('Failed to get "write" lock') from None
        self._fd = fd


class Machine:
    """The library with its one machine, and its commands."""

    def __init__(
        self, library: str, config: Config, who: str, journal: Path, guest: Path
    ) -> None:
        self.config = config
        self.news, theirs = os.pipe()
        self.incoming = config.incoming
        self.loaded = False
        self._mute, self._missed = False, set[int]()
        self.logging = False
        self.disks = [Disk(path) for path in config.disks]
        for disk, active in zip(self.disks, config.disks.values(), strict=True):
            disk.activate(active)
        self.hvcpus: list[dict[str, Any]] = [
            {"id": i, "state": "inactive", "wakes": 0} for i in range(config.hvcpu_max)
        ]
        with open(config.firmware, "rb") as file:
            self.image = file.read()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._ring = os.open(config.ring, os.O_RDWR | os.O_CLOEXEC)
        layout = Layout(
            ring_size=config.ring_size, ram_pages=config.memory >> 12,
            max_pages=abi.MAX_PAGES(config.max_memory), hvcpus=config.hvcpu_max,
            gvcpus=config.vcpus, gvcpu_max=config.max_vcpus, incoming=config.incoming,
            ring=self._ring,
            journal=os.open(journal, flags | os.O_APPEND, 0o666),
            guest=os.open(guest, flags, 0o666), news=theirs,
        )  # fmt: skip
        (Path(config.ring).parent / "suites.json").write_text(json.dumps(SPEEDS))
        self._lib = ctypes.CDLL(library)
        self._lib.fake_dirty_sync.restype = ctypes.c_int64
        self._lib.fake_start(ctypes.byref(layout), who.encode())

    @property
    def frozen(self) -> bool:
        """The gvCPUs are stopped until the firmware releases them."""
        return bool(self._lib.fake_frozen())

    @property
    def runs(self) -> bool:
        """The guest does something."""
        return not self.frozen and not self._lib.fake_paused()

    def told(self) -> tuple[bool, float]:
        """The next of what the news pipe has: frozen or released, and when."""
        frozen, seconds, micro = struct.unpack("3Q", os.read(self.news, 24))
        self.incoming = self.incoming and bool(frozen)
        return bool(frozen), seconds + micro / 1e6

    def call_of(self, hvcpu: int) -> str:
        """The call that waits in the mailbox of an hvCPU: its name, or ""."""
        if hvcpu >= len(self.hvcpus):
            return ""
        return CALLS.get(self._lib.fake_posted(hvcpu), "")

    def wake(self, hvcpu: int) -> None:
        """Wake an hvCPU, if there is such a one and it lives."""
        if self._mute:
            self._missed.add(hvcpu)
        elif 0 <= hvcpu < len(self.hvcpus) and self.hvcpus[hvcpu]["state"] == "added":
            self.hvcpus[hvcpu]["wakes"] += 1
            self._lib.fake_wake(hvcpu)

    def mute(self, on: bool) -> None:
        """From now on no hvCPU wakes; or those do that were woken meanwhile."""
        self._mute = on
        while not on and self._missed:
            self.wake(self._missed.pop())

    def answer_late(self, hvcpu: int, late: Callable[[], None]) -> None:
        """Wake an hvCPU for a call that does not wait for bytes; nobody sees its answer
        before late() has returned."""
        self._lib.fake_withhold(hvcpu)
        self.wake(hvcpu)
        while self._lib.fake_posted(hvcpu) or not self._lib.fake_asleep(hvcpu):
            time.sleep(0.0001)
        late()
        self._lib.fake_hand_out(hvcpu)

    def reset(self) -> bool:
        """The guest resets itself; False when it does not run."""
        return not self._lib.fake_reset()

    def kill_hvcpus(self) -> list[int]:
        """Every parked hvCPU meets a fault that ends it; their numbers."""
        found = [e for e in self.hvcpus if self._state(e) == "parked"]
        for entry in found:
            self._lib.fake_hvcpu(entry["id"], 0)
            entry.update(state="dead", reason="triple fault")
        return [entry["id"] for entry in found]

    # ---- commands --------------------------------------------------------------------

    def commands(self) -> dict[str, Handler]:
        """By their names."""
        return {
            "query-cpc": self._query,
            "cpc-hvcpu-add": self._add,
            "cpc-hvcpu-remove": self._remove,
            "cpc-dirty-log": self._dirty_log,
            "cpc-dirty-sync": self._dirty_sync,
            "cpc-save-device-state": self._save,
            "blockdev-set-active": self._set_active,
            "query-status": self._status,
            "query-memory-size-summary": lambda _: {
                "base-memory": self.config.memory, "plugged-memory": 0,
            },
            "query-cpus-fast": lambda _: [{"cpu-index": i} for i in range(self.config.vcpus)],
            "query-memory-devices": lambda _: [],
            "query-block": lambda _: self._block(),
            "query-block-jobs": lambda _: [],
            "query-migrate": lambda _: {},
            "qom-list": self._qom_list,
            "stop": lambda _: self._pause(1),
            "cont": lambda _: self._pause(0),
            "announce-self": lambda _: {},
        }  # fmt: skip

    def _state(self, entry: dict[str, Any]) -> str:
        if entry["state"] in ("inactive", "dead"):
            return str(entry["state"])
        return "parked" if self._lib.fake_asleep(entry["id"]) else "running"

    def _query(self, _: dict[str, Any]) -> Any:
        header = abi.ImageHeader.from_buffer_copy(self.image)
        return {
            "abi": header.abi,
            "accelerator": "tcg",
            "firmware-version": header.version.decode(),
            "firmware-sha256": hashlib.sha256(self.image).hexdigest(),
            "hvcpu-max": self.config.hvcpu_max,
            "gvcpus": self.config.vcpus,
            "incoming": self.incoming,
            "frozen": self.frozen,
            "isolated": True,
            "dirty-log": self.logging,
            "trusted-bytes": 1 << 22,
            "shm-bytes": os.fstat(self._ring).st_size,  # its name may be gone
            "ring-bytes": self.config.ring_size,
            "max-pages": abi.MAX_PAGES(self.config.max_memory),
            "hvcpus": [{**e, "state": self._state(e), "thread-id": 0} for e in self.hvcpus],
            "regions": [],
        }

    def _block(self) -> Any:
        return [
            {
                "device": "",
                "qdev": f"/machine/peripheral/{name}/virtio-backend",
                "inserted": {
                    "node-name": words["drive"], "file": self.config.files[words["drive"]],
                },
            }
            for name, words in self.config.devices.items()
            if "drive" in words
        ]  # fmt: skip

    def _qom_list(self, arguments: dict[str, Any]) -> Any:
        if arguments["path"] != "/machine/peripheral":
            return []
        return [
            {"name": name, "type": f"child<{words['']}>"}
            for name, words in self.config.devices.items()
        ]

    def _hvcpu(self, number: Any) -> dict[str, Any]:
        if type(number) is not int or not 0 <= number < len(self.hvcpus):
            raise Refused(f"There is no hvCPU {number}")
        return self.hvcpus[number]

    def _add(self, arguments: dict[str, Any]) -> Any:
        free = [e["id"] for e in self.hvcpus if e["state"] == "inactive"]
        if "id" not in arguments and not free:
            raise Refused(f"All {len(self.hvcpus)} hvCPUs of this machine are in use")
        entry = self._hvcpu(arguments.get("id", free[0] if free else None))
        if entry["state"] != "inactive":
            raise Refused(f"hvCPU {entry['id']} is already added")
        entry.update(state="added", wakes=0)
        entry.pop("reason", None)
        self._lib.fake_hvcpu(entry["id"], 1)
        return {**entry, "state": self._state(entry), "thread-id": 0}

    def _remove(self, arguments: dict[str, Any]) -> Any:
        entry = self._hvcpu(arguments["id"])
        state = self._state(entry)
        if state == "inactive":
            raise Refused(f"hvCPU {entry['id']} is not added")
        if state == "running":
            raise Refused(f"hvCPU {entry['id']} is running a call; cancel it first")
        if state == "parked":
            self._lib.fake_hvcpu(entry["id"], 0)
        entry["state"] = "inactive"
        return {}

    def _dirty_log(self, arguments: dict[str, Any]) -> Any:
        self.logging = arguments["enable"]
        self._lib.fake_dirty_log(int(self.logging))
        return {}

    def _dirty_sync(self, _: dict[str, Any]) -> Any:
        found = self._lib.fake_dirty_sync()
        if found < 0:
            raise Refused("The dirty log is off")
        return {"dirty-pages": found}

    def _digest(self, data: bytes) -> str:
        self._lib.fake_devices(hashlib.sha256(data).digest())
        return hashlib.sha256(data).hexdigest()

    def _save(self, _: dict[str, Any]) -> Any:
        if not self.frozen or self.incoming:
            raise Refused("Device state can be saved once the firmware has frozen the guest")
        return {"data": base64.b64encode(DEVICES).decode(), "sha256": self._digest(DEVICES)}

    def load(self, data: bytes, sha256: str) -> Any:
        """cpc-load-device-state, of that file."""
        if not self.frozen or not self.incoming:
            raise Refused(
                "Device state can only be loaded into an incoming guest that has not run"
            )
        if self.loaded:
            raise Refused("Device state has been loaded already")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Refused("Device state has another digest")
        self.loaded = True
        if data != DEVICES:
            raise Refused("Unknown savevm section")
        self._digest(data)
        return {}

    def _set_active(self, arguments: dict[str, Any]) -> Any:
        for disk in self.disks:
            disk.activate(arguments["active"])
        self._lib.fake_disks(int(arguments["active"]))
        return {}

    def _status(self, _: dict[str, Any]) -> Any:
        if self.runs:
            return {"running": True, "status": "running"}
        fresh = self.frozen and self.incoming
        return {"running": False, "status": "prelaunch" if fresh else "paused"}

    def _pause(self, on: int) -> Any:
        if self._lib.fake_pause(on) and not on:
            raise Refused("The guest is frozen; only the firmware can release it")
        return {}
