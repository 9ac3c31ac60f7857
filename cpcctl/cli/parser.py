# SPDX-License-Identifier: Apache-2.0
"""The argument parser, built from the table; a verb's own part comes late."""

from __future__ import annotations

import argparse
import difflib
import importlib
from collections.abc import Sequence
from typing import Any, NoReturn

from cpcctl.cli import arguments
from cpcctl.cli.verbs import GROUPS, VERBS, Verb
from cpcctl.config.settings import FORMATS, PROGRESS
from cpcctl.errors import CpcError, ExitCode, quoted

# (flag, setting, metavar or choices, help); valid before and after the verb.
COMMON: tuple[tuple[str, str, str | tuple[str, ...], str], ...] = (
    ("--format", "format", FORMATS, "format of the result on stdout (default: text)"),
    ("--progress", "progress", PROGRESS, "how to show progress on stderr (default: auto)"),
    ("--state-dir", "state_dir", "DIR", "folder for VM definitions, jobs and logs"),
    ("--run-dir", "run_dir", "DIR", "folder for sockets and ring files"),
    ("--qemu", "qemu", "FILE", "patched QEMU to use"),
    ("--firmware", "firmware", "FILE", "hvCPU firmware image to use"),
)
FLAG_NAMES = tuple(setting for _, setting, _, _ in COMMON)


class Parser(argparse.ArgumentParser):
    """Errors in our style; a verb's arguments are declared on first use."""

    def __init__(self, *args: Any, verb: Verb | None = None, **kwargs: Any) -> None:
        kwargs = {"formatter_class": _formatter, "allow_abbrev": False, **kwargs}
        super().__init__(*args, **kwargs)
        self.verb = verb
        self._declared = False

    def declare(self) -> None:
        """Import the verb's module and let it add its arguments."""
        if self.verb is None or self._declared:
            return
        self._declared = True
        module = importlib.import_module(self.verb.module)
        getattr(module, self.verb.arguments)(self)
        add_common(self)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        self.declare()
        return super().parse_known_args(args, namespace)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            verb = getattr(found, "_run", None)
            prog = f"cpcctl {verb.path}" if verb else self.prog
            raise _refused(f"unknown: {' '.join(rest)}", prog)
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse's own words differ from one Python to the next.
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            near = difflib.get_close_matches(str(value), known, n=1)
            meant = f"; did you mean {near[0]}?" if near else f" (one of {', '.join(known)})"
            raise argparse.ArgumentError(action, f"unknown {quoted(value)}{meant}")

    def error(self, message: str) -> NoReturn:
        raise _refused(message, self.prog)


def _refused(message: str, prog: str) -> CpcError:
    return CpcError(message, exit_code=ExitCode.USAGE, hint=f"{prog} --help")


def asked_format(argv: Sequence[str]) -> str | None:
    """The --format of a command line that may be wrong elsewhere; the last one."""
    found = None
    for index, word in enumerate(argv):
        flag, sign, value = word.partition("=")
        if flag == "--format":
            value = value if sign else "".join(argv[index + 1 : index + 2])
            found = value if value in FORMATS else found
    return found


def _formatter(prog: str) -> argparse.HelpFormatter:
    # A fixed width: help is the same everywhere, and can be compared in tests.
    return argparse.HelpFormatter(prog, width=79, max_help_position=26)


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags every verb takes."""
    group = parser.add_argument_group("common options")
    for flag, setting, values, text in COMMON:
        choices = values if isinstance(values, tuple) else None
        metavar = values if isinstance(values, str) else None
        group.add_argument(
            flag,
            dest=setting,
            choices=choices,
            metavar=metavar,
            type=arguments.path if metavar else str,
            default=argparse.SUPPRESS,
            help=text,
        )


def build() -> Parser:
    """The whole tree; no verb's module is imported."""
    top = Parser(
        prog="cpcctl",
        description="Confidential procedure calls: migrate and maintain VMs through hvCPUs.",
        epilog="cpcctl VERB --help shows the options of a verb.",
    )
    add_common(top)
    commands = top.add_subparsers(title="verbs", metavar="VERB", dest="_verb", required=True)
    groups: dict[str, Any] = {}
    for verb in VERBS:
        group, _, name = verb.path.rpartition(" ")
        if not group:
            _leaf(commands, name, verb)
            continue
        if group not in groups:
            parent = commands.add_parser(group, help=GROUPS[group], description=_upper(group))
            groups[group] = parent.add_subparsers(
                title="verbs", metavar="VERB", dest="_subverb", required=True
            )
        _leaf(groups[group], name, verb)
    return top


def _upper(group: str) -> str:
    text = GROUPS[group]
    return text[0].upper() + text[1:] + "."


def _leaf(commands: Any, name: str, verb: Verb) -> None:
    description = verb.help[0].upper() + verb.help[1:] + "."
    parser = commands.add_parser(name, help=verb.help, description=description, verb=verb)
    parser.set_defaults(_run=verb)
