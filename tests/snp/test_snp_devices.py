# SPDX-License-Identifier: Apache-2.0
"""virtio-blk and virtio-net of an SEV-SNP guest under load: nothing is denied to them, and
what is denied to the host changes nothing."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpcctl.setup.kernels import SUITES
from tests.patience import patient
from tests.snp.boot import MEMORY_MIB, Guest
from tests.snp.device import Device, counters, private_pages

Boot = Callable[..., Guest]
# Written, read back and sent, that is more than the guest's 64 MiB of bounce buffers.
DISK_MIB, STREAM_MIB, HELD_MIB = 24, 12, 64
SECONDS = 240.0
PAGE = 4096


class Peer:
    """The other end of a TCP stream: sends what it is given while it receives, and keeps
    the digest of what comes."""

    def __init__(self, sends: bytes) -> None:
        self.sends, self._listener = sends, socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(patient(SECONDS))
        self.port = self._listener.getsockname()[1]
        self.received = hashlib.md5()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            stream, _ = self._listener.accept()
        except OSError:
            return
        stream.settimeout(patient(SECONDS))
        sender = threading.Thread(target=self._send, args=[stream])
        sender.start()
        with stream:
            while data := stream.recv(1 << 16):
                self.received.update(data)
            sender.join()

    def _send(self, stream: socket.socket) -> None:
        stream.sendall(self.sends)
        stream.shutdown(socket.SHUT_WR)

    def join(self) -> str:
        """Wait for the end; the digest of what came."""
        self._thread.join(patient(SECONDS))
        assert not self._thread.is_alive()
        return self.received.hexdigest()

    def close(self) -> None:
        """End it, whatever it waits for."""
        self._listener.close()
        self._thread.join(patient(SECONDS))


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A server for one connection."""
    there = Peer(os.urandom(STREAM_MIB << 20))
    yield there
    there.close()


def digest(guest: Guest, what: str) -> str:
    """MD5 of a file, or of a command's output, as the guest finds it."""
    line = f"{what} | md5sum" if " " in what else f"md5sum {what}"
    found = re.search(r"\n([0-9a-f]{32})  ", guest.run(line, SECONDS))
    assert found, what
    return found[1]


@pytest.mark.parametrize("kernel", SUITES)
def test_disk_and_network_under_load(
    boot: Boot, peer: Peer, tmp_path: Path, kernel: str
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(DISK_MIB << 20))
    guest = boot(
        kernel,
        append="cpc.ip=10.0.2.15/24",
        extra=[
            "-drive", f"file={disk},format=raw,if=none,id=d0",
            "-device", "virtio-blk-pci,drive=d0,iommu_platform=on,disable-legacy=on",
            "-netdev", "user,id=n0",
            "-device", "virtio-net-pci,netdev=n0,iommu_platform=on,disable-legacy=on",
        ],
    )  # fmt: skip
    guest.run(f"dd if=/dev/urandom of=/data/blob bs=1M count={DISK_MIB}", SECONDS)
    guest.run(f"head -c {STREAM_MIB << 20} /data/blob > /data/sent", SECONDS)
    # Both at once, and each in both directions.
    guest.run(
        "dd if=/data/blob of=/dev/vda bs=64k conv=fsync 2> /data/dd & "
        f"nc 10.0.2.2 {peer.port} < /data/sent > /data/received; wait; "
        "echo 3 > /proc/sys/vm/drop_caches",
        SECONDS,
    )
    assert f"\n{DISK_MIB << 4}+0 records out" in guest.run("cat /data/dd")
    blob = digest(guest, "/data/blob")
    assert hashlib.md5(disk.read_bytes()).hexdigest() == blob
    assert digest(guest, "dd if=/dev/vda bs=64k 2> /dev/null") == blob
    assert peer.join() == digest(guest, "/data/sent")
    assert digest(guest, "/data/received") == hashlib.md5(peer.sends).hexdigest()
    assert counters(guest) == (0, 0)


def test_the_host_cannot_change_private_memory(boot: Boot, tmp_path: Path) -> None:
    """Memory that the guest has filled, its kernel and its page tables, page by page."""
    guest = boot("6.1", extra=Device.arguments(tmp_path))
    guest.run(f"dd if=/dev/urandom of=/data/held bs=1M count={HELD_MIB}", SECONDS)
    before = digest(guest, "/data/held")
    assert counters(guest) == (0, 0)
    device = Device(tmp_path)
    try:
        pages = private_pages(guest, device, 2 << 20)
        # The guest holds an eighth of its memory; far more than that is private.
        assert len(pages) > (MEMORY_MIB // 2) // 2
        was = [device.read(page, PAGE) for page in pages]
        _, denied = counters(guest)
        for page in pages:
            device.write(page, os.urandom(PAGE))
        assert counters(guest)[1] == denied + len(pages)
        # What the host reads is scrambled, and unchanged where the guest did not write.
        same = sum(device.read(page, PAGE) == old for page, old in zip(pages, was, strict=True))
        assert same > len(pages) // 2
    finally:
        device.close()
    assert digest(guest, "/data/held") == before
    assert guest.query()["writes-denied"] == denied + len(pages)


def test_the_host_can_change_a_plain_guest(boot: Boot, tmp_path: Path) -> None:
    """The control: the same door, the same write."""
    image = tmp_path / "memory"
    guest = boot("6.1", "plain", extra=Device.arguments(tmp_path))
    # The guest joins the two halves: the console, and so the kernel's log, has no whole one.
    left, right = secrets.token_hex(8), secrets.token_hex(8)
    guest.run(f"echo {left}''{right} > /data/secret")
    guest.qmp().execute("pmemsave", val=0, size=MEMORY_MIB << 20, filename=str(image))
    with image.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=1) as memory:
        places = [m.start() for m in re.finditer(f"{left}{right}\n".encode(), memory)]
    assert places
    device = Device(tmp_path)
    try:
        for place in places:
            device.write(place, b"changed")
    finally:
        device.close()
    assert "\nchanged" in guest.run("cat /data/secret")
