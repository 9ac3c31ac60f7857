# SPDX-License-Identifier: Apache-2.0
"""Readers of single arguments, for argparse's type=."""

from __future__ import annotations

import argparse
import math

from cpcctl.config.settings import ACCELS
from cpcctl.errors import quoted


def seconds(text: str) -> float:
    """A length of time: positive and finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a number of seconds above 0")
    return value


def accel(parser: argparse.ArgumentParser, before: str = "") -> None:
    """The flag --accel of a verb that starts VMs; args.accel is None without it.

    before: what counts before the setting, for the help.
    """
    parser.add_argument(
        "--accel",
        choices=ACCELS,
        help=f"with what VMs run (default: {before}the setting accel, else auto: KVM where it "
        "works)",
    )
