# SPDX-License-Identifier: Apache-2.0
"""The pair of hosts that most tests here use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lib.fork_server import ForkServer
from tests.twohosts.pair import Pair


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """It starts the commands of a module."""
    with ForkServer() as found:
        yield found


@pytest.fixture
def pair(built: Any, server: ForkServer) -> Iterator[Pair]:
    """Two fresh hosts on loopback."""
    hosts = Pair(built, server)
    yield hosts
    hosts.close()
