# SPDX-License-Identifier: Apache-2.0
"""The calls of the firmware's migrate module, typed.

Every function runs one call on an hvCPU and raises what Hvcpu.call raises.
The host relays hellos, confirmations and tokens; it does not read them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

from cpcctl import abi
from cpcctl.config.patience import patient
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.firmware import Hvcpu
from cpcctl.host.shm import Progress

CONFIRMATION_BYTES = 32
TOKEN_BYTES = ctypes.sizeof(abi.Token)
HELLO_BYTES = ctypes.sizeof(abi.Hello)
# Signatures and key agreement on a slow emulated CPU stay far below this.
CALL_SECONDS = patient(30.0)

Cancelled = Callable[[], bool]


@dataclass(frozen=True)
class SessionInfo:
    """What QUERY says. phase, role: abi.PHASE_*, abi.ROLE_*; failure: abi.S_* or 0."""

    phase: int
    role: int
    suite: int
    failure: int
    session: bytes


def query(hvcpu: Hvcpu) -> SessionInfo:
    """Where the firmware's session stands."""
    payload = _call(hvcpu, abi.OP_QUERY, size=ctypes.sizeof(abi.SessionInfo))
    info = abi.SessionInfo.from_buffer_copy(payload)
    return SessionInfo(info.phase, info.role, info.suite, info.failure, bytes(info.session))


def open_session(hvcpu: Hvcpu, role: int, suites: int) -> bytes:
    """OPEN; the hello for the other firmware. Resets every ring."""
    return _call(hvcpu, abi.OP_OPEN, (role, suites), size=HELLO_BYTES)


def accept(hvcpu: Hvcpu, peer_hello: bytes) -> bytes:
    """ACCEPT the other side's hello; the confirmation for it."""
    return _call(hvcpu, abi.OP_ACCEPT, payload=peer_hello, size=CONFIRMATION_BYTES)


def confirm(hvcpu: Hvcpu, peer_confirmation: bytes) -> None:
    """CONFIRM that both sides derived the same keys."""
    _call(hvcpu, abi.OP_CONFIRM, payload=peer_confirmation)


def send(
    hvcpu: Hvcpu, stream: int, streams: int, number: int, flags: int, cancelled: Cancelled,
    timeout: float,
) -> Progress:
    """SEND one round of one stream; returns when its records are in the ring."""
    return hvcpu.call(
        abi.OP_SEND, (stream, streams, number, flags), timeout=timeout, cancelled=cancelled
    ).progress


def recv(hvcpu: Hvcpu, stream: int, cancelled: Cancelled, timeout: float) -> None:
    """RECV one stream to its end."""
    hvcpu.call(abi.OP_RECV, (stream,), timeout=timeout, cancelled=cancelled)


def freeze(hvcpu: Hvcpu) -> None:
    """FREEZE every gvCPU of the source."""
    _call(hvcpu, abi.OP_FREEZE)


def state(hvcpu: Hvcpu, streams: int, cancelled: Cancelled) -> None:
    """STATE: registers and manifest into the ring of stream 0."""
    hvcpu.call(abi.OP_STATE, (streams,), timeout=CALL_SECONDS, cancelled=cancelled)


def prepare(hvcpu: Hvcpu) -> bytes:
    """PREPARE on the destination; its token."""
    return _call(hvcpu, abi.OP_PREPARE, size=TOKEN_BYTES)


def commit(hvcpu: Hvcpu, prepared: bytes) -> bytes:
    """COMMIT on the source, which gives the guest away; the token."""
    return _call(hvcpu, abi.OP_COMMIT, payload=prepared, size=TOKEN_BYTES)


def run(hvcpu: Hvcpu, commit_token: bytes) -> bytes:
    """RUN on the destination; its token."""
    return _call(hvcpu, abi.OP_RUN, payload=commit_token, size=TOKEN_BYTES)


def finish(hvcpu: Hvcpu, running: bytes) -> None:
    """FINISH on the source."""
    _call(hvcpu, abi.OP_FINISH, payload=running)


def abort(hvcpu: Hvcpu) -> bytes:
    """ABORT on the destination, for ever; the token that lets a committed source resume."""
    return _call(hvcpu, abi.OP_ABORT, size=TOKEN_BYTES)


def resume(hvcpu: Hvcpu, abort_token: bytes = b"") -> None:
    """RESUME on the source; needs the abort token after COMMIT."""
    _call(hvcpu, abi.OP_RESUME, payload=abort_token)


def _call(
    hvcpu: Hvcpu, op: int, args: tuple[int, ...] = (), payload: bytes = b"", size: int = 0
) -> bytes:
    reply = hvcpu.call(op, args, payload, timeout=CALL_SECONDS)
    if len(reply.payload) != size:
        raise CpcError(
            f"the firmware answered with {len(reply.payload)} bytes where {size} are due",
            exit_code=ExitCode.UNREACHABLE,
            host=hvcpu.qmp.host,
        )
    return reply.payload
