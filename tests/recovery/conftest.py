# SPDX-License-Identifier: Apache-2.0
"""The server that starts every command of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lib.fake_machine import build
from tests.lib.fork_server import ForkServer
from tests.recovery.hosts import IMPATIENT, Scene


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """One for a module; what a fake machine needs is built before."""
    build.library()
    with ForkServer() as found:
        yield found


@pytest.fixture(scope="module")
def impatient(server: ForkServer) -> Iterator[ForkServer]:
    """One whose commands do not wait long for what does not come, see Host.impatient()."""
    with ForkServer(CPCCTL_PATIENCE=IMPATIENT) as found:
        yield found


@pytest.fixture
def scene(server: ForkServer) -> Iterator[Scene]:
    """Two fresh hosts."""
    found = Scene(server)
    yield found
    found.close()
