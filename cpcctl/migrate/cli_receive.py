# SPDX-License-Identifier: Apache-2.0
"""cpcctl receive: print a ticket, wait for the VM that it admits."""

from __future__ import annotations

import argparse

from cpcctl.errors import CpcError, ExitCode
from cpcctl.migrate.cli import positive
from cpcctl.ui.context import Context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of receive."""
    parser.add_argument(
        "--listen", default="0.0.0.0:0", metavar="HOST:PORT",
        help="where to listen; port 0 is any free one (default: 0.0.0.0:0)",
    )
    parser.add_argument(
        "--address", metavar="HOST",
        help="address for the ticket (default: that of --listen, or this host's name)",
    )
    parser.add_argument(
        "--nic", action="append", default=[], metavar="NAME=TAP",
        help="here the VM's network device (net0, or its tap there) is TAP; repeatable",
    )
    parser.add_argument(
        "--allow-path", action="append", default=[], metavar="DIR",
        help="the VM may use files below DIR, besides /var/lib/cpcctl/images, /srv and "
        "the setting allow_paths; repeatable",
    )
    parser.add_argument(
        "--wait", type=positive, metavar="SECONDS",
        help="give up when no source has come by then (default: wait for ever)",
    )
    parser.add_argument(
        "--grace", type=positive, default=60.0, metavar="SECONDS",
        help="how long to wait for a source that was lost (default: 60)",
    )
    parser.add_argument(
        "--peer-timeout", type=positive, default=10.0, metavar="SECONDS",
        help="silence after which the other host counts as lost (default: 10)",
    )


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Receive one VM."""
    from cpcctl.link.ticket import check_host
    from cpcctl.migrate import receiving

    host, _, port = args.listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise CpcError("--listen is HOST:PORT", exit_code=ExitCode.USAGE)
    host = check_host(host)
    taps = dict(part for part in (word.split("=", 1) for word in args.nic) if len(part) == 2)
    if len(taps) != len(args.nic):
        raise CpcError("--nic is NAME=TAP, each NAME once", exit_code=ExitCode.USAGE)
    for folder in args.allow_path:
        if not folder.startswith("/") or ":" in folder:
            raise CpcError(
                "--allow-path is an absolute path without ':'", exit_code=ExitCode.USAGE
            )
    wishes = receiving.Wishes(
        host=host,
        port=int(port),
        address=check_host(args.address) if args.address else None,
        taps=taps,
        wait=args.wait,
        grace=args.grace,
        peer_timeout=args.peer_timeout,
        allow_paths=":".join(args.allow_path),
    )
    return receiving.receive(ctx, wishes)
