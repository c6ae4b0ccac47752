"""When the next request may leave: a sliding window over the moments already taken. Pure; times in epoch seconds."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.errors import DailyQuota, MinuteQuota, OpenRouterMCPError

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
    the requests still free today, None when nobody knows. `whose` share it is that is used up, if it is one's; `fits`
    would come in time."""

    seconds: float
    daily: bool
    left: int | None
    fits: int = 0
    whose: Caller = NOBODY


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


def too_late(refusal: Refusal, count: int, per_minute: int) -> OpenRouterMCPError:
    """Why `count` requests were refused, in words."""
    if refusal.whose.has_share:
        return _beyond_share(refusal, count)
    if refusal.daily and refusal.left:
        return DailyQuota(
            f"This needs {count} free requests and {refusal.left} are left today: nothing was sent. Ask for less."
        )
    if refusal.daily:
        return DailyQuota(
            "The account's free requests of this day are used up, so nothing was sent.", hint_s=refusal.seconds
        )
    if count > per_minute:
        return MinuteQuota(f"At most {per_minute} can be asked at once now, so nothing was sent. Ask for less.")
    needs = (
        "The minute's free requests are taken" if count == 1 else f"The minute has no room for {count} free requests"
    )
    return MinuteQuota(f"{needs}, so nothing was sent.", hint_s=refusal.seconds)


def _beyond_share(refusal: Refusal, count: int) -> OpenRouterMCPError:
    who, fits = refusal.whose, refusal.fits
    if who.may_ask_nothing:
        return DailyQuota(f"No free requests are {who.name}'s share here, so nothing was sent.")
    kind, when, size = (DailyQuota, "day", who.per_day) if refusal.daily else (MinuteQuota, "minute", who.per_minute)
    share = f"{who.name}'s own share of this {when}'s free requests"
    said = f"This needs {count} free requests, and {fits} fit in {share}" if count > 1 else f"{share} is used up"
    less = f" Ask for {fits} at once or fewer." if fits else ""
    comes = size is not None and count <= size  # more than all of it never fits
    return kind(f"{said}: nothing was sent.{less}", hint_s=refusal.seconds if comes else None)
