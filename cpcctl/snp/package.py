# SPDX-License-Identifier: Apache-2.0
"""The package sev-snp-measure, imported only by what measures a launch."""

from __future__ import annotations

import importlib
from typing import Any

from cpcctl.errors import CpcError, ExitCode

PACKAGE = "sev-snp-measure"


def part(name: str) -> Any:
    """One of its modules. Raises CpcError (3) when the package is missing."""
    try:
        return importlib.import_module(f"sevsnpmeasure.{name}")
    except ImportError as error:
        raise CpcError(
            f"the Python package {PACKAGE} is missing; without it no launch digest is known",
            exit_code=ExitCode.REFUSED,
            cause=str(error),
            hint=f"pip install {PACKAGE}, or make venv",
        ) from error
