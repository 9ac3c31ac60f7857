# SPDX-License-Identifier: Apache-2.0
"""Pumps between two real ring files over a socket: bytes, wakes, limits, lies."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpcctl.host.shm import Layout, Ring, RingFile
from cpcctl.link.limit import Bucket
from cpcctl.link.pump import Port, Receiver, Sender, tune
from cpcctl.migrate.streams import Streams

SIZE = 2 << 20
SECONDS = 20.0


class Hvcpu:
    """Stands for the firmware: sleeps when told, counts wakes."""

    def __init__(self) -> None:
        self.asleep = False
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1
        self.asleep = False


class Line:
    """Source ring, pump, socket, pump, destination ring."""

    def __init__(self, folder: Path, bucket: Bucket | None = None) -> None:
        layout = Layout.of(1, SIZE, 1 << 20)
        self.files = [RingFile.create(folder / name, layout) for name in "ab"]
        self.out, self.back = (file.ring(0) for file in self.files)
        self.cpus = [Hvcpu(), Hvcpu()]
        left, right = socket.socketpair()
        for end in (left, right):
            end.settimeout(0.25)
        self.sender = Sender(self.port(self.out, 0), left, bucket=bucket)
        self.receiver = Receiver(self.port(self.back, 1), right)

    def port(self, ring: Ring, cpu: int) -> Port:
        return Port(ring, lambda: self.cpus[cpu].asleep, self.cpus[cpu].wake)

    def start(self) -> None:
        self.sender.start()
        self.receiver.start()

    def close(self) -> None:
        for pump in (self.sender, self.receiver):
            pump.stop.set()
            if pump.ident is not None:
                pump.join(5)
                assert not pump.is_alive()
        for file in self.files:
            file.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.close()


def put(ring: Ring, data: bytes) -> None:
    at, deadline = 0, time.monotonic() + SECONDS
    while at < len(data):
        room = ring.writable(len(data) - at)
        room[:] = data[at : at + len(room)]
        ring.produce(len(room))
        at += len(room)
        assert time.monotonic() < deadline


def take(ring: Ring, size: int) -> bytes:
    got, deadline = bytearray(), time.monotonic() + SECONDS
    while len(got) < size:
        view = ring.readable()
        got += view
        ring.consume(len(view))
        assert time.monotonic() < deadline
    return bytes(got)


def test_bytes_arrive_in_order(line: Line) -> None:
    line.start()
    data = bytes(range(251)) * 40_000  # several rings' worth, never aligned
    writer = threading.Thread(target=put, args=(line.out, data))
    writer.start()
    assert take(line.back, len(data)) == data
    writer.join()
    line.sender.finish.set()
    line.receiver.join(SECONDS)
    assert line.receiver.ended
    assert line.sender.bytes_moved == line.receiver.bytes_moved == len(data)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_round_has_been_taken_when_both_sides_say_so(line: Line) -> None:
    """Not before: what lies in a ring or on the way has not."""
    source, destination = Streams(1), Streams(1)
    source.pumps, destination.pumps = [line.sender], [line.receiver]
    put(line.out, b"x" * 100)
    assert source.bytes_sent is None and destination.bytes_taken == 0
    line.start()
    until(lambda: source.bytes_sent == 100 and line.receiver.bytes_moved == 100)
    assert destination.bytes_taken == 0
    line.back.consume(60)
    assert destination.bytes_taken == 60
    line.back.consume(40)
    assert destination.bytes_taken == source.bytes_sent


def test_sleepers_are_woken(line: Line) -> None:
    for cpu in line.cpus:
        cpu.asleep = True
    line.start()
    put(line.out, b"x" * 100)
    assert take(line.back, 100) == b"x" * 100
    deadline = time.monotonic() + SECONDS
    while not all(cpu.wakes for cpu in line.cpus):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_busy_hvcpus_are_left_alone(line: Line) -> None:
    line.start()
    put(line.out, b"x" * 100)
    take(line.back, 100)
    assert [cpu.wakes for cpu in line.cpus] == [0, 0]


def test_firmware_that_waits_for_a_closed_stream_is_noticed(line: Line) -> None:
    line.start()
    put(line.out, b"x" * 100)
    line.sender.finish.set()
    line.receiver.join(SECONDS)
    line.cpus[1].asleep = True
    seen = [line.receiver.starved]  # it has 100 bytes to take yet
    take(line.back, 100)
    seen.append(line.receiver.starved)
    line.cpus[1].asleep = False
    seen.append(line.receiver.starved)  # it works on them
    assert seen == [False, True, False]


def test_lost_destination_is_an_error(line: Line) -> None:
    line.receiver.link.close()
    line.sender.start()
    put(line.out, b"x" * 100)
    line.sender.join(SECONDS)
    assert isinstance(line.sender.error, OSError)


def test_impossible_counters_end_it(line: Line) -> None:
    line.out._quads[line.out._tail] = 5  # behind what was ever produced
    line.sender.start()
    line.sender.join(SECONDS)
    assert "not possible" in str(line.sender.error)


def test_rate_is_kept(tmp_path: Path) -> None:
    line = Line(tmp_path, Bucket(4_000_000.0, time.monotonic()))
    line.start()
    begin = time.monotonic()
    writer = threading.Thread(target=put, args=(line.out, bytes(4_000_000)))
    writer.start()
    take(line.back, 4_000_000)
    assert time.monotonic() - begin > 0.8
    writer.join()
    line.close()


def test_a_tuned_socket_sends_at_once_and_gives_up_in_time() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as link:
        usual = link.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        tune(link)
        assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= usual
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            link.recv(1)
        assert time.monotonic() - begin < 1.0
