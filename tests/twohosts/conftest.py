# SPDX-License-Identifier: Apache-2.0
"""The pair of hosts that most tests here use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.twohosts.pair import Pair


@pytest.fixture
def pair(built: Any) -> Iterator[Pair]:
    """Two fresh hosts on loopback."""
    hosts = Pair(built)
    yield hosts
    hosts.close()
