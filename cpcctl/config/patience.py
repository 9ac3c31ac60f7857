# SPDX-License-Identifier: Apache-2.0
"""One factor for every time limit of ours, for hosts that are very slow."""

from __future__ import annotations

import os

from cpcctl.errors import CpcError, ExitCode, quoted

VARIABLE = "CPCCTL_PATIENCE"


def patient(seconds: float) -> float:
    """A limit in seconds, as often as CPCCTL_PATIENCE says. Raises CpcError (2)."""
    word = os.environ.get(VARIABLE) or "1"
    try:
        factor = float(word)
    except ValueError:
        factor = 0.0
    if not 0.1 <= factor <= 1000:
        raise CpcError(
            f"{VARIABLE} is a factor from 0.1 to 1000, not {quoted(word)}",
            exit_code=ExitCode.USAGE,
            hint=f"unset {VARIABLE}",
        )
    return seconds * factor
