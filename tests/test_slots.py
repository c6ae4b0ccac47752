"""When the next request may leave: the sliding window, against a search through every moment there is."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrouter_mcp.callers import Caller
from openrouter_mcp.errors import DailyQuota, MinuteQuota
from openrouter_mcp.ledger.slots import DAY_S, Refusal, day_of, earliest, next_midnight, too_late

NOW = 1_800_000_000.0
# Whole seconds, so that every moment can be tried.
MOMENTS = st.lists(st.integers(-40, 80), max_size=40)
STARTS = st.integers(-10, 60)
WINDOWS = st.integers(1, 30)
LIMITS = st.integers(1, 6)
thorough = settings(max_examples=200, deadline=None)


def within(moments: Sequence[float], window: float, limit: int, *, around: float | None = None) -> bool:
    """Whether no span of `window` seconds, or none that holds `around`, has more than `limit` of `moments`."""
    moments = sorted(moments)
    spans = [(first, last) for first, last in zip(moments, moments[limit:], strict=False) if last - first < window]
    return not [span for span in spans if around is None or span[0] <= around <= span[1]]


def kept(wanted: Sequence[int], window: float, limit: int) -> list[float]:
    """Of `wanted`, in the order given, what keeps the limit: a book as reservations leave it."""
    taken: list[float] = []
    for moment in wanted:
        if within([*taken, moment], window, limit):
            taken.append(float(moment))
    return sorted(taken)


@thorough
@given(wanted=MOMENTS, start=STARTS, window=WINDOWS, limit=LIMITS)
def test_the_slot_is_the_first_moment_that_keeps_the_limit(
    wanted: list[int], start: int, window: int, limit: int
) -> None:
    taken = kept(wanted, window, limit)
    at = earliest(taken, start, window, limit)
    assert at >= start
    assert within([*taken, at], window, limit)
    assert not [moment for moment in range(start, int(at)) if within([*taken, moment], window, limit)]


@thorough
@given(wanted=MOMENTS, start=STARTS, window=WINDOWS, limit=LIMITS)
def test_in_a_book_that_is_over_the_limit_the_slot_still_finds_a_span_of_its_own(
    wanted: list[int], start: int, window: int, limit: int
) -> None:
    """As after a limit that shrank, or two books that became one."""
    taken = sorted(float(moment) for moment in wanted)
    at = earliest(taken, start, window, limit)
    assert at >= start
    assert within([*taken, at], window, limit, around=at)
    earlier = [moment for moment in (start, *(moment + window for moment in taken)) if start <= moment < at]
    assert not [moment for moment in earlier if within([*taken, moment], window, limit, around=moment)]


@thorough
@given(
    steps=st.lists(st.floats(0.0, 70.0), min_size=1, max_size=60),
    window=st.sampled_from([0.7, 2.0, 61.0]),
    limit=LIMITS,
)
def test_at_times_of_today_rounding_neither_loses_a_slot_nor_finds_none(
    steps: list[float], window: float, limit: int
) -> None:
    taken: list[float] = []
    now = NOW + 1 / 3
    for step in steps:
        now += step / 10
        taken.append(earliest(taken, now, window, limit))
        taken.sort()
    assert within(taken, window - 2e-6, limit)
    assert taken[-1] <= now + window * (1 + len(steps) / limit)
    assert all(later - earlier <= window + 7.0 for earlier, later in pairwise(taken))


@thorough
@given(count=st.integers(1, 80), limit=st.integers(3, 20), asked_at=st.floats(0.0, 1_000.0))
def test_a_bulk_with_spare_slots_never_makes_a_single_question_wait(count: int, limit: int, asked_at: float) -> None:
    taken: list[float] = []
    for _ in range(count):
        taken.append(earliest(taken, NOW, 61.0, limit - 2))
    for _ in range(2):
        assert earliest(taken, NOW + asked_at, 61.0, limit) == NOW + asked_at
        taken = sorted([*taken, NOW + asked_at])


# taken, start, window, limit, slot
ROWS = {
    "an empty book": ([], 5, 60, 1, 5),
    "room left": ([0, 0], 5, 60, 3, 5),
    "the window is full": ([0, 1, 2], 5, 60, 3, 60),
    "exactly a window later": ([0], 60, 60, 1, 60),
    "a moment too early": ([0], 59.9, 60, 1, 60),
    "a gap between reserved moments": ([0, 130], 5, 60, 1, 60),
    "a gap that is too small": ([0, 100], 5, 60, 1, 160),
    "what lies ahead does not matter yet": ([100, 100], 5, 60, 2, 5),
    "what lies ahead within the window does": ([50, 50], 5, 60, 2, 110),
}


@pytest.mark.parametrize(("taken", "start", "window", "limit", "slot"), ROWS.values(), ids=ROWS)
def test_the_window_slides(taken: list[float], start: float, window: float, limit: int, slot: float) -> None:
    assert earliest(taken, start, window, limit) == slot


@thorough
@given(st.floats(0, 4e9))
def test_a_day_ends_at_midnight_in_utc(moment: float) -> None:
    assert day_of(next_midnight(moment)) == day_of(moment) + 1
    assert 0 < next_midnight(moment) - moment <= DAY_S
    assert next_midnight(moment) % DAY_S == 0


# --- in words ---------------------------------------------------------------------------------------------------------

USED_UP = "alice's own share of this {}'s free requests is used up: nothing was sent."
FIT = "This needs {} free requests, and {} fit in alice's own share of this {}'s free requests: nothing was sent."
# the refusal, how many were asked for, the error, its words, when to come again
WORDS = {
    "the day is used up": (
        Refusal(70.0, True, 0), 1, DailyQuota,
        "The account's free requests of this day are used up, so nothing was sent.", 70.0,
    ),
    "nobody knows what is left": (
        Refusal(70.0, True, None), 3, DailyQuota,
        "The account's free requests of this day are used up, so nothing was sent.", 70.0,
    ),
    "more than the day has": (
        Refusal(70.0, True, 2), 3, DailyQuota,
        "This needs 3 free requests and 2 are left today: nothing was sent. Ask for less.", None,
    ),
    "the minute is taken": (
        Refusal(7.0, False, 9), 1, MinuteQuota,
        "The minute's free requests are taken, so nothing was sent.", 7.0,
    ),
    "the minute has no room": (
        Refusal(7.0, False, 9), 20, MinuteQuota,
        "The minute has no room for 20 free requests, so nothing was sent.", 7.0,
    ),
    "more than a minute has": (
        Refusal(7.0, False, 9), 21, MinuteQuota,
        "At most 20 can be asked at once now, so nothing was sent. Ask for less.", None,
    ),
    "a share of nothing": (
        Refusal(7.0, False, 9, whose=Caller("alice", per_minute=0)), 1, DailyQuota,
        "No free requests are alice's share here, so nothing was sent.", None,
    ),
    "a share of the day": (
        Refusal(70.0, True, 9, whose=Caller("alice", per_day=5)), 1, DailyQuota, USED_UP.format("day"), 70.0,
    ),
    "a share of the minute": (
        Refusal(7.0, False, 9, whose=Caller("alice", per_minute=5)), 1, MinuteQuota, USED_UP.format("minute"), 7.0,
    ),
    "some fit in a share": (
        Refusal(7.0, False, 9, fits=2, whose=Caller("alice", per_day=9, per_minute=5)), 5, MinuteQuota,
        f"{FIT.format(5, 2, 'minute')} Ask for 2 at once or fewer.", 7.0,
    ),
    "one fits in a share": (
        Refusal(70.0, True, 9, fits=1, whose=Caller("alice", per_day=5, per_minute=9)), 2, DailyQuota,
        f"{FIT.format(2, 1, 'day')} Ask for 1 at once or fewer.", 70.0,
    ),
    "more than all of a share": (
        Refusal(70.0, True, 9, whose=Caller("alice", per_day=5)), 6, DailyQuota, FIT.format(6, 0, "day"), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WORDS)
def test_who_comes_too_late_is_told_why_and_when_to_come_again(case: str) -> None:
    refusal, count, kind, words, again = WORDS[case]
    error = too_late(refusal, count, per_minute=20)
    assert (type(error), error.text, error.hint_s) == (kind, words, again)


def test_a_window_is_kept_to_the_microsecond() -> None:
    """An epoch time as a float is no more exact than that."""
    assert earliest([NOW], NOW + 59.9999995, 60.0, 1) == NOW + 59.9999995
    assert earliest([NOW], NOW + 59.99999, 60.0, 1) == NOW + 60.0
