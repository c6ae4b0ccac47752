"""When the next request may leave: a sliding window over the moments already taken. Pure; times in epoch seconds."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

DAY_S = 86_400
NEW_DAY_S = 1.0  # how far into the new day its first request is sent: clocks differ a little
_ROUNDING_S = 1e-6  # an epoch time as a float is exact to a quarter of a microsecond


@dataclass(frozen=True)
class Slot:
    """One request that may be sent `at` a moment, `wait` seconds after it was granted; it counts until it is given
    back, to the `book` it is in."""

    id: int
    at: float
    wait: float
    book: object = field(repr=False)


@dataclass(frozen=True)
class Refusal:
    """No slot in time: the first would come after `seconds`. `daily` when it is the day that is used up; `left` are
    the requests still free today, None when nobody knows."""

    seconds: float
    daily: bool
    left: int | None


def earliest(taken: Sequence[float], start: float, window: float, limit: int) -> float:
    """The first moment from `start` on at which one more request leaves every span of `window` seconds with at most
    `limit` of them. `taken` is sorted and may lie ahead: gaps between reserved moments are used."""
    later = sorted(moment + window for moment in taken if moment + window > start)
    return next(moment for moment in (start, *later) if _fits(taken, moment, window, limit))


def _fits(taken: Sequence[float], moment: float, window: float, limit: int) -> bool:
    place = bisect_right(taken, moment)
    around = [*taken[max(0, place - limit) : place], moment, *taken[place : place + limit]]
    return all(last - first >= window - _ROUNDING_S for first, last in zip(around, around[limit:], strict=False))


def day_of(moment: float) -> int:
    """The UTC day of a moment, counted from 1970."""
    return int(moment // DAY_S)


def next_midnight(moment: float) -> float:
    """The first moment of the next UTC day."""
    return (day_of(moment) + 1.0) * DAY_S
