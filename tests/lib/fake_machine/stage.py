# SPDX-License-Identifier: Apache-2.0
"""What a test and the machines of its hosts share: one folder.

    journal       who runs the guest, a line for each beginning and end (machine.c)
    guest         held locked by the machine that runs it
    HOST.hold     the point at which the next machine of that host is to stop, see reach()
    HOST.held     that one stopped there; it goes on when this is gone
    HOST.orders   its socket: what its guest does of itself
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

LOOK_EVERY = 0.002
# What a guest does of itself; abort() in QEMU; its main loop hangs, and goes on; all hvCPUs die;
# they live and do not wake, and do.
ORDERS = (
    "shutdown", "reset", "panic", "crash", "deaf", "hear", "dead-hvcpus", "mute-hvcpus",
    "wake-hvcpus",
)  # fmt: skip


class Stage:
    """The folder, for either side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, host: str, what: str) -> Path:
        return self.folder / f"{host}.{what}"

    @property
    def journal(self) -> Path:
        """Lines "TIME HOST PID WORDS", in the order in which it happened."""
        return self.folder / "journal"

    @property
    def guest(self) -> Path:
        """The file whose lock means: the guest runs here."""
        return self.folder / "guest"

    def orders(self, host: str) -> Path:
        """The socket of a host's machine."""
        return self._file(host, "orders")

    # ---- the machine's side --------------------------------------------------------

    def wanted(self, host: str, point: str) -> bool:
        """A test wants the machine of this host to stop there."""
        try:
            return self._file(host, "hold").read_text() == point
        except FileNotFoundError:
            return False

    def reach(self, host: str, point: str, meanwhile: Callable[[], None]) -> None:
        """Stop here if a test wants it: "before COMMAND", "after CALL". All of the machine
        does, as a QEMU whose main loop hangs; then what its guest did meanwhile is done."""
        if not self.wanted(host, point):
            return
        held = self._file(host, "held")
        self._file(host, "hold").rename(held)
        while held.exists():
            time.sleep(LOOK_EVERY)
        meanwhile()

    # ---- the test's side -----------------------------------------------------------

    def hold(self, host: str, point: str) -> None:
        """Stop that host's machine when it gets to this point, once."""
        fresh = self._file(host, "new")
        fresh.write_text(point)
        fresh.rename(self._file(host, "hold"))

    def held(self, host: str) -> bool:
        """It has stopped there."""
        return self._file(host, "held").exists()

    def release(self, host: str) -> None:
        """Let it go on, if it stopped."""
        self._file(host, "held").unlink(missing_ok=True)

    def order(self, host: str, word: str) -> None:
        """The guest there does something: one of ORDERS. Done when the machine is not held."""
        assert word in ORDERS
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.sendto(word.encode(), str(self.orders(host)))

    def lines(self) -> list[str]:
        """The journal so far, without its times."""
        with contextlib.suppress(FileNotFoundError):
            return [line.partition(" ")[2] for line in self.journal.read_text().splitlines()]
        return []

    def runs_somewhere(self) -> bool:
        """A living machine runs the guest: the kernel knows."""
        fd = os.open(self.guest, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Only asked about: who took it would be in the way of one that begins.
            wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted)
        finally:
            os.close(fd)
        return bool(struct.unpack("hhqqi4x", found)[0] != fcntl.F_UNLCK)
