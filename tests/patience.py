# SPDX-License-Identifier: Apache-2.0
"""Time limits of tests: one factor for machines that are slow.

CPC_TEST_PATIENCE multiplies every limit; in an emulated machine everything
takes many times longer, and that is no failure.
"""

from __future__ import annotations

import os

PATIENCE = float(os.environ.get("CPC_TEST_PATIENCE", "1"))


def patient(seconds: float) -> float:
    """A limit in seconds, as long as this machine needs it to be."""
    return seconds * PATIENCE
