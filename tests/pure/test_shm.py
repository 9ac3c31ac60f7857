# SPDX-License-Identifier: Apache-2.0
"""The ring file: layout, mailbox words, byte rings, damage."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from cpcctl import abi
from cpcctl.abi_status import hardware, platform_call
from cpcctl.errors import CpcError
from cpcctl.host.shm import CallError, Layout, RingFile

SMALL = Layout.of(2, abi.RING_MIN, 64 << 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a ring file goes."""
    return tmp_path / "ring"


def test_layout_is_that_of_the_header() -> None:
    found = Layout.of(4, 8 << 20, 2 << 30)
    assert found.bitmap_bytes == abi.MAX_PAGES(2 << 30) // 8 == 81920
    assert found.data_offset == 2 << 20
    assert found.size == (2 << 20) + 4 * (8 << 20)


@pytest.mark.parametrize(("count", "size"), [(0, 2 << 20), (17, 2 << 20), (1, 1 << 20),
                                             (1, 3 << 20), (1, 128 << 20)])
def test_layouts_that_cannot_be(count: int, size: int) -> None:
    with pytest.raises(ValueError):
        Layout.of(count, size, 64 << 20)


def test_created_files_open_again(path: Path) -> None:
    RingFile.create(path, SMALL).close()
    assert path.stat().st_size == SMALL.size
    assert path.stat().st_mode & 0o777 == 0o600
    with RingFile.open(path) as rings:
        assert rings.layout == SMALL


def test_an_existing_file_is_not_overwritten(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(CpcError):
        RingFile.create(path, SMALL)
    assert path.read_text() == "mine"


def test_no_room_is_said_and_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(CpcError) as caught:
        RingFile.create(path, SMALL)
    assert caught.value.exit_code == 3
    assert "no room for the ring file" in caught.value.message
    assert not path.exists()


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(CpcError) as caught:
        RingFile.open(path)
    assert caught.value.exit_code == 4
    assert "No such file" in (caught.value.cause or "")


@pytest.mark.parametrize("damage", [
    b"", b"short", bytes(4096),
    bytes(abi.ShmHeader(magic=abi.SHM_MAGIC, abi=99, hvcpu_max=1, ring_size=2 << 20)),
    bytes(abi.ShmHeader(magic=abi.SHM_MAGIC, abi=1, hvcpu_max=1 << 31, ring_size=1 << 63)),
    bytes(SMALL.header()),
])
def test_damaged_files_are_refused(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    with pytest.raises(CpcError) as caught:
        RingFile.open(path)
    assert caught.value.exit_code == 4


def as_struct(path: Path, hvcpu: int) -> abi.Mailbox:
    data = path.read_bytes()
    return abi.Mailbox.from_buffer_copy(data, abi.SHM_MAILBOX + hvcpu * abi.PAGE_SIZE)


def test_a_posted_call_is_what_the_firmware_reads(path: Path) -> None:
    with RingFile.create(path, SMALL) as rings:
        box = rings.mailbox(1)
        assert box.post(abi.OP_SEND, (1, 2, 3, 1 << 63), b"hello") == 1
        assert box.pending
        seen = as_struct(path, 1)
    assert (seen.request, seen.op, seen.payload_size) == (1, abi.OP_SEND, 5)
    assert list(seen.arg) == [1, 2, 3, 1 << 63, 0, 0]
    assert bytes(seen.payload[:5]) == b"hello"


def test_only_one_call_at_a_time(path: Path) -> None:
    with RingFile.create(path, SMALL) as rings:
        rings.mailbox(0).post(abi.OP_PING)
        with pytest.raises(CpcError) as caught:
            rings.mailbox(0).post(abi.OP_PING)
        assert caught.value.exit_code == 75
        rings.mailbox(1).post(abi.OP_PING)


def test_what_an_hvcpu_died_of_is_no_call_to_its_next_life(path: Path) -> None:
    """Whatever number stands there, the rest is harmless as well."""
    RingFile.create(path, SMALL).close()
    with RingFile.open(path) as rings:
        box = rings.mailbox(0)
        box.post(abi.OP_SEND, (1,), b"payload")
        box.retract()
        assert not box.pending
        assert (box._word("op"), box._word("payload_size")) == (0, 0)
        # A number that is used again would be the call that it died of, and is cancelled.
        assert box.post(abi.OP_PING) == 2


def test_too_much_for_a_mailbox(path: Path) -> None:
    with RingFile.create(path, SMALL) as rings:
        with pytest.raises(ValueError):
            rings.mailbox(0).post(1, (0,) * 7)
        with pytest.raises(ValueError):
            rings.mailbox(0).post(1, (), bytes(abi.PAYLOAD_MAX + 1))
        assert not rings.mailbox(0).pending


def write(path: Path, hvcpu: int, box: abi.Mailbox) -> None:
    with path.open("r+b") as file:
        file.seek(abi.SHM_MAILBOX + hvcpu * abi.PAGE_SIZE)
        file.write(bytes(box))


def test_a_reply_is_copied_and_its_size_bounded(path: Path) -> None:
    with RingFile.create(path, SMALL) as rings:
        box = abi.Mailbox(done=1, status=abi.S_WIRE_TAG, reply_size=1 << 31, pages=7, bytes=9)
        box.result[2] = 5
        write(path, 0, box)
        reply = rings.mailbox(0).reply()
    assert len(reply.payload) == abi.PAYLOAD_MAX
    assert (reply.status, reply.result[2]) == (abi.S_WIRE_TAG, 5)
    assert (reply.progress.pages, reply.progress.bytes) == (7, 9)


def test_call_errors_name_the_status(path: Path) -> None:
    with RingFile.create(path, SMALL) as rings:
        box = abi.Mailbox(status=abi.S_FAULT)
        box.fault[0], box.fault[1], box.fault[2] = 14, 0x100010, 0xDEAD
        write(path, 0, box)
        error = CallError(3, abi.OP_SEND, rings.mailbox(0).reply(), "host-b")
    assert error.render() == (
        "error: call SEND on hvCPU 3 failed\n"
        "  cause (host-b): FAULT (600): the firmware met an exception, "
        "vector 14 at 0x100010, address 0xdead"
    )
    assert (error.name, error.status) == ("FAULT", 600)


def test_platform_errors_name_the_call(path: Path) -> None:
    with RingFile.create(path, SMALL) as rings:
        box = abi.Mailbox(status=abi.S_PLATFORM)
        box.result[0], box.result[1] = abi.PCALL_FREEZE, abi.P_BAD_STATE
        write(path, 0, box)
        error = CallError(0, 0x99999, rings.mailbox(0).reply())
    assert error.message == "call 0x99999 on hvCPU 0 failed"
    assert error.cause == "PLATFORM (500): the platform refused, FREEZE BAD_STATE (5, 2)"
    assert platform_call(abi.PCALL_GVCPU, abi.P_BAD_STATE).endswith("in this moment, try again")
    assert platform_call(99, 98) == "UNKNOWN UNKNOWN (99, 98)"


def test_hardware_errors_name_what_was_asked(path: Path) -> None:
    with RingFile.create(path, SMALL) as rings:
        box = abi.Mailbox(status=abi.S_HARDWARE)
        box.result[0], box.result[1] = 2, 3
        write(path, 0, box)
        error = CallError(0, abi.OP_FREEZE, rings.mailbox(0).reply())
    assert error.cause is not None and error.cause.endswith(", RMPADJUST (2, 0x3)")
    assert hardware(8, 0x100).endswith("is not a save area")
    assert hardware(1, 0x100).startswith("PVALIDATE (1, 0x100): the page was in that state")
    assert hardware(99, 0) == "UNKNOWN (99, 0x0)"


def test_bytes_go_through_a_ring_and_wrap(path: Path) -> None:
    with RingFile.create(path, SMALL) as rings:
        ring = rings.ring(1)
        assert (ring.used, ring.free) == (0, abi.RING_MIN)
        sent, received = bytearray(), bytearray()
        for turn in range(7):
            room = ring.writable(abi.RING_MIN // 3 + turn)
            block = bytes([turn]) * len(room)
            room[:] = block
            sent += block
            ring.produce(len(room))
            while ring.used:
                piece = ring.readable(100_000)
                received += piece
                ring.consume(len(piece))
        assert sent == received
        assert ring.head == ring.tail == len(sent) > abi.RING_MIN
        assert rings.ring(0).head == 0


def test_a_ring_is_where_the_header_says(path: Path) -> None:
    with RingFile.create(path, SMALL) as rings:
        rings.ring(1).writable(4)[:] = b"abcd"
        rings.ring(1).produce(4)
    data = path.read_bytes()
    header = abi.ShmHeader.from_buffer_copy(data)
    assert data[header.data_offset + header.ring_size :][:4] == b"abcd"
    ring = abi.Ring.from_buffer_copy(data, abi.SHM_RING + abi.PAGE_SIZE)
    assert (ring.head, ring.tail) == (4, 0)


@pytest.mark.parametrize(("head", "tail"), [(0, 1), (abi.RING_MIN + 1, 0), (1 << 63, 0)])
def test_counters_that_cannot_be(path: Path, head: int, tail: int) -> None:
    with RingFile.create(path, SMALL) as rings:
        with path.open("r+b") as file:
            file.seek(abi.SHM_RING)
            file.write(bytes(abi.Ring(head=head, tail=tail)))
        ring = rings.ring(0)
        for look in (lambda: ring.used, lambda: ring.free, ring.readable, ring.writable):
            with pytest.raises(CpcError, match="counters are not possible"):
                look()


def test_a_caller_cannot_overrun(path: Path) -> None:
    with RingFile.create(path, SMALL) as rings:
        for count in (-1, abi.RING_MIN + 1):
            with pytest.raises(ValueError):
                rings.ring(0).produce(count)
        with pytest.raises(ValueError):
            rings.ring(0).consume(1)


def test_words_are_aligned() -> None:
    for structure in (abi.Mailbox, abi.Ring):
        assert ctypes.sizeof(structure) <= abi.PAGE_SIZE
    assert abi.Mailbox.arg.offset % 8 == abi.Mailbox.result.offset % 8 == 0
    assert abi.Ring.head.offset % 64 == abi.Ring.tail.offset % 64 == 0
