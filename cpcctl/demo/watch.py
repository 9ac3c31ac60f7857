# SPDX-License-Identifier: Apache-2.0
"""Helpers that run inside the hosts' network: the capture and the client."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from cpcctl.config.patience import patient
from cpcctl.demo.hosts import GUEST_ADDRESS, World

END_SECONDS = patient(90.0)


class Helper:
    """A process that says READY, works until its stdin closes, and reports."""

    def __init__(self, world: World, where: str, argv: list[str], first: str = "") -> None:
        """Returns when it is READY. Raises RuntimeError with its words if it is not."""
        self._process = world.popen(
            where,
            [sys.executable, "-m", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        if first:
            self._process.stdin.write(first + "\n")
            self._process.stdin.flush()
        if self._process.stdout.readline().strip() != "READY":
            _, words = self._process.communicate()
            raise RuntimeError(f"{argv[0]} did not start: {words.strip()}")

    def finish(self) -> dict[str, Any]:
        """End it; its report. Raises RuntimeError with its words if it failed."""
        out, err = self._process.communicate(timeout=END_SECONDS)
        if self._process.returncode != 0:
            raise RuntimeError(err.strip() or f"ended with {self._process.returncode}")
        report: dict[str, Any] = json.loads(out)
        return report


def capture(world: World, secret: bytes) -> Helper:
    """Capture everything that enters or leaves host-b, looking for the secret."""
    return Helper(world, "lan", ["cpcctl.demo.capture", "to-host-b"], secret.hex())


def client(world: World) -> Helper:
    """The client of the guest's Redis."""
    return Helper(world, "client", ["cpcctl.demo.client", GUEST_ADDRESS, "6379"])
