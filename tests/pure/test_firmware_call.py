# SPDX-License-Identifier: Apache-2.0
"""Calls on an hvCPU: a thread plays the firmware on the other end of the file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cpcctl import abi
from cpcctl.errors import CpcError
from cpcctl.host import firmware
from cpcctl.host.firmware import Hvcpu
from cpcctl.host.qmp import Qmp
from cpcctl.host.shm import CallError, Layout, RingFile, doorbell


class FakeFirmware:
    """Runs one function a call, in a thread, as an hvCPU does.

    script(words) gets accessors to the mailbox; it returns (status, reply).
    """

    def __init__(self, path: Path, server: Any) -> None:
        self.rings = RingFile.open(path)
        self.box = self.rings.mailbox(0)
        self.ring = self.rings.ring(0)
        self.woken = threading.Event()
        self.script: Callable[[FakeFirmware], tuple[int, bytes]] = lambda _: (abi.S_OK, b"")
        self.hvcpu_state = "parked"
        self._ended = False
        self._bell = os.open(doorbell(path), os.O_RDWR)
        server.handlers["query-cpc"] = lambda _: {
            "hvcpus": [{"id": 0, "state": self.hvcpu_state, "reason": "triple fault"}]
        }
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """As QEMU does; 255 is nobody's number and ends it."""
        while (rung := os.read(self._bell, 1)) != b"\xff":
            if rung == b"\0":
                self.woken.set()

    def park(self, state: int = abi.STATE_PARKED) -> None:
        """Sleep until woken, as the MMIO write does."""
        self.box._word("state", state)
        self.woken.wait(20)
        self.woken.clear()
        self.box._word("state", abi.STATE_RUNNING)

    @property
    def cancelled(self) -> bool:
        """The host asked this call to end."""
        return self.box._word("cancel") == self.box.request

    def _run(self) -> None:
        while True:
            self.park()
            if self._ended:
                return
            if not self.box.pending:
                continue
            status, reply = self.script(self)
            start = self.box._base + abi.Mailbox.payload.offset
            self.box._raw[start : start + len(reply)] = reply
            self.box._word("reply_size", len(reply))
            self.box._word("status", status)
            self.box._word("done", self.box.request)

    def end(self) -> None:
        """Stop the thread."""
        self._ended = True
        self.woken.set()
        os.write(self._bell, b"\xff")
        for thread in (self._thread, self._listener):
            thread.join(5)
            assert not thread.is_alive()
        os.close(self._bell)
        self.rings.close()


@pytest.fixture
def fake(tmp_path: Path, qmp_server: Any) -> Iterator[FakeFirmware]:
    """A firmware with a mailbox and a QMP server that wakes it."""
    path = tmp_path / "ring"
    RingFile.create(path, Layout.of(1, abi.RING_MIN, 64 << 20)).close()
    made = FakeFirmware(path, qmp_server)
    yield made
    made.end()


@pytest.fixture
def hvcpu(fake: FakeFirmware, qmp_server: Any, tmp_path: Path) -> Iterator[Hvcpu]:
    """The controller's side."""
    with Qmp.connect(qmp_server.path) as qmp, RingFile.open(tmp_path / "ring") as rings:
        yield Hvcpu(qmp, rings, 0)


def ping_reply(_: FakeFirmware) -> tuple[int, bytes]:
    reply = abi.PingReply(abi=abi.ABI_VERSION, suites=0b10, platform=1, calls=3, version=b"9.9")
    return abi.S_OK, bytes(reply)


def test_ping(fake: FakeFirmware, hvcpu: Hvcpu) -> None:
    fake.script = ping_reply
    for _ in range(20):
        found = hvcpu.ping()
    assert (found.version, found.suites, found.platform) == ("9.9", ["aegis-128l"], "plain")


def test_ping_refuses_another_abi(fake: FakeFirmware, hvcpu: Hvcpu) -> None:
    fake.script = lambda _: (abi.S_OK, bytes(abi.PingReply(abi=abi.ABI_VERSION + 1)))
    other, ours = abi.ABI_VERSION + 1, abi.ABI_VERSION
    with pytest.raises(CpcError, match=f"the firmware speaks ABI {other}, this controller {ours}"):
        hvcpu.ping()


def test_ping_refuses_a_short_answer(fake: FakeFirmware, hvcpu: Hvcpu) -> None:
    with pytest.raises(CpcError, match="short answer"):
        hvcpu.ping()


def test_a_status_becomes_an_error_and_the_next_call_works(
    fake: FakeFirmware, hvcpu: Hvcpu
) -> None:
    fake.script = lambda _: (abi.S_WRONG_PHASE, b"")
    with pytest.raises(CallError) as caught:
        hvcpu.call(abi.OP_FREEZE)
    assert caught.value.status == abi.S_WRONG_PHASE
    fake.script = ping_reply
    hvcpu.ping()


def test_an_export_through_a_small_ring(fake: FakeFirmware, hvcpu: Hvcpu) -> None:
    total = 5 * abi.RING_MIN + 123

    def export(me: FakeFirmware) -> tuple[int, bytes]:
        left = total
        while left:
            while not me.ring.free:
                me.park(abi.STATE_YIELDED)
            room = me.ring.writable(left)
            room[:] = b"x" * len(room)
            me.ring.produce(len(room))
            left -= len(room)
        return abi.S_OK, b""

    received = 0

    def drain() -> bool:
        nonlocal received
        piece = hvcpu.ring.readable()
        received += len(piece)
        hvcpu.ring.consume(len(piece))
        return hvcpu.ring.free > 0

    fake.script = export
    hvcpu.call(abi.OP_SEND, pump=drain)
    while hvcpu.ring.used:
        drain()
    assert received == total


def wait_for_cancel(me: FakeFirmware) -> tuple[int, bytes]:
    while not me.cancelled:
        me.park(abi.STATE_YIELDED)
    return abi.S_CANCELLED, b""


def test_a_timeout_cancels_and_frees_the_hvcpu(fake: FakeFirmware, hvcpu: Hvcpu) -> None:
    fake.script = wait_for_cancel
    with pytest.raises(CpcError) as caught:
        hvcpu.call(abi.OP_RECV, timeout=0.1)
    assert caught.value.exit_code == 6
    assert "call RECV on hvCPU 0 took longer than 0.1 s" in caught.value.message
    fake.script = ping_reply
    hvcpu.ping()


def test_the_caller_cancels(fake: FakeFirmware, hvcpu: Hvcpu) -> None:
    fake.script = wait_for_cancel
    with pytest.raises(CallError) as caught:
        hvcpu.call(abi.OP_RECV, cancelled=lambda: True)
    assert caught.value.status == abi.S_CANCELLED


def test_an_exception_in_the_pump_cancels_and_goes_through(
    fake: FakeFirmware, hvcpu: Hvcpu
) -> None:
    def broken() -> bool:
        raise ConnectionResetError("the wire broke")

    fake.script = wait_for_cancel
    with pytest.raises(ConnectionResetError):
        hvcpu.call(abi.OP_RECV, pump=broken)
    assert not hvcpu.mailbox.pending


def test_a_dead_hvcpu_is_noticed_by_its_event(
    fake: FakeFirmware, hvcpu: Hvcpu, qmp_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firmware, "HEALTH_EVERY", 1000.0)
    monkeypatch.setattr(firmware, "CANCEL_GRACE", 0.1)

    def die(me: FakeFirmware) -> tuple[int, bytes]:
        me.hvcpu_state = "dead"
        qmp_server.event("CPC_HVCPU_DEAD", id=0, reason="triple fault")
        me.woken.wait(20)
        return abi.S_OK, b""

    fake.script = die
    with pytest.raises(CpcError) as caught:
        hvcpu.call(abi.OP_PING)
    assert caught.value.exit_code == 4
    assert caught.value.message == "hvCPU 0 is dead"
    assert caught.value.cause == "triple fault"


def test_a_dead_hvcpu_is_noticed_without_an_event(
    fake: FakeFirmware, hvcpu: Hvcpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firmware, "HEALTH_EVERY", 0.05)
    monkeypatch.setattr(firmware, "CANCEL_GRACE", 0.1)
    fake.hvcpu_state = "inactive"
    fake.script = wait_for_cancel
    with pytest.raises(CpcError, match="hvCPU 0 is inactive"):
        hvcpu.call(abi.OP_PING)


def test_a_dead_qemu_is_noticed(fake: FakeFirmware, hvcpu: Hvcpu, qmp_server: Any) -> None:
    def die(me: FakeFirmware) -> tuple[int, bytes]:
        qmp_server.die()
        me.woken.wait(20)
        return abi.S_OK, b""

    fake.script = die
    with pytest.raises(CpcError) as caught:
        hvcpu.call(abi.OP_PING, timeout=20)
    assert caught.value.exit_code == 4


def test_settling_ends_the_call_of_a_dead_controller(fake: FakeFirmware, hvcpu: Hvcpu) -> None:
    fake.script = wait_for_cancel
    hvcpu.mailbox.post(abi.OP_RECV)
    hvcpu.wake()
    with pytest.raises(CpcError) as caught:
        hvcpu.call(abi.OP_PING)
    assert caught.value.exit_code == 75
    hvcpu.settle()
    fake.script = ping_reply
    hvcpu.ping()
    hvcpu.settle()
