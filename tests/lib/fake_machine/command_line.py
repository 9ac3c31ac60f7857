# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line, as far as the fake machine looks at it."""

from __future__ import annotations

import json


class Config:
    """What a command line says. Sizes in bytes.

    disks: file of each block node that writes, and whether it is active
    files: block node to its file; devices: id to type and settings
    """

    def __init__(self) -> None:
        self.firmware = self.ring = self.doorbell = ""
        self.ring_size = self.memory = self.max_memory = 0
        self.vcpus = self.max_vcpus = self.hvcpu_max = 1
        self.incoming = False
        self.disks: dict[str, bool] = {}
        self.files: dict[str, str] = {}
        self.devices: dict[str, dict[str, str]] = {}


def options(text: str) -> dict[str, str]:
    """KEY=VALUE,... with ",," for a comma; the first may be a bare word, under ""."""
    words = text.replace(",,", "\0").split(",")
    pairs = [word.replace("\0", ",").partition("=") for word in words]
    return {key if mark else "": value if mark else key for key, mark, value in pairs}


def values(argv: list[str], flag: str) -> list[str]:
    """What follows each use of a flag."""
    return [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == flag]


def read(argv: list[str]) -> Config:
    """The machine that is asked for."""
    found = Config()
    for flag in ("-machine", "-m", "-smp", "-object", "-device"):
        for text in values(argv, flag):
            _read(found, flag, options(text))
    for text in values(argv, "-blockdev"):
        node = json.loads(text)
        below = node.get("file", "")
        found.files[node["node-name"]] = node.get("filename") or found.files[below]
        if "filename" in node and not node.get("read-only"):
            found.disks[node["filename"]] = node.get("active", True)
    return found


def _read(found: Config, flag: str, words: dict[str, str]) -> None:
    if flag == "-machine":
        found.hvcpu_max = int(words["hvcpu-max"])
    elif flag == "-m":
        found.memory = _bytes(words["size"])
        found.max_memory = _bytes(words.get("maxmem", words["size"]))
    elif flag == "-smp":
        found.vcpus, found.max_vcpus = int(words["cpus"]), int(words["maxcpus"])
    elif flag == "-object" and words.get("id") == "cpc-shm":
        found.ring = words["mem-path"]
    elif flag == "-device":
        found.devices[words["id"]] = words
        if words[""] == "cpc":
            found.firmware, found.ring_size = words["firmware"], int(words["ring-size"])
            found.doorbell = words["doorbell"]
            found.incoming = words.get("incoming") == "on"


def _bytes(text: str) -> int:
    return int(text[:-1]) << 20 if text.endswith("M") else int(text)
