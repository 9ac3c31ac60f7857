# SPDX-License-Identifier: Apache-2.0
"""Runs a long command of the set-up: its chatter goes to a log, a person sees where it is.

    python3 watched.py WHAT LOG COMMAND [ARGUMENT...]

On a terminal one line is kept up to date: what runs, for how long, and the last line of its
output, which for ninja has the count of steps. Elsewhere that line comes every half minute.
Imports the standard library only, and nothing of this package: build.sh runs it by its path.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ENDS = (signal.SIGINT, signal.SIGTERM)
TICK_SECONDS = 0.5
LINE_SECONDS = 30.0
TAIL_BYTES = 4096
TAIL_LINES = 30


class CommandFailed(Exception):
    """The command's exit status was not 0; the text is last outputs and where the rest is."""


def last_line(log: Path) -> str:
    """The last line of a file that has something on it, without control characters."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
        # What rewrites its line, as a progress bar does, ends it with a carriage return.
        lines = stream.read().decode(errors="replace").replace("\r", "\n").splitlines()
    shown = ["".join(c for c in line if c.isprintable()).strip() for line in lines]
    return next((line for line in reversed(shown) if line), "")


def status(what: str, seconds: float, last: str, columns: int) -> str:
    """One line for a person, never wider than the terminal."""
    text = f"{what}: {seconds:.0f} s" + (f"  {last}" if last else "")
    return text if len(text) < columns else text[: columns - 2] + "…"


def run(
    what: str,
    argv: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command to its end. log: gets its output. Raises CommandFailed, OSError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr.isatty()
    print(what, file=sys.stderr, end="" if terminal else "\n", flush=True)
    begin = said = time.monotonic()
    # An interrupt between the start and the `try` would leave the command running.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        with log.open("wb") as out:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env=env,
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),
            )  # fmt: skip
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        while True:
            try:
                code = process.wait(TICK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            columns = shutil.get_terminal_size().columns
            line = status(what, now - begin, last_line(log), columns if terminal else 200)
            if terminal:
                print(f"\r\033[K{line}", file=sys.stderr, end="", flush=True)
            elif now - said >= LINE_SECONDS:
                said = now
                print(line, file=sys.stderr, flush=True)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        if terminal:
            print("\r\033[K", file=sys.stderr, end="", flush=True)
    if code:
        tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        name = Path(argv[0]).name
        raise CommandFailed("\n".join([*tail, f"{name} failed; the whole log is {log}"]))
    if terminal:
        print(f"{what}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)


def main() -> int:
    """The command line; the status is the command's, or 1."""
    what, log, *argv = sys.argv[1:]

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        run(what, argv, Path(log))
    except (CommandFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
