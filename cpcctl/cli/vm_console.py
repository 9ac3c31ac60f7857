# SPDX-License-Identifier: Apache-2.0
"""cpcctl vm console: the terminal and the guest's serial port, joined."""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import socket
import sys
import termios
import tty
from collections.abc import Iterator

from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.ui.context import Context
from cpcctl.ui.output import unwritable
from cpcctl.vm import lifecycle

# Ctrl-], as telnet and virsh console.
LEAVE = b"\x1d"


def console_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of vm console."""
    parser.add_argument("name", metavar="VM", help="name of the VM")


def console_run(args: argparse.Namespace, ctx: Context) -> int:
    """Join until Ctrl-], the end of the input, or the end of the guest."""
    vm = lifecycle.attach(ctx.settings, args.name)
    if vm.spec.console == "none":
        raise CpcError(
            f"VM {args.name} has no console",
            exit_code=ExitCode.USAGE,
            cause="its definition says console: none",
            hint=f"cpcctl vm status {args.name}",
        )
    _refuse_second(vm)
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(str(vm.paths.console))
        except OSError as error:
            raise CpcError(
                f"the console of VM {args.name} cannot be reached",
                exit_code=ExitCode.UNREACHABLE,
                cause=reason(error),
                hint=f"cpcctl vm status {args.name}",
            ) from error
        ctx.out.note(f"connected to {args.name}; leave with Ctrl-]")
        # Closed as by `<&-`: the input has ended before it began.
        if sys.stdin is None:
            return 0
        with _raw_terminal(sys.stdin.fileno()):
            _join(line, sys.stdin.fileno(), sys.stdout.fileno())
    return 0


def _refuse_second(vm: lifecycle.Vm) -> None:
    """QEMU serves one at a time: a second one would wait in silence. Raises CpcError (75)."""
    with vm.qmp() as qmp:
        found = {entry["label"]: str(entry["filename"]) for entry in qmp.execute("query-chardev")}
    if found.get("console", "").startswith("unix:"):
        raise CpcError(
            f"the console of VM {vm.name} is in use",
            exit_code=ExitCode.BUSY,
            host=vm.host,
            cause="QEMU serves one console at a time",
            hint=f"ss -xp src {vm.paths.console}: which process that is\n"
            f"tail -f {vm.paths.console_log}: what the guest says, beside it",
        )


@contextlib.contextmanager
def _raw_terminal(fd: int) -> Iterator[None]:
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _join(line: socket.socket, source: int, sink: int) -> None:
    # Not epoll, which refuses regular files and /dev/null.
    with selectors.PollSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == source:
                    typed = os.read(source, 4096)
                    with contextlib.suppress(ConnectionError):
                        # A guest that is gone is seen when its line is read.
                        line.sendall(typed.partition(LEAVE)[0])
                    if not typed or LEAVE in typed:
                        return
                else:
                    shown = _received(line)
                    if not shown:
                        return
                    _write(sink, shown)


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(65536)
    except ConnectionError:
        return b""


def _write(sink: int, shown: bytes) -> None:
    try:
        while shown:
            shown = shown[os.write(sink, shown) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(error) from error
