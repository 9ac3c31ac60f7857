# SPDX-License-Identifier: Apache-2.0
"""When to switch over, and the bandwidth limit."""

from __future__ import annotations

import pytest

from cpcctl.link.limit import Bucket
from cpcctl.migrate.converge import FEW_PAGES, HANDOVER_SECONDS, Round, decide, speed


def one(dirty: int | None, sent: int = 1 << 30, seconds: float = 1.0) -> Round:
    return Round(1, sent >> 12, 0, sent, seconds, dirty)


def test_idle_guest_switches_at_once() -> None:
    decision = decide([one(FEW_PAGES, sent=0)], 0.3, None)
    assert decision.switch
    assert decision.expected == HANDOVER_SECONDS


def test_busy_guest_goes_on() -> None:
    decision = decide([one(1 << 18)], 0.3, None)
    assert not decision.switch
    assert decision.expected == pytest.approx(HANDOVER_SECONDS + 1.0)


def test_enough_downtime_switches() -> None:
    assert decide([one(1 << 18)], 2.0, None).switch


def test_limit_counts() -> None:
    assert speed([one(0)], 1e6) == 1e6
    assert not decide([one(2560)], 0.3, 1 << 20).switch


def test_paused_guest_switches() -> None:
    assert decide([one(1 << 18)], 0.1, None, paused=True).switch


def test_zero_pages_do_not_make_the_link_slow() -> None:
    """Else a guest that is mostly zero pages could never switch over."""
    first = Round(1, 50_000, 2_000_000, 200 << 20, 27.0, 1000)
    later = Round(2, 1000, 0, 4 << 20, 0.02, 1000)
    assert speed([first, later], None) == (4 << 20) / 0.02
    assert not decide([first], 0.3, None).switch
    assert decide([first, later], 0.3, None).switch


def test_speed_is_of_a_round_that_moved_something() -> None:
    assert speed([one(0), Round(2, 1, 0, 4096, 1.0, 0)], None) == float(1 << 30)
    assert speed([], None) == 0.0
    assert speed([Round(1, 0, 0, 0, 0.0, 0)], None) == 0.0


def test_needs_the_dirty_count() -> None:
    with pytest.raises(ValueError, match="dirty"):
        decide([one(None)], 0.3, None)


def test_bucket_without_limit() -> None:
    assert Bucket(None, 0.0).take(1 << 30, 0.0) == (1 << 30, 0.0)


def test_bucket_keeps_the_rate() -> None:
    rate = 10_000_000.0
    bucket = Bucket(rate, 0.0)
    now, sent = 0.0, 0
    while now < 10:
        granted, pause = bucket.take(1 << 20, now)
        sent += granted
        now += pause if not granted else 1e-6
        assert granted or pause > 0
    assert sent == pytest.approx(rate * 10, rel=0.02)


def test_bucket_takes_back() -> None:
    bucket = Bucket(1_000_000.0, 0.0)
    granted, _ = bucket.take(100_000, 0.0)
    assert granted == 100_000
    assert bucket.take(70_000, 0.0)[0] == 0
    bucket.give_back(granted)
    assert bucket.take(70_000, 0.0)[0] == 70_000
