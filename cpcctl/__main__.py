# SPDX-License-Identifier: Apache-2.0
"""Entry point: parse, run one verb, turn errors into words and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from cpcctl.errors import CpcError, ExitCode
from cpcctl.ui import interrupts, streams

if TYPE_CHECKING:
    from cpcctl.config.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run cpcctl and return its exit code."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _drain(stream)
        interrupts.all_is_said()


def _run(argv: Sequence[str]) -> int:
    fmt = os.environ.get("CPCCTL_FORMAT", "text")
    try:
        interrupts.hear()
        streams.prepare()
        from cpcctl.cli.parser import FLAG_NAMES, asked_format

        fmt = asked_format(argv) or fmt
        args = _parse(argv)
        flags = {name: getattr(args, name, None) for name in FLAG_NAMES}
        from cpcctl.config.load import load
        from cpcctl.ui.context import Context
        from cpcctl.ui.output import Output

        settings = load(flags)
        fmt = settings.format
        context = Context(settings, Output(fmt, acts=args._run.acts))
        module = importlib.import_module(args._run.module)
        try:
            return int(getattr(module, args._run.run)(args, context))
        except CpcError as error:
            # What is wrong with a flag is read on in the verb's help.
            if error.hint is None and error.message.startswith("--"):
                error.hint = f"cpcctl {args._run.path} --help"
            _say_where(error, settings)
            raise
    except CpcError as error:
        _show(error, fmt)
        return int(error.exit_code)
    except KeyboardInterrupt as stop:
        code = interrupts.exit_code(stop)
        _show(CpcError(interrupts.word(stop), exit_code=code), fmt, heard=True)
        return int(code)
    except BrokenPipeError:
        # The reader of our output went away, as in `cpcctl vm list | head -1`.
        return int(ExitCode.FAILED)
    except Exception as error:  # noqa: BLE001 - the last resort is to say so
        import traceback

        with contextlib.suppress(OSError):
            traceback.print_exc()
        _show(
            CpcError(
                "internal error in cpcctl",
                exit_code=ExitCode.DEFECT,
                cause=f"{type(error).__name__}: {error}",
                hint="report this with the lines above; cpcctl vm list shows where VMs are",
            ),
            fmt,
        )
        return int(ExitCode.DEFECT)


def _say_where(error: CpcError, settings: Settings) -> None:
    """Of a VM that is not here: the record of jobs may know where it went."""
    from cpcctl.vm.registry import NoVm

    if isinstance(error, NoVm):
        from cpcctl.migrate.recovery import moved

        moved.explain(error, settings)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    from cpcctl.cli.parser import build
    from cpcctl.ui.output import unwritable

    try:
        try:
            found: argparse.Namespace = build().parse_args(argv)
        finally:
            # After --help: whether its text arrived is seen here.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(error) from error
    return found


def _show(error: CpcError, fmt: str, *, heard: bool = False) -> None:
    """heard: a signal is why it ends."""
    interrupts.end_with(lambda: int(error.exit_code), heard=heard)
    text = json.dumps({"error": error.as_dict()}) if fmt == "json" else error.render()
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def _drain(stream: TextIO | None) -> None:
    """What cannot be written is dropped, or Python complains of it at exit."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        assert stream is not None
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
