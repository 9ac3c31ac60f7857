# SPDX-License-Identifier: Apache-2.0
"""The pair of hosts that most tests here use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.twohosts.pair import Pair


@pytest.fixture
def pair(built: Any) -> Iterator[Pair]:
    """Two fresh hosts on loopback."""
    hosts = Pair(built)
    yield hosts
    hosts.close()
