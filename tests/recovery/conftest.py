# SPDX-License-Identifier: Apache-2.0
"""The server that starts every command of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lib.fake_machine import build
from tests.lib.fork_server import ForkServer
from tests.recovery.hosts import Scene


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """One for a module; what a fake machine needs is built before."""
    build.library()
    with ForkServer() as found:
        yield found


@pytest.fixture
def scene(server: ForkServer) -> Iterator[Scene]:
    """Two fresh hosts."""
    found = Scene(server)
    yield found
    found.close()
