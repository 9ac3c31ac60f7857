# SPDX-License-Identifier: Apache-2.0
"""Readers of single arguments, for argparse's type=."""

from __future__ import annotations

import argparse
import math


def seconds(text: str) -> float:
    """A length of time: positive and finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
