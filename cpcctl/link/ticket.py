# SPDX-License-Identifier: Apache-2.0
"""The one-time ticket that `receive` prints and `migrate` is given.

    cpc1:HOST:PORT:FINGERPRINT:SECRET

HOST is a name, an IPv4 address or an IPv6 address in brackets. FINGERPRINT is
the SHA-256 of the destination's certificate and SECRET 32 random bytes, both
in unpadded base64url. Whoever holds the ticket may send one VM, so it is shown
once and never logged; `Ticket` hides the secret in its repr.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, field

from cpcctl.errors import CpcError, ExitCode, quoted

SECRET_BYTES = 32
FINGERPRINT_BYTES = 32
MAX_TEXT = 400

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\Z")
_TEXT = re.compile(
    r"cpc1:(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):(?P<port>[1-9][0-9]{0,4})"
    r":(?P<fingerprint>[A-Za-z0-9_-]{43}):(?P<secret>[A-Za-z0-9_-]{43})\Z"
)


@dataclass(frozen=True)
class Ticket:
    """Where the destination listens, how to know it, and what proves the bearer."""

    host: str
    port: int
    fingerprint: bytes
    secret: bytes = field(repr=False)

    def text(self) -> str:
        """The ticket as it is printed. Contains the secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"cpc1:{host}:{self.port}:{_encode(self.fingerprint)}:{_encode(self.secret)}"

    @property
    def address(self) -> str:
        """HOST:PORT for messages; no secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse(text: str) -> Ticket:
    """Read a ticket. :raise CpcError: (exit 2) for anything that is not exactly one."""
    if len(text) > MAX_TEXT:
        raise _bad("it is too long")
    match = _TEXT.match(text.strip())
    if match is None:
        raise _bad("it does not look like cpc1:HOST:PORT:FINGERPRINT:SECRET")
    host = check_host(match["host"])
    port = int(match["port"])
    if port > 65535:
        raise _bad(f"port {port} does not exist")
    return Ticket(host, port, _decode(match["fingerprint"]), _decode(match["secret"]))


def check_host(text: str) -> str:
    """A host without brackets. :raise CpcError: (exit 2) when it is none."""
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise _bad(f"{text} is not an IPv6 address") from None
    if not _NAME.match(text):
        raise _bad(f"{quoted(text)} is not a host name")
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise _bad(f"{text} is not an IPv4 address") from None
    return text


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    data = base64.urlsafe_b64decode(text + "=")
    if _encode(data) != text:  # two spellings of one ticket would be one too many
        raise _bad("its last characters are not canonical")
    return data


def _bad(why: str) -> CpcError:
    return CpcError(
        f"that is not a ticket: {why}",
        exit_code=ExitCode.USAGE,
        hint="run `cpcctl receive` on the destination, and give the line that it prints to "
        "`cpcctl migrate VM -`",
    )
