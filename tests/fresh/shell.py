# SPDX-License-Identifier: Apache-2.0
"""Runs inside a bare system, for migrate.py: does what it is asked, one line of JSON each.

    ["run", COMMAND...]    to its end                     [exit code, stdout, stderr]
    ["start", COMMAND...]  and leave it                   [0, first line of its stdout, ""]
    ["wait"]               for the one that was started   [exit code, rest of stdout, stderr]
"""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> int:
    """Until stdin ends."""
    started: subprocess.Popen[str] | None = None
    for line in sys.stdin:
        kind, *argv = json.loads(line)
        if kind == "run":
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            answer = [done.returncode, done.stdout, done.stderr]
        elif kind == "start":
            started = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            assert started.stdout is not None
            answer = [0, started.stdout.readline(), ""]
        else:
            assert started is not None
            out, err = started.communicate()
            answer = [started.returncode, out, err]
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
