# SPDX-License-Identifier: Apache-2.0
"""A controller on a real VM stops itself at a call of the firmware, as a debugger would stop it.

Python loads this at the start of a process that has this folder on its path. The variable says
where: "before commit", "after run", by the names of cpcctl/migrate/session.py; once.
"""

from __future__ import annotations

import os
import signal
from typing import Any

VARIABLE = "CPC_TEST_STOP_AT"


def _install(when: str, name: str) -> None:
    from cpcctl.migrate import session

    real = getattr(session, name)

    def stops(*arguments: Any, **more: Any) -> Any:
        setattr(session, name, real)
        if when == "before":
            os.kill(os.getpid(), signal.SIGSTOP)
        found = real(*arguments, **more)
        if when == "after":
            os.kill(os.getpid(), signal.SIGSTOP)
        return found

    setattr(session, name, stops)


if os.environ.get(VARIABLE):
    _install(*os.environ[VARIABLE].split())
