# SPDX-License-Identifier: Apache-2.0
"""The pair of hosts that most tests here use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pair import Pair  # noqa: E402


@pytest.fixture
def pair(built: Any) -> Iterator[Pair]:
    """Two fresh hosts on loopback."""
    hosts = Pair(built)
    yield hosts
    hosts.close()
