# SPDX-License-Identifier: Apache-2.0
"""Where tests may stop a controller: it stops itself, as a debugger would.

Killing a process exactly between two steps needs its help. Without the
variable in its environment this does nothing, and stopping harms nobody.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "CPCCTL_TEST_STOP_AT"


def at(point: str) -> None:
    """Stop here when the variable names this point."""
    if os.environ.get(VARIABLE) == point:
        os.kill(os.getpid(), signal.SIGSTOP)
