# SPDX-License-Identifier: Apache-2.0
"""The search for the secret finds it wherever it is cut, and nowhere else."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpcctl.demo.hosts import wait_until
from cpcctl.demo.relay import Relay
from cpcctl.demo.scan import Finder, PacketFinder, RingScanner, tcp_payload

SECRET = b"0123456789abcdefSECRET"


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 200), max_size=8))
def test_finder_counts_whatever_the_cuts(parts: list[bytes], cuts: list[int]) -> None:
    stream = SECRET.join(parts)
    finder = Finder(SECRET)
    places = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    for begin, end in itertools.pairwise(places):
        finder.feed(stream[begin:end])
    assert finder.hits == stream.count(SECRET)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="by chance"):
        Finder(b"short")


def frame(payload: bytes, port: int = 1, padding: bytes = b"") -> bytes:
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 0, 0, 64, 6, 0,
                     b"\x0a\x4d\x00\x01", b"\x0a\x4d\x00\x02")  # fmt: skip
    tcp = struct.pack(">HHIIBBHHH", port, 2, 0, 0, 5 << 4, 0, 0, 0, 0)
    return bytes(12) + b"\x08\x00" + ip + tcp + payload + padding


def test_payload_is_what_the_lengths_say() -> None:
    assert tcp_payload(frame(b"words", padding=b"\0\0"))[1] == b"words"


def test_secret_over_two_packets_of_one_flow() -> None:
    finder = PacketFinder(SECRET)
    finder.feed(frame(b"x" + SECRET[:9], padding=b"pad"))
    finder.feed(frame(b"other flow", port=7))
    finder.feed(frame(SECRET[9:] + b"y"))
    assert finder.hits == 1


def test_secret_in_a_packet_that_is_not_tcp() -> None:
    finder = PacketFinder(SECRET)
    finder.feed(bytes(12) + b"\x08\x06" + SECRET)
    finder.feed(SECRET)
    assert finder.hits == 2


def test_halves_in_two_flows_are_no_secret() -> None:
    finder = PacketFinder(SECRET)
    finder.feed(frame(SECRET[:9], port=1))
    finder.feed(frame(SECRET[9:], port=2))
    assert finder.hits == 0


def test_ring_scanner_sees_what_another_writes(tmp_path: Path) -> None:
    ring = tmp_path / "ring"
    ring.write_bytes(bytes(1 << 20))
    scanner = RingScanner(ring, SECRET, pause=0.001)
    scanner.start()
    wait_until("a pass", lambda: scanner.passes > 2, 10)
    assert scanner.hits == 0
    with ring.open("r+b") as stream:
        stream.seek(777_777)
        stream.write(SECRET)
    wait_until("a hit", lambda: scanner.hits > 0, 10)
    scanner.stop()
    assert scanner.error is None


def test_ring_scanner_reports_that_it_could_not(tmp_path: Path) -> None:
    scanner = RingScanner(tmp_path / "none", SECRET)
    scanner.start()
    scanner.stop()
    assert isinstance(scanner.error, FileNotFoundError) and scanner.passes == 0


def test_relay_passes_everything_and_finds_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        received = bytearray()

        def serve() -> None:
            link, _ = server.accept()
            with link:
                while data := link.recv(4096):
                    received.extend(data)
                link.sendall(b"answer")

        thread = threading.Thread(target=serve)
        thread.start()
        relay = Relay(server.getsockname()[1], SECRET)
        with socket.create_connection(("127.0.0.1", relay.port)) as link:
            link.sendall(b"a" * 9999 + SECRET)
            link.shutdown(socket.SHUT_WR)
            assert link.recv(100) == b"answer"
        thread.join()
        seen = relay.close()
    assert bytes(received) == b"a" * 9999 + SECRET
    assert seen.hits == 1 and seen.bytes == len(received) + len(b"answer")
