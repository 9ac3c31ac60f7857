# SPDX-License-Identifier: Apache-2.0
"""Every request of the source, and every answer of the destination. Pure.

Both ends read and write these, and nothing else, so a field that is missing, of
another type or too large is a malformed message on either.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Annotated, Any

from cpcctl import abi
from cpcctl.link.message import (
    Attached,
    Choice,
    Count,
    Data,
    Document,
    Flag,
    Lines,
    Many,
    Message,
    Number,
    Record,
    Request,
    Words,
)
from cpcctl.link.ticket import SECRET_BYTES

# 2: typed messages, attached device state, signs of life from both ends.
PROTOCOL = 2
HOST_MAX = 256
REASON_MAX = 512
WORDS_MAX = 2000
CHECKS_MAX = 64
PATH_MAX = 4096
# 16 disks with 16 backing files each, and what a VM boots from.
FILES_MAX = 320
HVCPUS_MAX = 16
STREAM_TOKEN = Data((32,))
SECRET = Data((SECRET_BYTES,))
HELLO = Data((ctypes.sizeof(abi.Hello),))
CONFIRMATION = Data((32,))
TOKEN = Data((ctypes.sizeof(abi.Token),))
MAYBE_DIGEST = Data((0, 32))
MAYBE_TOKEN = Data((0, ctypes.sizeof(abi.Token)))
# Some kilobytes, of a guest with many devices some hundred.
DEVICES = Attached(16 << 20)
DIGEST = Data((32,))
# A VM's definition, and what its host says of it: names of some hundred CPU features.
DESCRIPTION = Document(values=4096, depth=8)
SPEEDS = Document(values=16, depth=1)
# DestinationFact, but for UNREACHABLE, which is the source's own finding.
FACTS = (
    "NOTHING", "RECEIVING", "PREPARED", "RUNNING", "ABORTED", "ENDED", "FAILED", "DEAD",
    "UNKNOWN",
)


@dataclass(frozen=True)
class Empty(Message):
    """Done, and nothing to say of it."""


@dataclass(frozen=True)
class Helloed(Message):
    """host: the destination's name."""

    host: Annotated[str, Words(HOST_MAX)]
    protocol: Annotated[int, Count(1, 1 << 16)] = 1


@dataclass(frozen=True)
class Hello(Request[Helloed]):
    """The first request. host: the source's name."""

    seconds = 10.0

    host: Annotated[str, Words(HOST_MAX)]
    protocol: Annotated[int, Count(1, 1 << 16)] = 1


@dataclass(frozen=True)
class Time(Message):
    """time: seconds of the destination's clock."""

    time: Annotated[float, Number()]


@dataclass(frozen=True)
class Clock(Request[Time]):
    """What time it is there."""


@dataclass(frozen=True)
class CheckResult(Message):
    """One named check; reason and fix mean something when it is not ok."""

    name: Annotated[str, Words(HOST_MAX)]
    ok: Annotated[bool, Flag()]
    reason: Annotated[str, Lines(WORDS_MAX)] = ""
    fix: Annotated[str, Lines(WORDS_MAX)] = ""


@dataclass(frozen=True)
class Checks(Message):
    """Every check of the destination, in order. digests: files whose digest may prove them."""

    checks: Annotated[tuple[CheckResult, ...], Many(Record(CheckResult), CHECKS_MAX)]
    digests: Annotated[tuple[str, ...], Many(Words(PATH_MAX), FILES_MAX)] = ()


@dataclass(frozen=True)
class FileClaim(Message):
    """How a file of the VM is told from any copy; see sharing.py.

    byte: the one that the source holds locked; 0: its file system has no locks
    digest: SHA-256 of the content, where it was asked for
    """

    path: Annotated[str, Words(PATH_MAX)]
    byte: Annotated[int, Count(0, 1 << 62)]
    digest: Annotated[bytes, MAYBE_DIGEST] = b""


CLAIMS = Many(Record(FileClaim), FILES_MAX)


@dataclass(frozen=True)
class Preflight(Request[Checks]):
    """Could this VM come? spec: its definition; source: facts of its host; files: its files."""

    seconds = 600.0  # it may have to read a kernel and an initrd from slow storage

    spec: Annotated[dict[str, Any], DESCRIPTION]
    source: Annotated[dict[str, Any], DESCRIPTION]
    files: Annotated[tuple[FileClaim, ...], CLAIMS] = ()


@dataclass(frozen=True)
class Launched(Message):
    """What the launched VM has, for parallel.Room, and how fast it opens records.

    hvcpus: how many. cores, idle: of its host. machine: the same on both hosts where
    they are one. opening: bytes a second by suite, as suite_speed.read() takes them.
    secret: in place of the ticket's, which is spent.
    """

    hvcpus: Annotated[int, Count(1, HVCPUS_MAX)]
    cores: Annotated[int, Count(1, 1 << 16)]
    idle: Annotated[float, Number()]
    machine: Annotated[str, Words(HOST_MAX)]
    opening: Annotated[dict[str, Any], SPEEDS]
    secret: Annotated[bytes, SECRET]


@dataclass(frozen=True)
class Prepare(Request[Launched]):
    """Launch QEMU for this VM, to receive it."""

    seconds = 180.0

    spec: Annotated[dict[str, Any], DESCRIPTION]
    source: Annotated[dict[str, Any], DESCRIPTION]
    files: Annotated[tuple[FileClaim, ...], CLAIMS] = ()


@dataclass(frozen=True)
class Shaken(Message):
    """The destination firmware's hello, and its confirmation of the keys."""

    hello: Annotated[bytes, HELLO]
    confirmation: Annotated[bytes, CONFIRMATION]


@dataclass(frozen=True)
class Handshake(Request[Shaken]):
    """The source firmware's hello. suites: mask of those that its side accepts."""

    hello: Annotated[bytes, HELLO]
    suites: Annotated[int, Count(1, (1 << 32) - 1)]


@dataclass(frozen=True)
class StreamTokens(Message):
    """A one-time token for each data stream."""

    tokens: Annotated[tuple[bytes, ...], Many(STREAM_TOKEN, HVCPUS_MAX)]


@dataclass(frozen=True)
class Confirm(Request[StreamTokens]):
    """The source firmware's confirmation. streams: how many will be opened."""

    confirmation: Annotated[bytes, CONFIRMATION]
    streams: Annotated[int, Count(1, HVCPUS_MAX)]


@dataclass(frozen=True)
class Taken(Message):
    """taken: bytes that the destination's firmware has taken out of its rings."""

    taken: Annotated[int, Count(0, 1 << 62)]


@dataclass(frozen=True)
class Watch(Request[Taken]):
    """How far it is; fails with the cause when a stream has failed."""


@dataclass(frozen=True)
class Prepared(Message):
    """PREPARE's token."""

    token: Annotated[bytes, TOKEN]


@dataclass(frozen=True)
class Complete(Request[Prepared]):
    """Take every stream to its end, then the devices, then PREPARE.

    digest: SHA-256 of the devices, by the source's QEMU; its firmware has signed it.
    """

    seconds = 24 * 3600.0  # the last round takes what --max-downtime allows; see Source

    devices: Annotated[bytes, DEVICES]
    digest: Annotated[bytes, DIGEST]


@dataclass(frozen=True)
class Released(Message):
    """RUN's token. released_at: seconds of the destination's clock."""

    token: Annotated[bytes, TOKEN]
    released_at: Annotated[float, Number()]


@dataclass(frozen=True)
class Run(Request[Released]):
    """COMMIT's token: run the guest. May be asked again."""

    token: Annotated[bytes, TOKEN]


@dataclass(frozen=True)
class Fact(Message):
    """fact: one of FACTS; token: ABORT's, where there is one."""

    fact: Annotated[str, Choice(FACTS)]
    token: Annotated[bytes, MAYBE_TOKEN]


@dataclass(frozen=True)
class Query(Request[Fact]):
    """How far the firmware is. Ends the data streams: who asks has stopped sending."""

    seconds = 10.0


@dataclass(frozen=True)
class Aborted(Message):
    """ABORT's token; empty when no session was ever opened."""

    token: Annotated[bytes, MAYBE_TOKEN]


@dataclass(frozen=True)
class Abort(Request[Aborted]):
    """Abort permanently. lost: the source says that the guest is lost there; ended: that
    it ended by itself."""

    reason: Annotated[str, Words(REASON_MAX)]
    lost: Annotated[bool, Flag()] = False
    ended: Annotated[bool, Flag()] = False


@dataclass(frozen=True)
class Done(Request[Empty]):
    """The source needs nothing more."""


REQUESTS: dict[str, type[Request[Any]]] = {
    kind.name: kind
    for kind in (
        Hello, Clock, Preflight, Prepare, Handshake, Confirm, Watch, Complete, Run, Query,
        Abort, Done,
    )
}
