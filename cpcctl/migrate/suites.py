# SPDX-License-Identifier: Apache-2.0
"""Which cipher suite a migration uses. Pure.

The source offers the one that is fastest here and there together. Both hellos
are hashed into every key, so the choice is too; a host that lies about speeds
gets a slower suite out of those that the policy allows, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cpcctl import abi
from cpcctl.abi_status import SUITE_NAMES
from cpcctl.host.suite_speed import text


@dataclass(frozen=True)
class Choice:
    """suites: mask for OPEN, of one suite when it was chosen by speed. why: for the report."""

    suites: int
    why: str


def choose(allowed: int, seal: Mapping[int, float], opening: Mapping[int, float]) -> Choice:
    """The fastest suite of the mask, or all of it where nothing can be compared.

    seal: bytes a second on the source, opening: on the destination, by suite; a
    suite that is missing was not measured there. What counts is the slower of both.
    """
    both = {
        suite: min(seal[suite], opening[suite])
        for suite in SUITE_NAMES
        if allowed & abi.SUITE_BIT(suite) and suite in seal and suite in opening
    }
    if not both:
        return Choice(allowed, "by preference: no speeds were measured")
    best = max(both, key=lambda suite: both[suite])
    words = f"{text(seal[best])} sealed here, {text(opening[best])} opened there"
    if len(both) == 1:
        return Choice(abi.SUITE_BIT(best), f"the only one that both sides have: {words}")
    return Choice(abi.SUITE_BIT(best), f"the fastest of {len(both)}: {words}")
