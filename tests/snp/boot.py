# SPDX-License-Identifier: Apache-2.0
"""Starts a guest under OVMF, plain or confidential, and talks to its console.

Directly with QEMU's own options: what is tested is the emulated processor, not
cpcctl. Always TCG, whatever the accelerator of the run.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpcctl.host.qmp import Qmp
from tests.patience import patient

BOOT_SECONDS = 120.0
COMMAND_SECONDS = 60.0
END_SECONDS = 20.0
MEMORY_MIB = 512
PROMPT = "/ # "
POSITION = "cbitpos=51,reduced-phys-bits=1"
OBJECTS = {
    "plain": None,
    "sev": f"sev-guest,id=sev0,{POSITION},policy=0x1",
    "sev-es": f"sev-guest,id=sev0,{POSITION},policy=0x5",
    "sev-snp": f"sev-snp-guest,id=sev0,{POSITION}",
}


@dataclass(frozen=True)
class Parts:
    """The files that a guest is started from."""

    qemu: Path
    qemu_data: Path
    ovmf: Path
    vmlinuz: Path
    initrd: Path


def command(parts: Parts, sev_object: str | None) -> list[str]:
    """QEMU's command line of 2 vCPUs and 512 MiB; sev_object: what follows ``-object``,
    None for a plain guest."""
    machine, objects = "q35", []
    if sev_object:
        machine += ",confidential-guest-support=sev0"
        objects = ["-object", sev_object]
    return [
        str(parts.qemu), "-L", str(parts.qemu_data), "-accel", "tcg,thread=multi", "-cpu", "EPYC",
        "-machine", machine, *objects, "-smp", "2", "-m", f"{MEMORY_MIB}M",
        "-bios", str(parts.ovmf), "-kernel", str(parts.vmlinuz), "-initrd", str(parts.initrd),
        "-append", "console=ttyS0 panic=-1", "-nodefaults", "-display", "none", "-no-reboot",
        "-serial", "stdio",
    ]  # fmt: skip


class Guest:
    """A running guest. end() it."""

    def __init__(self, argv: list[str], folder: Path) -> None:
        """folder: for QEMU's words and its QMP socket; short, as socket paths are."""
        self._socket, self._words = folder / "qmp", folder / "stderr"
        self._console = ""
        self._commands = 0
        self._qmp: Qmp | None = None
        self._selector = selectors.DefaultSelector()
        with self._words.open("wb") as words:
            self._process = subprocess.Popen(
                [*argv, "-qmp", f"unix:{self._socket},server=on,wait=off"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
            )
        assert self._process.stdout
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def wait_for(self, text: str, seconds: float, start: int = 0) -> int:
        """Read the console until text is in it at or after start; where text ends.

        Fails with the console's end when QEMU is gone or the time is over.
        """
        assert self._process.stdout
        deadline = time.monotonic() + patient(seconds)
        while (at := self._console.find(text, start)) < 0:
            left = deadline - time.monotonic()
            ready = self._selector.select(max(left, 0.0))
            data = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not data:
                why = "QEMU has ended" if ready else f"not in {patient(seconds):.0f} s"
                raise AssertionError(
                    f"no {text!r}: {why}; the console ends with\n{self._console[-2000:]}\n"
                    f"and QEMU said\n{self._words.read_text(errors='replace')[-2000:]}"
                )
            self._console += data.decode(errors="replace").replace("\r", "")
        return at + len(text)

    def ready(self) -> None:
        """Wait until the guest's shell can be typed to."""
        end = self.wait_for("CPC-READY", BOOT_SECONDS)
        self.wait_for(PROMPT, COMMAND_SECONDS, end)

    def run(self, line: str) -> str:
        """Type a line into the guest's shell; what the console showed until it was done."""
        assert self._process.stdin
        self._commands += 1
        before = len(self._console)
        # The quotes keep the echo of the line from looking like its end.
        self._process.stdin.write(f"{line}; echo CPC''-DONE-{self._commands}.\n".encode())
        self._process.stdin.flush()
        end = self.wait_for(f"CPC-DONE-{self._commands}.", COMMAND_SECONDS, before)
        self.wait_for(PROMPT, COMMAND_SECONDS, end)
        return self._console[before:end]

    def active_features(self) -> list[str]:
        """Every line of dmesg that names active memory encryption, without its time."""
        found = re.findall(
            r"\] (Memory Encryption Features active.*)", self.run("dmesg | grep Encryption")
        )
        return [line.strip() for line in found]

    def qmp(self) -> Qmp:
        """The monitor."""
        if self._qmp is None:
            self._qmp = Qmp("guest").connect(self._socket)
        return self._qmp

    def query(self) -> dict[str, Any]:
        """What the emulated processor says of this guest."""
        answer = self.qmp().execute("query-sev-emulation")
        assert isinstance(answer, dict)
        return answer

    def end(self) -> None:
        """Kill QEMU."""
        if self._qmp:
            self._qmp.close()
        self._process.kill()
        self._process.wait(patient(END_SECONDS))
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()


def refusal(argv: list[str]) -> str:
    """What QEMU says when it does not start. Fails when it does start."""
    # No console: it would wait for nothing. -S: it would stop before the guest runs.
    try:
        done = subprocess.run(
            [*argv, "-S"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=patient(END_SECONDS),
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError("QEMU started, and should have refused") from error
    assert done.returncode == 1, f"QEMU ended with {done.returncode}: {done.stderr}"
    return done.stderr
