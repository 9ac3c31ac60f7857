# SPDX-License-Identifier: Apache-2.0
"""cpcctl vm pause and resume."""

from __future__ import annotations

import argparse
from functools import partial

from cpcctl.ui import interrupts
from cpcctl.ui.context import Context
from cpcctl.vm import pause
from cpcctl.vm.pause import Change


def pause_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of vm pause."""
    parser.add_argument("name", metavar="VM", help="name of the VM")


@interrupts.without()
def pause_run(args: argparse.Namespace, ctx: Context) -> int:
    """Pause a guest; one that stands still already is fine."""
    from cpcctl.migrate.recovery import orphaned

    check = partial(orphaned.refuse_orphan, ctx.settings, args.name)
    done = pause.pause(ctx.settings, args.name, check)
    already = f"{args.name} is stopped already: {done.reason}"
    text = f"paused {args.name}" if done.changed else already
    _show(ctx, args.name, done, text)
    return 0


def resume_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of vm resume."""
    parser.add_argument("name", metavar="VM", help="name of the VM")


@interrupts.without()
def resume_run(args: argparse.Namespace, ctx: Context) -> int:
    """Let a guest go on; one that runs is fine."""
    from cpcctl.migrate.recovery import orphaned

    check = partial(orphaned.refuse_orphan, ctx.settings, args.name)
    done = pause.resume(ctx.settings, args.name, check)
    already = f"{args.name} runs already"
    text = f"resumed {args.name} ({done.reason})" if done.changed else already
    _show(ctx, args.name, done, text)
    return 0


def _show(ctx: Context, name: str, done: Change, text: str) -> None:
    ctx.out.result(
        {"name": name, "changed": done.changed, "was": done.was, "reason": done.reason}, text
    )
