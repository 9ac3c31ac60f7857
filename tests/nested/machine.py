# SPDX-License-Identifier: Apache-2.0
"""One run of the Debian guest: QEMU's command, what it says, and its end."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cpcctl.setup import store

# The processor that KVM's AMD module is at home on, with all that the firmware can use; mitigations
# and searches for hardware left out: each of them is emulated.
CPU = "EPYC,+svm,+vaes"
APPEND = (
    "console=ttyS0 panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable nowatchdog "
    "apparmor=0 audit=0 numa_balancing=disable loglevel=4 clearcpuid=rep_good "
    "no_timer_check"
)
BOOT_SECONDS = 120.0
TAIL_LINES = 80


class NestedError(Exception):
    """The guest did not do what it was asked; the text says what it did."""


@dataclass(frozen=True)
class Guest:
    """What to boot; memory in MiB."""

    qemu: Path
    qemu_data: Path
    system: Path
    project: Path
    memory: int
    cpus: int = 2

    def command(self, console: Path, output: int, result: int) -> list[str]:
        """QEMU's argv; output and result are the numbers of two sockets."""
        return [
            # Should this process be killed, the guest goes with it.
            "setpriv", "--pdeathsig=KILL",
            str(self.qemu), "-L", str(self.qemu_data), "-no-user-config", "-nodefaults",
            "-display", "none", "-no-reboot", "-machine", "q35", "-cpu", CPU,
            "-accel", "tcg,thread=multi,tb-size=1024",
            "-smp", str(self.cpus), "-m", str(self.memory),
            "-kernel", str(self.system / "vmlinuz"), "-initrd", str(self.system / "initrd.cpio"),
            "-append", APPEND, "-serial", f"file:{console}",
            *self._disk("debian", self.system / "debian.ext4"),
            *self._disk("project", self.project),
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=output,fd={output}",
            "-device", "virtserialport,chardev=output,name=output",
            "-chardev", f"socket,id=result,fd={result}",
            "-device", "virtserialport,chardev=result,name=result",
        ]  # fmt: skip

    def _disk(self, name: str, path: Path) -> list[str]:
        text = str(path).replace(",", ",,")
        return [
            "-drive", f"if=none,id={name},file={text},format=raw,readonly=on,cache=unsafe",
            "-device", f"virtio-blk-pci,drive={name}",
        ]  # fmt: skip


def script(argv: list[str], folder: Path, environment: dict[str, str]) -> str:
    """What the guest's first process runs: the command, its output to one port, its
    exit status to the other."""
    lines = ["#!/bin/sh", "unset BOOT_IMAGE initrd"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines += [
        "for port in /sys/class/virtio-ports/*; do",
        '    eval "$(cat $port/name)=/dev/${port##*/}"',
        "done",
        f"cd {shlex.quote(str(folder))}",
        "[ -e /dev/kvm ] || echo 'the guest has no /dev/kvm' > /dev/console",
        'echo started > "$result"',
        shlex.join(argv) + ' < /dev/null > "$output" 2>&1',
        'echo "ended $?" > "$result"',
        # The host ends this machine when it has read that.
        "while :; do sleep 1000; done",
    ]
    return "\n".join(lines) + "\n"


Started = tuple["subprocess.Popen[bytes]", socket.socket, socket.socket]


@contextlib.contextmanager
def _started(guest: Guest, console: Path) -> Iterator[Started]:
    output, output_there = socket.socketpair()
    result, result_there = socket.socketpair()
    with output, result:
        with output_there, result_there:
            ends = (output_there.fileno(), result_there.fileno())
            process = subprocess.Popen(
                guest.command(console, *ends),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=ends,
                # Ctrl-C is for this process, which then ends the guest.
                start_new_session=True,
            )
        try:
            yield process, output, result
        finally:
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()


def took(boot: float, ran: float | None, seconds: float) -> str:
    """One line about a run that took so many seconds. ran: None when it did not boot."""
    most = f"of at most {(BOOT_SECONDS + seconds) / 60:.1f} min"
    if ran is None:
        return f"nested: {boot / 60:.1f} min {most}, without booting"
    together = f"together {(boot + ran) / 60:.1f} min {most}"
    return f"nested: boot {boot / 60:.1f} min, run {ran / 60:.1f} min, {together}"


def run(guest: Guest, console: Path, seconds: float) -> int:
    """Boot, copy the command's output to stdout, and return its exit status; how long
    that took goes to stderr.

    seconds: how long the command may take. Raises NestedError.
    """
    begin = time.monotonic()
    up: list[float] = []
    try:
        return _run(guest, console, seconds, up)
    finally:
        now = time.monotonic()
        store.say(took(up[0] - begin, now - up[0], seconds) if up else
                  took(now - begin, None, seconds))  # fmt: skip


def _run(guest: Guest, console: Path, seconds: float, up: list[float]) -> int:
    """run(). up: gets the time when the guest had booted."""
    with _started(guest, console) as (process, output, result):
        deadline = time.monotonic() + BOOT_SECONDS
        said = b""
        with selectors.DefaultSelector() as ready:
            ready.register(output, selectors.EVENT_READ)
            ready.register(result, selectors.EVENT_READ)
            while b"ended " not in said or not said.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise NestedError(_late(said, seconds) + tail(console))
                for key, _ in ready.select(left):
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        raise NestedError(_died(process) + tail(console))
                    if key.fileobj is output:
                        sys.stdout.buffer.write(data)
                        sys.stdout.buffer.flush()
                        continue
                    if not up:
                        up.append(time.monotonic())
                        deadline = up[0] + seconds
                    said += data
        _drain(output)
        return int(said.split()[-1])


def _drain(output: socket.socket) -> None:
    """What was written before the status and not read yet."""
    output.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while data := output.recv(1 << 16):
            sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _late(said: bytes, seconds: float) -> str:
    if not said:
        return f"the Debian guest did not boot within {BOOT_SECONDS:g} s"
    return (
        f"the command in the Debian guest did not end within {seconds:g} s; "
        "on a slow or busy machine CPC_TEST_PATIENCE=2 doubles every limit"
    )


def _died(process: subprocess.Popen[bytes]) -> str:
    code = process.wait(10)
    lines = process.stderr.read().decode(errors="replace").splitlines() if process.stderr else []
    # It warns of every feature of the processor that it does not emulate.
    words = "\n".join(line for line in lines if ": warning: " not in line)
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    return f"the Debian guest's QEMU ended {how}" + (f": {words}" if words else "")


def tail(console: Path) -> str:
    """The last lines of the guest's console, to be added to a message."""
    try:
        lines = console.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return ""
    return "\nthe end of its console:\n  " + "\n  ".join(lines)
