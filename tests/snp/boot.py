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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpcctl.host.qmp import Qmp
from cpcctl.snp.definition import DEFAULT_CPU
from tests.patience import patient

BOOT_SECONDS = 120.0
COMMAND_SECONDS = 60.0
END_SECONDS = 20.0
MEMORY_MIB = 512
PROMPT = " # "  # after "/" or, with a newer busybox, "~"
LACKING = "warning: TCG doesn't support requested feature"
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


def command(
    parts: Parts,
    sev_object: str | None,
    *,
    vcpus: int = 2,
    memory_mib: int = MEMORY_MIB,
    append: str = "",
    extra: Sequence[str] = (),
) -> list[str]:
    """QEMU's command line.

    sev_object: what follows ``-object``, None for a plain guest. append: more words for
    the kernel. extra: more arguments of QEMU.
    """
    machine, objects = "q35", []
    if sev_object:
        machine += ",confidential-guest-support=sev0"
        objects = ["-object", sev_object]
    return [
        str(parts.qemu), "-L", str(parts.qemu_data), "-accel", "tcg,thread=multi",
        "-cpu", DEFAULT_CPU, "-machine", machine, *objects,
        "-smp", str(vcpus), "-m", f"{memory_mib}M",
        "-bios", str(parts.ovmf), "-kernel", str(parts.vmlinuz), "-initrd", str(parts.initrd),
        # A host that is busy gives the guest too little time for its own test of timers.
        "-append", f"console=ttyS0 panic=-1 no_timer_check {append}".strip(), "-nodefaults",
        "-display", "none", "-no-reboot", "-serial", "stdio", *extra,
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
        self.pid = self._process.pid
        assert self._process.stdout
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def wait_for(self, text: str, seconds: float, start: int = 0) -> int:
        """Read the console until text is in it at or after start; where text ends.

        Fails with the console's end when QEMU is gone or the time is over.
        """
        deadline = time.monotonic() + patient(seconds)
        while (at := self._console.find(text, start)) < 0:
            more = self._read(deadline - time.monotonic())
            if not more:
                why = f"not in {patient(seconds):.0f} s" if more is None else "QEMU has ended"
                raise AssertionError(
                    f"no {text!r}: {why}; the console ends with\n{self._console[-2000:]}\n"
                    f"and QEMU said\n{self.words()[-2000:]}"
                )
        return at + len(text)

    def _read(self, seconds: float) -> bool | None:
        """Add to the console what comes first; False when QEMU has ended, None when nothing
        comes in time."""
        assert self._process.stdout
        if not self._selector.select(max(seconds, 0.0)):
            return None
        data = os.read(self._process.stdout.fileno(), 65536)
        self._console += data.decode(errors="replace").replace("\r", "")
        return bool(data)

    def ready(self) -> None:
        """Wait until the guest's shell can be typed to."""
        end = self.wait_for("CPC-READY", BOOT_SECONDS)
        self.wait_for(PROMPT, COMMAND_SECONDS, end)

    def run(self, line: str, seconds: float = COMMAND_SECONDS) -> str:
        """Type a line into the guest's shell; what the console showed until it was done."""
        before = len(self._console)
        end = self.wait_for(self.type(line), seconds, before)
        self.wait_for(PROMPT, COMMAND_SECONDS, end)
        return self._console[before:end]

    def type(self, line: str) -> str:
        """Type a line into the guest's shell, and wait for nothing; the words that end what
        it prints."""
        assert self._process.stdin
        self._commands += 1
        # The quotes keep the echo of the line from looking like its end.
        self._process.stdin.write(f"{line}; echo CPC''-DONE-{self._commands}.\n".encode())
        self._process.stdin.flush()
        return f"CPC-DONE-{self._commands}."

    def console(self, seconds: float = 0.0) -> str:
        """All that the console has shown, when nothing more comes for this long (s) or
        QEMU has ended."""
        while self._read(seconds):
            pass
        return self._console

    def words(self) -> str:
        """What QEMU has said, but for features of the CPU model that TCG lacks."""
        lines = self._words.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if LACKING not in line)

    def ended(self) -> int | None:
        """QEMU's exit status; None while it runs."""
        return self._process.poll()

    def wait_ended(self, seconds: float) -> int:
        """The same, once it has ended. Fails when it does not in time."""
        try:
            return self._process.wait(patient(seconds))
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"QEMU still runs after {patient(seconds):.0f} s") from error

    def active_features(self) -> list[str]:
        """Every line of dmesg that names active memory encryption, without its time."""
        found = re.findall(
            r"\] (Memory Encryption Features active.*)", self.run("dmesg | grep Encryption")
        )
        return [line.strip() for line in found]

    def qmp(self) -> Qmp:
        """The monitor, once QEMU listens."""
        deadline = time.monotonic() + patient(END_SECONDS)
        while not self._socket.exists() and self.ended() is None:
            assert time.monotonic() < deadline, f"QEMU does not listen: {self.words()}"
            self.console(0.05)
        if self._qmp is None:
            self._qmp = Qmp.connect(self._socket)
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
