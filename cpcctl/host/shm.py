# SPDX-License-Identifier: Apache-2.0
"""The ring file: mailboxes, byte rings and the dirty hint, shared with QEMU.

Head, tail and the mailbox words are read and written as single aligned loads
and stores (memoryviews cast to the word size). x86 keeps stores in order, so
a counter written after its bytes is never seen before them.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cpcctl import abi
from cpcctl.abi_status import NAMES, OP_NAMES, describe, hardware, platform_call
from cpcctl.errors import CpcError, ExitCode, reason


@dataclass(frozen=True)
class Layout:
    """Sizes of a ring file, all in bytes but hvcpu_max."""

    hvcpu_max: int
    ring_size: int
    bitmap_bytes: int

    @classmethod
    def of(cls, hvcpu_max: int, ring_size: int, max_memory: int) -> Layout:
        """The layout of a machine with that much maximum RAM."""
        if not 1 <= hvcpu_max <= abi.HVCPU_LIMIT:
            raise ValueError(f"hvcpu_max {hvcpu_max} is not in 1..{abi.HVCPU_LIMIT}")
        if not abi.RING_MIN <= ring_size <= abi.RING_MAX or ring_size & (ring_size - 1):
            raise ValueError(f"ring size {ring_size} is not a power of two in 2M..64M")
        return cls(hvcpu_max, ring_size, abi.MAX_PAGES(max_memory) // 8)

    @property
    def data_offset(self) -> int:
        """Where hvCPU 0's data ring begins."""
        end = abi.SHM_BITMAP + self.bitmap_bytes
        return -(-end // abi.SHM_ALIGN) * abi.SHM_ALIGN

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.data_offset + self.hvcpu_max * self.ring_size

    def header(self) -> abi.ShmHeader:
        """What the first page says."""
        return abi.ShmHeader(
            magic=abi.SHM_MAGIC,
            abi=abi.ABI_VERSION,
            hvcpu_max=self.hvcpu_max,
            ring_size=self.ring_size,
            bitmap_bytes=self.bitmap_bytes,
            data_offset=self.data_offset,
            shm_size=self.size,
        )


class CallError(CpcError):
    """A call on an hvCPU ended with a status other than OK (see abi.S_*)."""

    def __init__(self, hvcpu: int, op: int, reply: Reply, host: str | None = None) -> None:
        self.status = reply.status
        self.name = NAMES.get(reply.status, "UNKNOWN")
        self.op = op
        self.reply = reply
        words = describe(reply.status)
        if reply.status == abi.S_FAULT:
            vector, ip, address = reply.fault
            words += f", vector {vector} at {ip:#x}, address {address:#x}"
        if reply.status == abi.S_PLATFORM:
            words += f", {platform_call(reply.result[0], reply.result[1])}"
        if reply.status == abi.S_HARDWARE:
            words += f", {hardware(reply.result[0], reply.result[1])}"
        super().__init__(
            f"call {OP_NAMES.get(op, hex(op))} on hvCPU {hvcpu} failed", cause=words, host=host
        )


@dataclass(frozen=True)
class Progress:
    """Counters of the running (or last) call."""

    pages: int
    zero_pages: int
    records: int
    bytes: int


@dataclass(frozen=True)
class Reply:
    """What a finished call left in the mailbox."""

    status: int
    result: tuple[int, int, int, int]
    payload: bytes
    fault: tuple[int, int, int]
    progress: Progress


class Mailbox:
    """The call page of one hvCPU. One caller at a time."""

    def __init__(self, words: memoryview, quads: memoryview, raw: memoryview, base: int) -> None:
        self._words = words
        self._quads = quads
        self._raw = raw
        self._base = base

    def _word(self, field: str, value: int | None = None, index: int = 0) -> int:
        at = (self._base + getattr(abi.Mailbox, field).offset) // 4 + index
        if value is not None:
            self._words[at] = value
        return int(self._words[at])

    def _quad(self, field: str, value: int | None = None, index: int = 0) -> int:
        at = (self._base + getattr(abi.Mailbox, field).offset) // 8 + index
        if value is not None:
            self._quads[at] = value
        return int(self._quads[at])

    @property
    def state(self) -> int:
        """abi.STATE_*; only a hint until `done` says so."""
        return self._word("state")

    @property
    def request(self) -> int:
        """Number of the last call posted."""
        return self._word("request")

    @property
    def pending(self) -> bool:
        """True while a call was posted and is not done."""
        return self._word("request") != self._word("done")

    def progress(self) -> Progress:
        """Counters of the running call."""
        return Progress(
            self._quad("pages"),
            self._quad("zero_pages"),
            self._quad("records"),
            self._quad("bytes"),
        )

    def post(self, op: int, args: tuple[int, ...] = (), payload: bytes = b"") -> int:
        """Write a request and return its number; the caller wakes the hvCPU.

        Raises ValueError for too many arguments or too large a payload, and
        CpcError (75) while another call is pending.
        """
        if len(args) > 6:
            raise ValueError("a call has at most 6 arguments")
        if len(payload) > abi.PAYLOAD_MAX:
            raise ValueError(f"a payload has at most {abi.PAYLOAD_MAX} bytes")
        if self.pending:
            raise CpcError(
                "the hvCPU is still in an earlier call", exit_code=ExitCode.BUSY
            )
        for index in range(6):
            self._quad("arg", args[index] if index < len(args) else 0, index)
        start = self._base + abi.Mailbox.payload.offset
        self._raw[start : start + len(payload)] = payload
        self._word("payload_size", len(payload))
        self._word("op", op)
        number = (self.request + 1) & 0xFFFFFFFF
        if number == self._word("cancel"):
            # It was taken back: for the hvCPU's next life that is the call it died of.
            number = (number + 1) & 0xFFFFFFFF
        # Last: the firmware looks at nothing before it sees a new number.
        return self._word("request", number)

    def done(self, request: int) -> bool:
        """True when that call has ended."""
        return self._word("done") == request

    def cancel(self, request: int) -> None:
        """Ask the firmware to end that call; the caller wakes the hvCPU."""
        self._word("cancel", request)

    def retract(self) -> None:
        """Take back the request that an hvCPU died of, or has never seen.

        If it died of it, its next life ends that call without an answer. It must not find
        one here, or it would die of it again. Its number is not used again.
        """
        self._word("cancel", self.request)
        self._word("op", 0)
        self._word("payload_size", 0)
        self._word("request", self._word("done"))

    def reply(self) -> Reply:
        """Copy the result of the call that ended last."""
        size = min(self._word("reply_size"), abi.PAYLOAD_MAX)
        start = self._base + abi.Mailbox.payload.offset
        result = [self._quad("result", None, i) for i in range(4)]
        fault = [self._quad("fault", None, i) for i in range(3)]
        return Reply(
            self._word("status"),
            (result[0], result[1], result[2], result[3]),
            bytes(self._raw[start : start + size]),
            (fault[0], fault[1], fault[2]),
            self.progress(),
        )


class Ring:
    """One hvCPU's byte ring. head and tail count bytes and never wrap.

    On an export the firmware produces and the host consumes; on an import the
    other way round. Each side moves only its own counter.
    """

    def __init__(self, quads: memoryview, base: int, data: memoryview, offset: int) -> None:
        self._quads = quads
        self._head = (base + abi.Ring.head.offset) // 8
        self._tail = (base + abi.Ring.tail.offset) // 8
        self.data = data
        self.size = len(data)
        self.file_offset = offset

    @property
    def head(self) -> int:
        """Bytes ever produced."""
        return int(self._quads[self._head])

    @property
    def tail(self) -> int:
        """Bytes ever consumed."""
        return int(self._quads[self._tail])

    @property
    def used(self) -> int:
        """Bytes to consume. Raises CpcError when the other side lies."""
        used = self.head - self.tail
        if not 0 <= used <= self.size:
            raise CpcError(
                "the ring's counters are not possible",
                cause=f"head {self.head}, tail {self.tail}, size {self.size}",
            )
        return used

    @property
    def free(self) -> int:
        """Bytes there is room for."""
        return self.size - self.used

    def readable(self, limit: int | None = None) -> memoryview:
        """Bytes to consume that lie in one piece; take them, then consume()."""
        start = self.tail % self.size
        length = min(self.used, self.size - start, self.size if limit is None else limit)
        return self.data[start : start + length]

    def writable(self, limit: int | None = None) -> memoryview:
        """Room in one piece; fill it, then produce()."""
        start = self.head % self.size
        length = min(self.free, self.size - start, self.size if limit is None else limit)
        return self.data[start : start + length]

    def consume(self, count: int) -> None:
        """Give `count` bytes back to the producer."""
        if not 0 <= count <= self.used:
            raise ValueError(f"cannot consume {count} of {self.used} bytes")
        self._quads[self._tail] = self.tail + count

    def produce(self, count: int) -> None:
        """Hand `count` bytes written to writable() to the consumer."""
        if not 0 <= count <= self.free:
            raise ValueError(f"cannot produce {count} bytes into {self.free}")
        self._quads[self._head] = self.head + count


def doorbell(path: Path) -> Path:
    """The FIFO beside a ring file; QEMU wakes the hvCPUs whose numbers are written to it."""
    return path.with_name(f"{path.name}.bell")


class RingFile:
    """A mapped ring file. Make it with create() or open(); close() when done."""

    def __init__(self, path: Path, mapping: mmap.mmap, layout: Layout, bell: int) -> None:
        self.path = path
        self.layout = layout
        self._bell = bell
        self._mapping = mapping
        self._raw = memoryview(mapping)
        self._words = self._raw[: layout.data_offset].cast("I")
        self._quads = self._raw[: layout.data_offset].cast("Q")
        self._mailboxes = [
            Mailbox(self._words, self._quads, self._raw, abi.SHM_MAILBOX + i * abi.PAGE_SIZE)
            for i in range(layout.hvcpu_max)
        ]
        self._rings = [
            Ring(
                self._quads,
                abi.SHM_RING + i * abi.PAGE_SIZE,
                self._raw[layout.data_offset + i * layout.ring_size :][: layout.ring_size],
                layout.data_offset + i * layout.ring_size,
            )
            for i in range(layout.hvcpu_max)
        ]

    @classmethod
    def create(cls, path: Path, layout: Layout) -> RingFile:
        """Make a new ring file of zeros, with its memory reserved.

        Its doorbell comes with it. Raises CpcError (3) when there is no room for it,
        and when a file is there already.
        """
        try:
            os.mkfifo(doorbell(path), 0o600)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CpcError(
                f"cannot create the ring file {path}",
                exit_code=ExitCode.REFUSED,
                cause=reason(error),
            ) from error
        try:
            # Without this a full file system is a SIGBUS in QEMU much later.
            os.posix_fallocate(fd, 0, layout.size)
            os.pwrite(fd, bytes(layout.header()), 0)
            mapping = mmap.mmap(fd, layout.size)
        except OSError as error:
            path.unlink()
            doorbell(path).unlink()
            raise CpcError(
                f"no room for the ring file {path} ({layout.size >> 20} MiB)",
                exit_code=ExitCode.REFUSED,
                cause=reason(error),
                hint="set CPCCTL_RUN_DIR to a folder with more room",
            ) from error
        finally:
            os.close(fd)
        return cls(path, mapping, layout, _open_bell(path))

    @classmethod
    def open(cls, path: Path) -> RingFile:
        """Map an existing ring file after checking its header.

        Raises CpcError (4) when it is missing or not a ring file of this ABI.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CpcError(
                f"the ring file {path} cannot be opened",
                exit_code=ExitCode.UNREACHABLE,
                cause=reason(error),
                hint="restart the VM: without its ring file no hvCPU can be called",
            ) from error
        try:
            layout = _checked(path, os.pread(fd, abi.PAGE_SIZE, 0), os.fstat(fd).st_size)
            mapping = mmap.mmap(fd, layout.size)
        finally:
            os.close(fd)
        return cls(path, mapping, layout, _open_bell(path))

    def wake(self, hvcpu: int) -> None:
        """Ring for a parked hvCPU. Says nothing of whether it lives, or QEMU does."""
        # A full FIFO holds wakes that QEMU has not come to yet; callers ring again.
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell, bytes([hvcpu]))

    def mailbox(self, hvcpu: int) -> Mailbox:
        """The mailbox of an hvCPU."""
        return self._mailboxes[hvcpu]

    def ring(self, hvcpu: int) -> Ring:
        """The ring of an hvCPU."""
        return self._rings[hvcpu]

    def close(self) -> None:
        """Unmap. Views handed out keep the mapping alive until they go."""
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1
        with contextlib.suppress(BufferError):
            for ring in self._rings:
                ring.data.release()
            self._words.release()
            self._quads.release()
            self._raw.release()
            self._mapping.close()

    def __enter__(self) -> RingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_bell(path: Path) -> int:
    """For reading as well, so that it opens and stays whole without QEMU. Raises CpcError (4)."""
    bell = doorbell(path)
    try:
        fd = os.open(bell, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _no_bell(bell, reason(error)) from error
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise _no_bell(bell, "it is not a FIFO")
    return fd


def _no_bell(bell: Path, cause: str) -> CpcError:
    return CpcError(
        f"the doorbell {bell} cannot be opened",
        exit_code=ExitCode.UNREACHABLE,
        cause=cause,
        hint="restart the VM: without its doorbell no hvCPU can be woken",
    )


def _checked(path: Path, page: bytes, size: int) -> Layout:
    if len(page) < ctypes.sizeof(abi.ShmHeader):
        why = f"it has {size} bytes"
    else:
        header = abi.ShmHeader.from_buffer_copy(page)
        try:
            layout = Layout.of(header.hvcpu_max, header.ring_size, 0)
        except ValueError as error:
            why = str(error)
        else:
            layout = Layout(header.hvcpu_max, header.ring_size, header.bitmap_bytes)
            if bytes(layout.header()) == bytes(header) and size == layout.size:
                return layout
            why = f"magic {header.magic:#x}, ABI {header.abi}, size {size} of {header.shm_size}"
    raise CpcError(
        f"{path} is not a ring file of this version",
        exit_code=ExitCode.UNREACHABLE,
        cause=why,
    )
