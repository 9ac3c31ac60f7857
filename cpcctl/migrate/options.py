# SPDX-License-Identifier: Apache-2.0
"""What the operator asked of one migration; kept in the job's data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """bandwidth: bytes a second or None. max_downtime, timeout, peer_timeout: seconds.

    parallel: data streams, 0 for as many as both machines have cores idle for.
    suites: mask of abi.SUITE_BIT that this side accepts.
    """

    bandwidth: float | None = None
    max_downtime: float = 0.3
    timeout: float | None = None
    pause_on_timeout: bool = False
    peer_timeout: float = 10.0
    parallel: int = 0
    suites: int = 0x1E

    def document(self) -> dict[str, Any]:
        """For the job file."""
        return asdict(self)

    @classmethod
    def read(cls, document: dict[str, Any]) -> Options:
        """From the job file."""
        return cls(**document)
