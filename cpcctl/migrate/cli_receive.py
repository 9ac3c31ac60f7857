# SPDX-License-Identifier: Apache-2.0
"""cpcctl receive: print a ticket, wait for the VM that it admits."""

from __future__ import annotations

import argparse
import os

from cpcctl.cli import arguments
from cpcctl.errors import CpcError, ExitCode
from cpcctl.ui.context import Context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of receive."""
    parser.add_argument(
        "--listen", type=arguments.listen, metavar="HOST:PORT",
        help="where to listen; port 0 is any free one (default: 0.0.0.0:0, or [::]:0 for an IPv6 "
        "--address)",
    )
    parser.add_argument(
        "--address", type=arguments.host, metavar="HOST",
        help="address for the ticket (default: that of --listen, or this host's name)",
    )
    parser.add_argument(
        "--nic", type=arguments.card, action="append", default=[], metavar="NAME=TAP",
        help="the VM's network device (net0, or its tap there) gets TAP here, or, with "
        "NAME=user, a user network; repeatable; one that is not named is refused",
    )
    parser.add_argument(
        "--allow-path", type=arguments.folder, action="append", default=[], metavar="DIR",
        help="the VM may use files below DIR, besides images in cpcctl's state folder and "
        "the setting allow_paths; repeatable",
    )
    parser.add_argument(
        "--allow-hostfwd", type=arguments.port, action="append", default=[],
        metavar="tcp:ADDRESS:PORT",
        help="a user network of the VM may listen there; repeatable",
    )
    parser.add_argument(
        "--wait", type=arguments.waiting, metavar="SECONDS",
        help="give up when no source has come by then (default: no limit)",
    )
    parser.add_argument(
        "--grace", type=arguments.seconds, default=60.0, metavar="SECONDS",
        help="how long to wait for a source that was lost (default: 60)",
    )
    parser.add_argument(
        "--peer-timeout", type=arguments.seconds, default=10.0, metavar="SECONDS",
        help="silence after which the other host counts as lost (default: 10)",
    )
    parser.add_argument(
        "--events-fd", type=arguments.descriptor, metavar="N",
        help="write what happens, the ticket among it, to file descriptor N as JSON lines "
        "(default: as notes to stderr, with --format json as JSON lines there)",
    )


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Receive one VM."""
    from cpcctl.migrate import receiving
    from cpcctl.migrate.events import Events

    host, port = args.listen or (arguments.any_address(args.address), 0)
    arguments.reachable(host, args.address)
    arguments.allowed(ctx.settings.allow_paths)
    taps = dict(args.nic)
    if len(taps) != len(args.nic):
        raise CpcError("--nic names one network card twice", exit_code=ExitCode.USAGE)
    wishes = receiving.Wishes(
        host=host,
        port=port,
        address=args.address,
        taps=taps,
        wait=args.wait,
        grace=args.grace,
        peer_timeout=args.peer_timeout,
        allow_paths=":".join(args.allow_path),
        ports=tuple(args.allow_hostfwd),
    )
    stream = os.fdopen(args.events_fd, "w") if args.events_fd is not None else None
    return receiving.receive(ctx, wishes, Events(ctx, stream))
