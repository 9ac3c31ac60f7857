# SPDX-License-Identifier: Apache-2.0
"""When to switch over, and the bandwidth limit."""

from __future__ import annotations

import pytest

from cpcctl.link.limit import Bucket
from cpcctl.migrate.converge import (
    FEW_PAGES,
    HANDOVER_SECONDS,
    Progress,
    Rates,
    Round,
    behind,
    decide,
    rates,
    speed,
)


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


def test_bucket_of_less_than_ten_bytes_a_second() -> None:
    bucket = Bucket(1.0, 0.0)
    assert bucket.take(65536, 0.0)[0] == 1
    assert bucket.take(65536, 0.5)[0] == 0
    assert bucket.take(65536, 1.0)[0] == 1


def test_bucket_takes_back() -> None:
    bucket = Bucket(1_000_000.0, 0.0)
    granted, _ = bucket.take(100_000, 0.0)
    assert granted == 100_000
    assert bucket.take(70_000, 0.0)[0] == 0
    bucket.give_back(granted)
    assert bucket.take(70_000, 0.0)[0] == 70_000


def test_rates_of_a_round() -> None:
    found = rates(Round(2, 20_000, 0, 80 << 20, 0.5, 1 << 15))
    assert found == Rates(dirty=256 << 20, copy=160 << 20)


@pytest.mark.parametrize(
    ("left", "stalled"),
    [
        ([100_000], 0),
        # Each time fewer: it gets there, however long a round takes.
        ([100_000, 60_000, 30_000, 10_000], 0),
        # As many as before, or fewer by chance.
        ([100_000, 100_000, 99_900, 99_500], 300),
        ([100_000, 40_000, 90_000, 41_000], 200),
        ([100_000, 110_000, 120_000, 90_000], 0),
    ],
)
def test_progress_is_fewer_pages_than_ever(left: list[int], stalled: float) -> None:
    progress, now, found = Progress(0.0), 0.0, -1.0
    for dirty in left:
        now += 100.0
        found = progress.after_round(dirty, now)
    assert found == stalled


def test_within_a_round_whatever_moves_is_progress() -> None:
    progress = Progress(0.0)
    assert progress.within_round((1, 0), 149.0) == 0
    assert progress.within_round((1, 0), 249.0) == 100
    assert progress.within_round((1, 7), 250.0) == 0
    progress.after_round(9, 300.0)
    assert progress.within_round((1, 7), 301.0) == 1


def test_what_people_are_told() -> None:
    found = Rates(dirty=210 << 20, copy=80 << 20)
    assert behind(4.0, found) == ""
    assert behind(35.2, found) == (
        "no progress for 35 s: the guest writes 210 MiB/s, 80 are copied"
    )
