# SPDX-License-Identifier: Apache-2.0
"""Readers of single arguments, for argparse's type=: each option is checked as what it is.

Each raises ArgumentTypeError with what is wrong and what would be right.
"""

from __future__ import annotations

import argparse
import fcntl
import ipaddress
import os
import re
from collections.abc import Callable

from cpcctl.config.settings import ACCELS
from cpcctl.errors import CpcError, ExitCode, quoted, shown

NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?", re.ASCII)
WHOLE = re.compile(r"\d{1,9}", re.ASCII)
# The kernel counts the time-outs of sockets in milliseconds, in 31 bits.
SECONDS_MAX = 1_000_000.0
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
CARD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
TAP = re.compile(r"[A-Za-z0-9_.-]{1,15}")
Wrong = argparse.ArgumentTypeError


def number(what: str, limit: float) -> Callable[[str], float]:
    """A reader of numbers above 0, at most limit. what: of what they are numbers."""

    def read(text: str) -> float:
        value = float(text) if NUMBER.fullmatch(text) else 0.0
        if not 0 < value <= limit:
            raise Wrong(f"{quoted(text)} is not a number of {what} above 0, at most {limit:.0f}")
        return value

    return read


seconds = number("seconds", SECONDS_MAX)
milliseconds = number("milliseconds", SECONDS_MAX)
mebibytes = number("MiB per second", 1e6)


def waiting(text: str) -> float:
    """Seconds for an option that waits for ever when it is left out."""
    if text.lower().lstrip("+") in ("inf", "infinity", "ever", "forever"):
        raise Wrong(f"{quoted(text)} is not a number of seconds; leave it out for no limit")
    return seconds(text)


def whole(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers in low..high."""

    def read(text: str) -> int:
        value = int(text) if WHOLE.fullmatch(text) else -1
        if not low <= value <= high:
            raise Wrong(f"{quoted(text)} is not a whole number from {low} to {high}")
        return value

    return read


def host(text: str) -> str:
    """A name or an address that another host connects to, an IPv6 one with or without brackets."""
    found = _host(text)
    if found in ("0.0.0.0", "::"):
        raise Wrong(
            f"{quoted(text)} means every address of this host; name one that the source reaches"
        )
    return found


def listen(text: str) -> tuple[str, int]:
    """HOST:PORT to listen on; port 0 is any free one."""
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]+):(\d{1,5})", text, re.ASCII)
    if match is None:
        if ":" not in text:
            raise Wrong(f"{quoted(text)} has no port; port 0 is any free one")
        if text.count(":") > 1 and not re.fullmatch(r"\[[^\]]*\]:.*", text):
            raise Wrong(f"{quoted(text)} is not HOST:PORT; an IPv6 address is in brackets: [::1]:0")
        raise Wrong(f"{quoted(text)} is not HOST:PORT")
    port = int(match[2])
    if port > 65535:
        raise Wrong(f"port {port} does not exist; the last one is 65535")
    return _host(match[1]), port


def any_address(named: str | None) -> str:
    """Where to listen so that what is named to the source leads here."""
    return "::" if named is not None and ":" in named else "0.0.0.0"


def reachable(host: str, named: str | None) -> None:
    """:raise CpcError: (2) what is named to the source is of another family than where we listen.

    A name says nothing of its family, and [::] takes both.
    """
    if named is None or host == "::" or not (_address(host) and _address(named)):
        return
    if (":" in host) != (":" in named):
        raise CpcError(
            f"--address {named} does not lead to --listen {host}: one is IPv6, the other is not",
            exit_code=ExitCode.USAGE,
            hint=f"--listen {f'[{named}]' if ':' in named else named}:0",
        )


def _address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _host(text: str) -> str:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in inner or inner != text:
        if "%" in inner:
            raise Wrong(f"{quoted(text)} has a zone, which means nothing to another host")
        try:
            return str(ipaddress.IPv6Address(inner))
        except ValueError:
            before, _, port = text.rpartition(":")
            if port.isdigit() and (before[:1] + before[-1:] == "[]" or ":" not in before):
                raise Wrong(
                    f"{quoted(text)} has a port, which the option --listen sets; "
                    f"name {shown(before, 80)} alone"
                ) from None
            raise Wrong(f"{quoted(text)} is neither a host name nor an address") from None
    if re.fullmatch(r"[0-9.]+", text, re.ASCII):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise Wrong(f"{quoted(text)} is not an IPv4 address") from None
    if not NAME.fullmatch(text):
        raise Wrong(f"{quoted(text)} is neither a host name nor an address")
    return text


def card(text: str) -> tuple[str, str]:
    """NAME=TAP: which tap a network card of the VM gets here."""
    name, sign, tap = text.partition("=")
    if not sign:
        raise Wrong(f"{quoted(text)} is not NAME=TAP, such as net0=tap0")
    if not CARD.fullmatch(name):
        raise Wrong(f"{quoted(text)} names no network card before '='; NAME=TAP, such as net0=tap0")
    if not TAP.fullmatch(tap):
        raise Wrong(
            f"{quoted(tap)} cannot be the name of a tap: 1 to 15 letters, digits, '.', '_', '-'"
        )
    return name, tap


def port(text: str) -> str:
    """PROTOCOL:ADDRESS:PORT of this host, the address written out."""
    from cpcctl.migrate import network

    found = network.port(text)
    if found is None:
        raise Wrong(
            f"{quoted(text)} is not PROTOCOL:ADDRESS:PORT, such as tcp:127.0.0.1:2222; "
            "no address means all"
        )
    return found


def folder(text: str) -> str:
    """A folder of this host, by its absolute path; ':' would separate two of them."""
    if not text.startswith("/"):
        raise Wrong(f"{quoted(text)} is not an absolute path")
    if ":" in text or not text.isprintable():
        raise Wrong(f"{quoted(text)} has a character that such a path cannot have")
    if not os.path.isdir(text):
        words = shown(text)
        raise Wrong(f"there is no folder {words}" if not os.path.lexists(text)
                    else f"{words} is not a folder")
    return text


def allowed(setting: str) -> None:
    """:raise CpcError: (2) the setting allow_paths names what --allow-path would not take."""
    for word in filter(None, setting.split(":")):
        try:
            folder(word)
        except Wrong as wrong:
            raise CpcError(
                f"allow_paths: {wrong}",
                exit_code=ExitCode.USAGE,
                hint="set allow_paths, in config.yaml or as CPCCTL_ALLOW_PATHS, to folders of "
                "this host",
            ) from None


def descriptor(text: str) -> int:
    """A file descriptor that this process was given to write to."""
    number = whole(3, 1 << 20)(text)
    try:
        mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        raise Wrong(f"no file descriptor {number} is open") from None
    if mode == os.O_RDONLY:  # a folder is never open otherwise
        raise Wrong(f"file descriptor {number} is not open for writing")
    return number


def path(text: str) -> str:
    """A path of this host, not empty: that would mean the current folder."""
    if not text or not text.isprintable():
        raise Wrong(f"{quoted(text)} is not a path")
    return text


def accel(parser: argparse.ArgumentParser, before: str = "") -> None:
    """The flag --accel of a verb that starts VMs; args.accel is None without it.

    before: what counts before the setting, for the help.
    """
    parser.add_argument(
        "--accel",
        choices=ACCELS,
        help=f"accelerator for VMs (default: {before}the setting accel, else auto: KVM where it "
        "works)",
    )
