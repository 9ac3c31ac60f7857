# SPDX-License-Identifier: Apache-2.0
"""Entry point: parse, run one verb, turn errors into words and exit codes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence

from cpcctl.errors import CpcError, ExitCode, Terminated


def main(argv: Sequence[str] | None = None) -> int:
    """Run cpcctl and return its exit code."""
    fmt = "text"
    try:
        signal.signal(signal.SIGTERM, _terminated)
        from cpcctl.cli.parser import FLAG_NAMES, build

        args = build().parse_args(argv)
        flags = {name: getattr(args, name, None) for name in FLAG_NAMES}
        fmt = flags["format"] or os.environ.get("CPCCTL_FORMAT", fmt)
        from cpcctl.cli.context import Context
        from cpcctl.cli.output import Output
        from cpcctl.config.load import load

        settings = load(flags)
        fmt = settings.format
        context = Context(settings, Output(fmt))
        module = importlib.import_module(args._run.module)
        return int(getattr(module, args._run.run)(args, context))
    except CpcError as error:
        _show(error, fmt)
        return int(error.exit_code)
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        code = ExitCode.TERMINATED if terminated else ExitCode.INTERRUPTED
        _show(CpcError("terminated" if terminated else "interrupted", exit_code=code), fmt)
        return int(code)
    except BrokenPipeError:
        # The reader of our output went away, as in `cpcctl vm list | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.FAILED)
    except Exception as error:  # noqa: BLE001 - the last resort is to say so
        import traceback

        traceback.print_exc()
        _show(
            CpcError(
                "a defect in cpcctl",
                exit_code=ExitCode.DEFECT,
                cause=f"{type(error).__name__}: {error}",
                hint="report this with the lines above; cpcctl vm list shows where VMs are",
            ),
            fmt,
        )
        return int(ExitCode.DEFECT)


def _show(error: CpcError, fmt: str) -> None:
    if fmt == "json":
        print(json.dumps({"error": error.as_dict()}), file=sys.stderr)
    else:
        print(error.render(), file=sys.stderr)


def _terminated(_signal: int, _frame: object) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
