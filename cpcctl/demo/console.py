# SPDX-License-Identifier: Apache-2.0
"""Talks to the shell on a guest's serial console, over QEMU's UNIX socket."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from cpcctl.config.patience import patient

READY = "CPC-READY"
FAILED = "CPC-FAILED"
CONNECT_SECONDS = patient(10.0)
COMMAND_SECONDS = patient(120.0)


class ConsoleError(Exception):
    """The guest did not answer in time, or a command failed; has its output."""


class Console:
    """One connection to a console socket. Close it before a migration moves the
    guest: the destination has a socket of its own."""

    def __init__(self, path: Path, timeout: float = CONNECT_SECONDS) -> None:
        """Raises OSError when nothing listens there."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._text = ""
        self._number = 0

    def run(self, command: str, timeout: float = COMMAND_SECONDS) -> str:
        """Output of a shell command in the guest.

        Raises ConsoleError when its exit status is not 0, or after timeout.
        """
        self._number += 1
        mark = f"cpc{self._number}x{time.monotonic_ns()}"
        # The echo of this line has the quotes; only the output has them not.
        line = f"{{ {command}; }} 2>&1; echo {mark[:4]}''{mark[4:]} $?\n"
        # A line longer than the terminal's buffer would be cut silently.
        if len(line) > 3000:
            raise ConsoleError("the command is too long for the console")
        self._text = ""
        self._socket.sendall(line.encode())
        found = self._until(re.compile(re.escape(mark) + r" (\d+)"), timeout, command)
        body = self._text[: found.start()].replace("\r", "")
        # Drop the echo, wrapped or not: it ends where the status was asked for.
        output = body.rsplit(f"{mark[4:]} $?", 1)[-1].lstrip("\n")
        if found[1] != "0":
            raise ConsoleError(f"{command}: exit status {found[1]}: {output.strip()[-2000:]}")
        return output

    def wait_ready(
        self, log: Path, timeout: float, seen: Callable[[str], None] = lambda text: None
    ) -> None:
        """Until the guest has said in its console log that all has started.

        seen: is given that log each time that it is looked at. Raises ConsoleError when a job
        failed, when the guest is not ready in time, or QEMU is gone.
        """
        end = time.monotonic() + timeout
        while True:
            text = log.read_text(errors="replace") if log.exists() else ""
            if FAILED in text:
                raise ConsoleError(f"a job failed in the guest: {text[-2000:]}")
            if READY in text:
                return
            seen(text)
            if time.monotonic() > end:
                raise ConsoleError(f"the guest is not ready after {timeout:g} s: {text[-2000:]}")
            if not self._read_for(0.05):
                raise ConsoleError(f"QEMU closed the console: {text[-2000:]}")

    def _read_for(self, seconds: float) -> bool:
        """Throw away what comes; False when QEMU has exited.

        What is not read keeps the guest from writing more: UEFI writes byte by byte, and a
        few hundred of them fill a socket.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                if not self._socket.recv(65536):
                    return False
            except TimeoutError:
                return True
            except ConnectionError:
                return False
        return True

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _until(self, wanted: re.Pattern[str], timeout: float, what: str) -> re.Match[str]:
        end = time.monotonic() + timeout
        while True:
            found = wanted.search(self._text)
            if found:
                return found
            left = end - time.monotonic()
            if left <= 0:
                raise ConsoleError(f"{what}: no answer in {timeout:g} s: {self._text[-2000:]}")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise ConsoleError(f"{what}: QEMU closed the console: {self._text[-500:]}")
            self._text += data.decode(errors="replace")
