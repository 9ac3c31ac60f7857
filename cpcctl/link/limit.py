# SPDX-License-Identifier: Apache-2.0
"""A token bucket: how many bytes may leave now. Pure; the caller has the clock."""

from __future__ import annotations

import threading


class Bucket:
    """rate is bytes a second, None for no limit; shared by all streams."""

    def __init__(self, rate: float | None, now: float) -> None:
        self._rate = rate
        # A tenth of a second of burst keeps the average right and sends long; what is less
        # than a byte would never be one.
        self._burst = max(rate / 10, 1.0) if rate else 0.0
        self._tokens = self._burst
        self._then = now
        self._lock = threading.Lock()

    def take(self, wanted: int, now: float) -> tuple[int, float]:
        """(bytes that may be sent now, seconds to wait when that is 0)."""
        if not self._rate:
            return wanted, 0.0
        with self._lock:
            self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
            self._then = now
            granted = min(wanted, int(self._tokens))
            least = min(wanted, 65536, max(1, int(self._burst)))
            if granted < least:
                # Not less than a clock can tell: waiting must make progress.
                return 0, max((least - self._tokens) / self._rate, 1e-4)
            self._tokens -= granted
            return granted, 0.0

    def give_back(self, unused: int) -> None:
        """Return what was granted and not sent."""
        with self._lock:
            self._tokens = min(self._burst, self._tokens + unused)
