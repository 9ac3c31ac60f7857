# SPDX-License-Identifier: Apache-2.0
"""QMP for synchronous callers: qemu.qmp's asyncio client in a thread of its own.

Any number of threads may call execute() at once; QEMU answers in order.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, QMPClient, QMPError
from qemu.qmp.protocol import StateError

from cpcctl.config.patience import patient
from cpcctl.errors import CpcError, ExitCode, reason

# A device state is MiBs of base64 in one line.
READ_LIMIT = 32 << 20
EVENTS_KEPT = 4096
CONNECT_SECONDS = patient(10.0)
COMMAND_SECONDS = patient(60.0)
Event = dict[str, Any]
T = TypeVar("T")

# The library logs every lost connection; our errors say it once, in words.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class QmpError(CpcError):
    """QEMU answered a command with an error; `cause` has its words."""

    def __init__(self, command: str, error_class: str, text: str, host: str | None) -> None:
        super().__init__(f"QEMU refused {command}", cause=text, host=host)
        self.command = command
        self.error_class = error_class


class QmpGone(CpcError):
    """The connection is lost or cannot be made: QEMU is dead or hangs."""

    def __init__(self, message: str, cause: str | None, host: str | None) -> None:
        super().__init__(
            message,
            exit_code=ExitCode.UNREACHABLE,
            cause=cause,
            host=host,
            hint="cpcctl vm list",
        )


class Qmp:
    """One QMP session. Make it with connect() or over(); close() when done."""

    def __init__(self, label: str, host: str | None = None) -> None:
        self.label = label
        self.host = host
        self._client = QMPClient(label, readbuflen=READ_LIMIT)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"qmp-{label}", daemon=True
        )
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._changed = threading.Condition()
        self._gone = False
        self._closed = False
        self._thread.start()

    @classmethod
    def connect(
        cls,
        path: Path,
        timeout: float = CONNECT_SECONDS,
        *,
        label: str = "QEMU",
        host: str | None = None,
    ) -> Qmp:
        """Connect to a QMP UNIX socket.

        Raises QmpGone when nothing listens there or no greeting comes in time
        (another client holds the socket, or QEMU hangs).
        """
        try:
            return cls(label, host)._open(str(path), timeout)
        except QmpGone as error:
            error.cause = f"{path}: {error.cause}"
            raise

    @classmethod
    def over(
        cls, sock: socket.socket, timeout: float = CONNECT_SECONDS, *, label: str = "QEMU"
    ) -> Qmp:
        """The same over a socket that is already connected."""
        return cls(label)._open(sock, timeout)

    def _open(self, address: str | socket.socket, timeout: float) -> Qmp:
        try:
            # The limit is set inside the loop: the library can tidy up then.
            self._run(asyncio.wait_for(self._client.connect(address), timeout), timeout + 5)
        except TimeoutError:
            self.close()
            raise QmpGone(
                f"QEMU of {self.label} does not answer",
                f"no QMP greeting within {timeout:g} s: it hangs, or another program "
                "holds its socket",
                self.host,
            ) from None
        except (QMPError, OSError, EOFError) as error:
            self.close()
            raise QmpGone(
                f"QEMU of {self.label} cannot be reached", _words(error), self.host
            ) from error
        # The coroutine ends by itself when the connection does.
        asyncio.run_coroutine_threadsafe(self._collect(), self._loop)
        return self

    def execute(
        self, command: str, /, *, _timeout: float = COMMAND_SECONDS, **arguments: Any
    ) -> Any:
        """Run a QMP command and return its value.

        Keywords are arguments with "_" for "-": block_dirty=True is
        "block-dirty". An argument of None is left out.
        Raises QmpError with QEMU's words, QmpGone when QEMU died or did not
        answer within _timeout seconds.
        """
        sent = {key.replace("_", "-"): v for key, v in arguments.items() if v is not None}
        try:
            return self._run(self._client.execute(command, sent or None), _timeout)
        except ExecuteError as error:
            raise QmpError(command, error.error_class, str(error), self.host) from error
        except TimeoutError:
            raise QmpGone(
                f"QEMU of {self.label} did not answer {command} within {_timeout:g} s",
                None,
                self.host,
            ) from None
        except (ExecInterruptedError, StateError, QMPError, OSError, EOFError) as error:
            raise QmpGone(
                f"QEMU of {self.label} died during {command}", _words(error), self.host
            ) from error

    def hand_over(self, name: str, fd: int) -> None:
        """Give QEMU a copy of a descriptor, under a name for the next command.

        Raises QmpError, QmpGone.
        """

        async def send() -> None:
            self._client.send_fd_scm(fd)
            await self._client.execute("getfd", {"fdname": name})

        try:
            self._run(send(), COMMAND_SECONDS)
        except ExecuteError as error:
            raise QmpError("getfd", error.error_class, str(error), self.host) from error
        except (TimeoutError, QMPError, OSError, EOFError) as error:
            raise QmpGone(
                f"QEMU of {self.label} died during getfd", _words(error), self.host
            ) from error

    def execute_raw(
        self, command: str, arguments: dict[str, Any], timeout: float = COMMAND_SECONDS
    ) -> Any:
        """execute() for arguments whose names have an underscore."""
        try:
            return self._run(self._client.execute(command, arguments), timeout)
        except ExecuteError as error:
            raise QmpError(command, error.error_class, str(error), self.host) from error
        except (TimeoutError, QMPError, OSError, EOFError) as error:
            raise QmpGone(
                f"QEMU of {self.label} died during {command}", _words(error), self.host
            ) from error

    @property
    def alive(self) -> bool:
        """False once the connection is lost."""
        return not self._gone and not self._closed

    def wait_event(self, wanted: Callable[[Event], bool], timeout: float) -> Event:
        """Take the oldest event that matches out of the queue, waiting for it.

        Raises TimeoutError, or QmpGone when QEMU dies first.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for event in self._events:
                    if wanted(event):
                        self._events.remove(event)
                        return event
                if not self.alive:
                    raise QmpGone(f"QEMU of {self.label} died", None, self.host)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._changed.wait(left)

    def seen(self, wanted: Callable[[Event], bool]) -> Event | None:
        """The newest event that matches, left in the queue; never waits."""
        with self._changed:
            return next((event for event in reversed(self._events) if wanted(event)), None)

    def require_cpc(self) -> dict[str, Any]:
        """query-cpc, or an error that says what is wrong with this QEMU."""
        try:
            info = self.execute("query-cpc")
        except QmpError as error:
            if error.error_class != "CommandNotFound":
                raise
            raise CpcError(
                f"QEMU of {self.label} has no hvCPUs: it is not the patched one",
                exit_code=ExitCode.REFUSED,
                host=self.host,
                cause=error.cause,
                hint="cpcctl doctor",
            ) from error
        assert isinstance(info, dict)
        return info

    def close(self) -> None:
        """Hang up. QEMU goes on. May be called twice."""
        if self._closed:
            return
        self._closed = True
        # Already gone is as good: nothing is owed to it.
        with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError, QmpGone):
            if self._client.runstate.name != "IDLE":
                self._run(self._client.disconnect(), 5.0)
        with contextlib.suppress(TimeoutError, QmpGone):
            self._run(self._end_tasks(), 5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self._loop.close()

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise TimeoutError from None
        except concurrent.futures.CancelledError:
            raise QmpGone(f"QEMU of {self.label} died", None, self.host) from None

    async def _end_tasks(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _collect(self) -> None:
        watcher = asyncio.ensure_future(self._until_gone())
        try:
            async for message in self._client.events:
                with self._changed:
                    self._events.append(dict(message))
                    self._changed.notify_all()
        except asyncio.CancelledError:
            pass
        finally:
            watcher.cancel()

    async def _until_gone(self) -> None:
        while self._client.runstate.name == "RUNNING":
            await self._client.runstate_changed()
        with self._changed:
            self._gone = True
            self._changed.notify_all()


def _words(error: BaseException) -> str:
    """The innermost reason: 'Connection refused', not the wrapper's summary."""
    inner = error
    if isinstance(error, ConnectError):
        inner = error.exc
    if isinstance(inner, EOFError):
        return "it hung up"
    return reason(inner)
