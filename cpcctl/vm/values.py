# SPDX-License-Identifier: Apache-2.0
"""Readers of single values in a VM definition. Each raises CpcError (2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cpcctl.config.plain import Plain
from cpcctl.config.settings import unknown_key
from cpcctl.errors import CpcError, ExitCode, quoted

SIZE = re.compile(r"([1-9]\d{0,11})([KMGT])(?:i?B)?")
SHIFTS = {"K": 10, "M": 20, "G": 30, "T": 40}
MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
Reader = Callable[[str, Any], Any]
T = TypeVar("T")


def refused(where: str, why: str) -> CpcError:
    """A value that cannot be used."""
    return CpcError(f"{where}: {why}", exit_code=ExitCode.USAGE)


def size(where: str, value: Any) -> int:
    """Bytes of "512M" or "2GiB"; a bare number is refused, as its unit is a guess."""
    match = SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise refused(where, f"{quoted(value)} is not a size such as 512M or 2G")
    return int(match[1]) << SHIFTS[match[2]]


def text_size(count: int) -> str:
    """The shortest text that size() reads back as `count` (a multiple of 1 KiB)."""
    for unit in "TGM":
        if count % (1 << SHIFTS[unit]) == 0:
            return f"{count >> SHIFTS[unit]}{unit}"
    return f"{count >> 10}K"


WHOLE = re.compile(r"0|[1-9][0-9]{0,19}|0x[0-9a-fA-F]{1,16}")
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def integer(low: int, high: int) -> Reader:
    """A reader of whole numbers in low..high."""

    def read(where: str, value: Any) -> int:
        found = value
        if isinstance(value, Plain) and WHOLE.fullmatch(value):
            found = int(value, 0)
        if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
            raise refused(where, f"{quoted(value)} is not a whole number in {low}..{high}")
        return found

    return read


def text(where: str, value: Any) -> str:
    """A text of one line, not empty."""
    if not isinstance(value, str) or not value or not value.isprintable() or len(value) > 4096:
        raise refused(where, f"{quoted(value)} is not a one-line string")
    return str(value)


def path(where: str, value: Any) -> str:
    """An absolute path: the other host has no idea of our current folder."""
    found = text(where, value)
    if not found.startswith("/"):
        raise refused(where, f"{quoted(value)} is not an absolute path")
    return found


def boolean(where: str, value: Any) -> bool:
    """true or false."""
    if isinstance(value, Plain) and value.lower() in BOOLEANS:
        return BOOLEANS[value.lower()]
    if not isinstance(value, bool):
        raise refused(where, f"{quoted(value)} is neither true nor false")
    return value


def choice(*allowed: str) -> Reader:
    """A reader of one of a few words."""

    def read(where: str, value: Any) -> str:
        if value not in allowed or not isinstance(value, str):
            raise refused(where, f"{quoted(value)} is not one of {', '.join(allowed)}")
        return str(value)

    return read


def mac(where: str, value: Any) -> str:
    """A unicast MAC address."""
    if not isinstance(value, str) or not MAC.fullmatch(value) or int(value[1], 16) & 1:
        raise refused(where, f"{quoted(value)} is not a unicast MAC address")
    return value.lower()


def listed(read: Reader, limit: int) -> Reader:
    """A reader of lists."""

    def read_all(where: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) > limit:
            raise refused(where, f"must be a list of at most {limit}")
        return tuple(read(f"{where}[{index}]", entry) for index, entry in enumerate(value))

    return read_all


def keys(
    where: str, document: Any, readers: Mapping[str, Reader], need: set[str]
) -> dict[str, Any]:
    """Read a mapping: no unknown key, none of `need` missing."""
    if not isinstance(document, dict):
        raise refused(where, "must be keys and values")
    found = {}
    for key, value in document.items():
        if key not in readers:
            raise unknown_key(where, key if isinstance(key, str) else quoted(key), readers)
        found[key] = readers[key](f"{where}: {key}", value)
    for key in sorted(need - set(found)):
        raise refused(where, f"{key} is missing")
    return found
