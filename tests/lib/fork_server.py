# SPDX-License-Identifier: Apache-2.0
"""Starts cpcctl commands as processes of their own, without the third of a second that Python
takes to load it: a small server that has loaded it forks for each of them.

    with ForkServer() as server:
        command = server.start(["vm", "list"], env, out, err)
        code = command.wait(10.0)
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]


class Command:
    """A process that runs cpcctl. pid: its own; code: once it has ended, negative for a signal."""

    def __init__(self, link: socket.socket, argv: list[str], out: Path, err: Path) -> None:
        self.argv, self.out, self.err = argv, out, err
        self._link = link
        self.pid = int(self._word(None))
        self.code: int | None = None

    def _word(self, timeout: float | None) -> str:
        self._link.settimeout(timeout)
        word = self._link.recv(32).decode()
        assert word, "the fork server died"
        return word

    def wait(self, timeout: float) -> int:
        """Its exit code. Raises TimeoutError."""
        if self.code is None:
            self.code = int(self._word(timeout))
            self._link.close()
        return self.code

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, unless it is known to have ended."""
        if self.code is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


class ForkServer:
    """The server's process; ends with the block, its commands do not.

    env: for what the modules make of it when they are loaded, such as CPCCTL_PATIENCE
    """

    _number = itertools.count()

    def __init__(self, **env: str) -> None:
        self._folder = Path(os.environ.get("TMPDIR", "/tmp"))
        self._path = self._folder / f"cpc-fork-{os.getpid()}-{next(self._number)}.sock"
        self._path.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lib.fork_server", str(self._path)],
            cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **env},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def start(self, argv: list[str], env: dict[str, str], out: Path, err: Path) -> Command:
        """Begin a command with its standard output and errors in files."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.connect(str(self._path))
        wanted = {"argv": argv, "env": env, "out": str(out), "err": str(err)}
        link.sendall(json.dumps(wanted).encode())
        return Command(link, argv, out, err)

    def close(self) -> None:
        """End the server."""
        self._process.communicate()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- the server's process ------------------------------------------------------------


def _run(wanted: dict[str, Any]) -> None:
    """In the child: be that command."""
    from cpcctl import __main__ as entry

    os.environ.clear()
    os.environ.update(wanted["env"])
    os.chdir("/")
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for stream, path in ((0, "/dev/null"), (1, wanted["out"]), (2, wanted["err"])):
        fd = os.open(path, flags if stream else os.O_RDONLY, 0o600)
        os.dup2(fd, stream)
        os.close(fd)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    code = 70
    try:
        code = int(entry.main(wanted["argv"]))
        sys.stdout.flush()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 70
    finally:
        sys.stderr.flush()
        os._exit(code)


def _serve(path: str) -> None:
    # All that the commands load later, each of them, if not here.
    import cpcctl.migrate.receiving
    import cpcctl.migrate.recovery.orphaned
    import cpcctl.migrate.worker  # noqa: F401

    gc.freeze()  # a child that looks through all of it would copy all of it
    loop = selectors.DefaultSelector()
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(path)
    server.listen(64)
    loop.register(server, selectors.EVENT_READ, None)
    loop.register(0, selectors.EVENT_READ, None)
    print("ready", flush=True)
    while True:
        for key, _ in loop.select():
            if key.fileobj == 0:
                return
            if key.fileobj is server:
                link = server.accept()[0]
                wanted = json.loads(link.recv(1 << 20))
                pid = os.fork()
                if pid == 0:
                    loop.close()
                    server.close()
                    link.close()
                    _run(wanted)
                link.sendall(str(pid).encode())
                loop.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, link))
            else:
                pid, link = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                loop.unregister(key.fileobj)
                os.close(key.fd)
                with contextlib.suppress(BrokenPipeError):
                    link.sendall(str(code).encode())
                link.close()


if __name__ == "__main__":
    _serve(sys.argv[1])
