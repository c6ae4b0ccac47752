"""The shared book: what may be sent when, whatever the clock does, and what a book that cannot be used costs."""

import os
import sqlite3
import stat
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from engine import OVER_BOTH, either, either_place
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from mcp import Client
from support import CANARY, SETTINGS, Time, ask, connected, file_of, opened

from openrouter_mcp.app import open_app
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.errors import (
    DailyQuota,
    MinuteQuota,
    ModelBusy,
    Network,
    OpenRouterMCPError,
    Outcome,
    Upstream,
)
from openrouter_mcp.guard import Held
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.book import LEASE_S, Book
from openrouter_mcp.ledger.shelf import ALONE_PER_MINUTE
from openrouter_mcp.ledger.slots import DAY_S, NEW_DAY_S, Refusal, Slot, day_of, next_midnight
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.ledger.sqlite.schema import VERSION
from openrouter_mcp.reading import Timeouts
from openrouter_mcp.records import FreeRequests, KeyInfo
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.sandbox.transport import StreamingTransport
from openrouter_mcp.server import build

MIDNIGHT = 20_000.0 * DAY_S
NOON = MIDNIGHT + DAY_S / 2
WINDOW = 61.0
LONGEST = 600.0  # nobody reserves further ahead
MODEL = "acme/tiny:free"
FIVE = [MODEL, "globex/large:free", "initech/coder:free", "tyrell/polyglot:free", "soylent/chat:free"]
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@contextmanager
def book(path: Path | str = ":memory:", *, limit: int = 20, window: float = WINDOW) -> Generator[Book]:
    with either(path, limit=limit, window=window) as opened_book:
        yield opened_book


def granted(
    book: Book, now: float, count: int = 1, *, account: str = "a", longest_wait: float = LONGEST, spare: int = 0
) -> list[Slot]:
    slots = book.reserve(account, count, now, longest_wait, spare)
    assert isinstance(slots, list)
    return slots


def refused(
    book: Book, now: float, count: int = 1, *, account: str = "a", longest_wait: float = 0.0, spare: int = 0
) -> Refusal:
    refusal = book.reserve(account, count, now, longest_wait, spare)
    assert isinstance(refusal, Refusal)
    return refusal


# --- any sequence of what processes do ------------------------------------------------------------------------------

ACCOUNTS = st.sampled_from(["a", "b", "key"])


class SteadyClock(RuleBasedStateMachine):
    """One book, three accounts, and a list of what it granted to check it against."""

    # A day's limit that one burst over midnight cannot fill: that case has a test of its own.
    limit, window, day_limit = 4, WINDOW, 12

    def __init__(self) -> None:
        super().__init__()
        self.now = MIDNIGHT - 300.0
        self.book = SQLiteBook(":memory:", limit=self.limit, window=self.window, ticks=lambda: 0.0)
        self.slots: dict[str, list[Slot]] = defaultdict(list)
        self.read: dict[str, tuple[int, int]] = {}  # account: day of OpenRouter's count, used elsewhere
        self.stops: dict[str, float] = {}
        self.is_named = False

    def teardown(self) -> None:
        self.book.close()

    @initialize(before_midnight=st.sampled_from([10.0, 300.0, 40_000.0]))
    def begin(self, before_midnight: float) -> None:
        self.now = MIDNIGHT - before_midnight

    @rule(seconds=st.one_of(st.floats(0, 90), st.sampled_from([0.001, 61.0, 3600.0, 86_400.0])))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        account=ACCOUNTS,
        count=st.integers(1, 8),
        longest_wait=st.sampled_from([0.0, 20.0, 55.0, LONGEST]),
        spare=st.integers(0, 2),
    )
    def reserve(self, account: str, count: int, longest_wait: float, spare: int) -> None:
        slots = self.book.reserve(account, count, self.now, longest_wait, spare)
        if isinstance(slots, Refusal):
            self.check_refusal(account, count, longest_wait, spare, slots)
            return
        assert len(slots) == count
        self.slots[account] += slots
        for slot in slots:
            assert self.now <= slot.at <= self.now + longest_wait
            self.check(account, slot, spare)

    def check(self, account: str, slot: Slot, spare: int) -> None:
        """That `slot` overdraws neither its window nor its day, and waits for the end of a stop."""
        moments = sorted(other.at for other in self.slots[account])
        spans = zip(moments, moments[self.limit - spare :], strict=False)
        assert all(last - first >= self.window - 1e-6 for first, last in spans if first <= slot.at <= last)
        assert slot.at >= self.stops.get(account, 0.0)
        if account in self.read:
            day, elsewhere = self.read[account]
            used = sum(day_of(moment) == day_of(slot.at) for moment in moments)
            assert used + (elsewhere if day == day_of(slot.at) else 0) <= self.day_limit

    def check_refusal(self, account: str, count: int, longest_wait: float, spare: int, refusal: Refusal, /) -> None:
        """That the seconds of a refusal are true: asking again with so many is granted, and not with fewer."""
        assert refusal.seconds > longest_wait
        wait = refusal.seconds
        if wait + 0.001 <= LONGEST:
            assert isinstance(self.book.reserve(account, count, self.now, wait - 0.001, spare), Refusal)
            slots = granted(self.book, self.now, count, account=account, longest_wait=wait + 0.001, spare=spare)
            self.check_given_back(slots)

    @rule(account=ACCOUNTS, choose=st.randoms(use_true_random=False))
    def give_back(self, account: str, choose: Any) -> None:
        if self.slots[account]:
            slot = choose.choice(self.slots[account])
            self.slots[account].remove(slot)
            self.check_given_back([slot])

    def check_given_back(self, slots: list[Slot]) -> None:
        self.book.give_back(slots)

    @rule(account=ACCOUNTS, used=st.integers(0, 62))
    def note_count(self, account: str, used: int) -> None:
        self.book.note_count(account, used, self.day_limit, self.now)
        today = [slot for slot in self.slots[account] if day_of(slot.at) == day_of(self.now) and slot.at <= self.now]
        self.read[account] = day_of(self.now), max(0, used - len(today))

    @rule(account=ACCOUNTS, seconds=st.one_of(st.floats(0, 90), st.none()))
    def stop(self, account: str, seconds: float | None) -> None:
        midnight = next_midnight(self.now)
        until_then = midnight if seconds is None else self.now + seconds
        self.book.stop(account, until_then, daily=seconds is None)
        self.stops[account] = max(self.stops.get(account, 0.0), until_then)

    @precondition(lambda self: not self.is_named)
    @rule()
    def name(self) -> None:
        """The key turns out to be a's: one book from now on."""
        self.is_named = True
        self.book.name("key", "a")
        self.slots["a"] += self.slots.pop("key", [])
        was_known = "a" in self.read or "a" in self.stops
        read, stop = self.read.pop("key", None), self.stops.pop("key", None)
        if read is not None and not was_known:
            self.read["a"] = read
        if stop is not None:
            self.stops["a"] = max(self.stops.get("a", 0.0), stop)

    @rule(account=ACCOUNTS)
    def look(self, account: str) -> None:
        use = self.book.use(account, self.now)
        assert use.today >= use.elsewhere
        assert use.left is None or use.left >= 0


class JumpingClock(SteadyClock):
    """The clock also jumps, an hour either way or a little; nobody may be kept from sending for ever."""

    @rule(seconds=st.one_of(st.sampled_from([-3600.0, 3600.0]), st.floats(-120, 0)))
    def jump(self, seconds: float) -> None:
        self.now += seconds

    def check(self, account: str, slot: Slot, spare: int) -> None:
        """What was granted before a jump has no place on this clock."""

    def check_refusal(self, account: str, count: int, longest_wait: float, _: int, refusal: Refusal, /) -> None:
        assert refusal.seconds > longest_wait
        left = self.book.use(account, self.now).left
        if count == 1 and account not in self.stops and left != 0:
            assert refusal.seconds <= LONGEST + 2 * self.window + 1


TestSteadyClock = SteadyClock.TestCase
TestSteadyClock.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestJumpingClock = JumpingClock.TestCase
TestJumpingClock.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


# --- the book, case by case -----------------------------------------------------------------------------------------


@OVER_BOTH
def test_midnight_during_a_wait_counts_the_day_of_the_slot() -> None:
    now = MIDNIGHT - 10
    with book(limit=1) as one:
        one.note_count("a", 49, 50, now)
        assert [slot.at - now for slot in granted(one, now, 2)] == [0, WINDOW]
        assert one.use("a", now).left == 0
        assert one.use("a", MIDNIGHT).left == 49


@OVER_BOTH
def test_a_day_that_is_used_up_is_waited_for_until_midnight_or_refused() -> None:
    now = MIDNIGHT - 30
    with book() as one:
        one.note_count("a", 50, 50, now)
        assert refused(one, now, longest_wait=20) == Refusal(30 + NEW_DAY_S, daily=True, left=0)
        assert [slot.at for slot in granted(one, now, longest_wait=40)] == [MIDNIGHT + NEW_DAY_S]


@OVER_BOTH
def test_more_than_the_day_has_left_is_refused_with_what_is_left_and_takes_nothing() -> None:
    with book() as one:
        one.note_count("a", 47, 50, NOON)
        assert refused(one, NOON, 4, longest_wait=55) == Refusal(DAY_S / 2 + NEW_DAY_S, daily=True, left=3, fits=3)
        assert one.use("a", NOON).left == 3
        assert len(granted(one, NOON, 3)) == 3


@OVER_BOTH
def test_a_limit_that_shrinks_makes_everybody_wait_until_the_window_holds_less(tmp_path: Path) -> None:
    with book(tmp_path / "b", limit=20) as wide, book(tmp_path / "b", limit=5) as narrow:
        granted(wide, NOON, 20)
        assert refused(narrow, NOON + 30).seconds == pytest.approx(WINDOW - 30)
        assert len(granted(narrow, NOON + WINDOW, 5, longest_wait=0)) == 5
        wide.note_count("a", 25, 50, NOON + WINDOW)
        wide.note_count("a", 25, 20, NOON + WINDOW)  # the day's limit is below what was used: none left, not fewer
        assert wide.use("a", NOON + WINDOW).left == 0


# OpenRouter's count after 10 requests of ours, what counts as used elsewhere, then left of 50 after one more of ours
COUNTS = [(0, 0, 39), (9, 0, 39), (10, 0, 39), (25, 15, 24), (60, 50, 0)]


@OVER_BOTH
@pytest.mark.parametrize(("used", "elsewhere", "left"), COUNTS)
def test_openrouters_count_adds_what_was_used_elsewhere_and_its_lag_takes_nothing_away(
    used: int, elsewhere: int, left: int
) -> None:
    with book() as one:
        granted(one, NOON, 10)
        one.note_count("a", used, 50, NOON)
        one.reserve("a", 1, NOON, 0, 0)
        use = one.use("a", NOON)
        assert (use.elsewhere, use.left) == (elsewhere, left)


@OVER_BOTH
def test_what_is_reserved_and_not_yet_sent_is_not_in_openrouters_count() -> None:
    with book(limit=10) as one:
        granted(one, NOON, 15)
        one.note_count("a", 12, 50, NOON)
        use = one.use("a", NOON)
        assert (use.elsewhere, use.left) == (2, 33)


@OVER_BOTH
def test_a_new_day_forgets_what_was_used_elsewhere_and_keeps_the_limit() -> None:
    with book() as one:
        one.note_count("a", 50, 50, MIDNIGHT - 1)
        use = one.use("a", MIDNIGHT)
        assert (use.today, use.elsewhere, use.day_limit, use.left) == (0, 0, 50, 50)


@OVER_BOTH
def test_accounts_do_not_count_each_others_requests() -> None:
    with book() as one:
        granted(one, NOON, 20)
        assert len(granted(one, NOON, 20, account="b", longest_wait=0)) == 20


def test_what_is_taken_and_left_is_the_same_through_every_door_to_one_file(tmp_path: Path) -> None:
    with book(tmp_path / "b") as first, book(tmp_path / "b") as second:
        first.note_count("a", 0, 50, NOON)
        slots = granted(first, NOON, 20)
        assert refused(second, NOON).seconds == WINDOW
        first.give_back(slots[:1])
        assert second.use("a", NOON).minute == 19
        granted(second, NOON, longest_wait=0)


@pytest.mark.parametrize(("waited", "late"), [(0.01, 0.0), (0.02, 0.02), (5.0, 5.0)])
def test_the_seconds_that_a_sibling_kept_the_file_are_no_part_of_a_slots_wait_or_a_lease(
    waited: float, late: float
) -> None:
    ticks = count(0.0, waited)
    with closing(SQLiteBook(":memory:", limit=1, window=WINDOW, ticks=lambda: next(ticks))) as one:
        assert [(slot.at, slot.wait) for slot in granted(one, NOON)] == [(NOON + late, 0.0)]
        assert one.take("a", "batch", "here", NOON)
        assert [one.is_leased("batch", NOON + late + LEASE_S - more) for more in (0.001, 0.0)] == [True, False]


@OVER_BOTH
@pytest.mark.parametrize("year", [3000, 100_000])
def test_a_stop_until_an_absurd_year_is_forgotten(year: int) -> None:
    with book() as one:
        one.stop("a", (year - 1970) * 365.0 * DAY_S, daily=True)
        one.stop("a", (year - 1970) * 365.0 * DAY_S, daily=False)
        assert granted(one, NOON, longest_wait=0)
        assert one.use("a", NOON).left is None


@OVER_BOTH
def test_a_stop_until_midnight_leaves_nothing_today_and_everything_tomorrow() -> None:
    with book() as one:
        one.stop("a", next_midnight(NOON), daily=True)
        assert refused(one, NOON, longest_wait=55) == Refusal(DAY_S / 2, daily=True, left=0)
        assert granted(one, next_midnight(NOON), longest_wait=0)


@OVER_BOTH
def test_a_clock_set_back_an_hour_keeps_nobody_waiting() -> None:
    with book() as one:
        granted(one, NOON, 20)
        (slot,) = granted(one, NOON - 3600)
        assert slot.at <= NOON - 3600 + WINDOW
        assert refused(one, NOON - 3600).seconds <= WINDOW  # what lay ahead counts as of now: never more than the limit


def test_old_days_are_forgotten(tmp_path: Path) -> None:
    with book(tmp_path / "b") as one, closing(sqlite3.connect(tmp_path / "b")) as peek:
        granted(one, NOON, 20)
        granted(one, NOON + 3 * DAY_S)
        assert peek.execute("SELECT count(*) FROM slots").fetchone() == (1,)


@OVER_BOTH
def test_a_minutes_stop_does_not_shorten_a_days() -> None:
    """Two requests in flight: one meets the day's limit, the other the minute's."""
    with book() as one:
        one.stop("a", next_midnight(NOON), daily=True)
        one.stop("a", NOON + 10, daily=False)
        assert refused(one, NOON + 20, longest_wait=55).daily


@OVER_BOTH
def test_a_minutes_stop_that_ends_after_midnight_holds() -> None:
    now = MIDNIGHT - 10
    with book() as one:
        one.stop("a", now + 50, daily=False)
        assert refused(one, now, longest_wait=20) == Refusal(50, daily=False, left=None)


@OVER_BOTH
def test_a_stop_noted_before_the_account_was_known_outlives_the_merge() -> None:
    with book() as one:
        one.note_count("a", 3, 50, NOON)  # by another key of the account
        one.stop("key", next_midnight(NOON), daily=True)
        one.name("key", "a")
        assert refused(one, NOON, longest_wait=55).daily


@OVER_BOTH
def test_a_clock_set_back_an_hour_does_not_lengthen_a_minutes_stop() -> None:
    with book() as one:
        one.stop("a", NOON + 50, daily=False)
        assert granted(one, NOON - 3600, longest_wait=WINDOW)


@OVER_BOTH
def test_a_clock_set_back_an_hour_after_a_busy_hour_keeps_nobody_waiting() -> None:
    with book() as one:
        for second in range(0, 3700, 61):
            granted(one, NOON - 3600 + second, 20)
        assert granted(one, NOON - 3600, longest_wait=WINDOW + 1)


@OVER_BOTH
def test_a_clock_set_back_an_hour_does_not_lengthen_a_cooldown() -> None:
    with book() as one:
        one.cool([MODEL], NOON, shortest=30, hint=0, reason="no content")
        granted(one, NOON - 3600)
        assert one.probe([MODEL], NOON - 3600 + LONGEST + 1, NOON) == set()


@OVER_BOTH
def test_a_burst_over_midnight_does_not_overdraw_the_new_day() -> None:
    now = MIDNIGHT - 10
    with book() as one:
        one.note_count("a", 10, 10, now)
        granted(one, now, 10, longest_wait=55)
        refused(one, now, longest_wait=55)


@OVER_BOTH
def test_a_minutes_wait_that_ends_after_midnight_is_not_taken_for_the_days_limit() -> None:
    now = MIDNIGHT - 10
    with book() as one:
        one.note_count("a", 0, 50, now)
        granted(one, now, 20)
        assert refused(one, now, longest_wait=20) == Refusal(WINDOW, daily=False, left=30)


@OVER_BOTH
def test_the_seconds_of_a_refused_bulk_are_when_all_of_it_could_be_sent() -> None:
    with book() as one:
        for second in range(20):
            granted(one, NOON + second)
        refusal = refused(one, NOON + 20, 8, longest_wait=20)
        assert granted(one, NOON + 20, 8, longest_wait=refusal.seconds + 0.001)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of `folder` by name."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- models on cooldown ---------------------------------------------------------------------------------------------


@OVER_BOTH
def test_after_a_cooldown_one_caller_alone_tries_the_model(tmp_path: Path) -> None:
    with book(tmp_path / "b") as first, book(tmp_path / "b") as second:
        first.cool([MODEL], NOON, shortest=30, hint=0, reason="no content")
        assert second.probe(FIVE, NOON + 29, NOON + 59) == {MODEL}
        assert second.probe(FIVE, NOON + 30, NOON + 60) == set()
        assert first.probe(FIVE, NOON + 31, NOON + 61) == {MODEL}
        first.recover(MODEL)
        assert second.look("a", NOON + 31).cooldowns == {}
        assert second.probe(FIVE, NOON + 32, NOON + 62) == set()


# failure, seconds of the first five cooldowns in a row
COOLING = {
    "busy pool": (ModelBusy("Busy."), [30, 60, 120, 240, 480, 600, 600]),
    "server error": (Upstream("Broken."), [15, 30, 60, 120, 240, 480, 600, 600]),
    "lost": (Network("Reset."), [15, 30]),
    "no content": (Upstream("Nothing.", outcome=Outcome.EMPTY), [15, 30]),
    "busy for as long as it says": (ModelBusy("Busy.", hint_s=45), [45, 60, 120]),
    "busy until an absurd year": (ModelBusy("Busy.", hint_s=1e12), [600, 600]),
    "refused": (OpenRouterMCPError("No."), [None]),
    "never sent": (Network("No route.", outcome=Outcome.NEVER_SENT), [None]),
}


@OVER_BOTH
@pytest.mark.parametrize(("failure", "seconds"), COOLING.values(), ids=COOLING)
async def test_a_model_is_left_alone_twice_as_long_for_each_failure_in_a_row(
    failure: OpenRouterMCPError, seconds: list[float | None]
) -> None:
    async with ledger(word := Word()) as one:
        for _ in range(2):  # an answer in between ends the row
            for pause in seconds:
                await one.failed([MODEL], failure)
                cooldowns = (await one.standing()).cooldowns
                assert [cooldown.until - word.at.now for cooldown in cooldowns.values()] == ([pause] if pause else [])
            await one.answered([MODEL], MODEL)
            assert (await one.standing()).cooldowns == {}


@OVER_BOTH
async def test_of_several_callers_one_claims_the_model_whose_cooldown_ended(tmp_path: Path) -> None:
    word = Word()
    async with ledger(word, tmp_path) as first, ledger(word, tmp_path) as second:
        await first.failed([MODEL], ModelBusy("Busy."))
        assert await second.claim(FIVE) == FIVE[1:]
        word.at.now += 30
        assert sorted([await first.claim(FIVE), await second.claim(FIVE)]) == sorted([FIVE, FIVE[1:]])
        await second.failed([MODEL], ModelBusy("Busy."))  # the trial failed
        word.at.now += 59
        assert await first.claim(FIVE) == FIVE[1:]
        await first.answered([MODEL], MODEL)
        assert await first.claim(FIVE) == await second.claim(FIVE) == FIVE


# --- OpenRouter's own count -----------------------------------------------------------------------------------------


class Word:
    """What OpenRouter says of the key, and how often it was asked; with the clock of the test."""

    def __init__(self, *, used: int = 0, limit: int | None = 50, user: str | None = "user_canary_1") -> None:
        self.at = Time()
        self.at.now = NOON
        self.used, self.limit, self.user = used, limit, user
        self.asked = 0
        self.failure: OpenRouterMCPError | None = None
        self.takes_s = 0.0

    async def key(self) -> KeyInfo:
        self.asked += 1
        self.at.now += self.takes_s
        if self.failure:
            raise self.failure
        free = self.limit and FreeRequests(used=self.used, limit=self.limit, remaining=max(0, self.limit - self.used))
        return KeyInfo(creator_user_id=self.user, free_model_daily_requests=free or None)


@asynccontextmanager
async def ledger(
    word: Word, folder: Path | None = None, *, key: str = CANARY, limit: int = 20, window: float = WINDOW
) -> AsyncGenerator[Ledger]:
    one = Ledger(key, either_place(folder, word.at.clock), word.key, limit=limit, window=window, clock=word.at.clock)
    try:
        yield one
    finally:
        await one.aclose()


@OVER_BOTH
async def test_openrouter_is_asked_at_first_use_and_every_ten_minutes() -> None:
    async with ledger(word := Word()) as one:
        assert word.asked == 0
        for seconds, asked in ((0, 1), (1, 1), (598, 1), (1, 2), (599, 2), (1, 3)):
            word.at.now += seconds
            await one.reserve(longest_wait=0)
            assert word.asked == asked


@OVER_BOTH
@pytest.mark.parametrize(
    ("failure", "asked"),
    [
        (MinuteQuota("Full.", hint_s=1), 2),
        (DailyQuota("Full."), 2),
        (ModelBusy("Busy."), 1),
        (Upstream("Broken."), 1),
    ],
)
async def test_openrouter_is_asked_again_after_a_limit_of_the_account(failure: OpenRouterMCPError, asked: int) -> None:
    async with ledger(word := Word()) as one:
        await one.reserve(longest_wait=0)
        await one.failed([MODEL], failure)
        with pytest.raises(DailyQuota) if isinstance(failure, DailyQuota) else _nothing():
            await one.reserve(longest_wait=55)
        assert word.asked == asked


@contextmanager
def _nothing() -> Generator[None]:
    yield


@OVER_BOTH
@pytest.mark.parametrize(("used", "asked_after"), [(43, [1, 1, 1]), (44, [1, 1, 2])])
async def test_openrouter_is_asked_again_when_few_are_left_but_not_within_its_lag(
    used: int, asked_after: list[int]
) -> None:
    async with ledger(word := Word(used=used)) as one:
        asked = []
        for seconds in (0, 59, 1):
            word.at.now += seconds
            (slot,) = await one.reserve(longest_wait=0)
            asked.append(word.asked)
            if seconds:
                await one.give_back([slot])
        assert asked == asked_after


@OVER_BOTH
async def test_many_first_calls_at_once_ask_openrouter_once() -> None:
    async with ledger(word := Word()) as one, anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(_reserve, one)
    assert word.asked == 1


async def _reserve(one: Ledger) -> None:
    await one.reserve(longest_wait=0)


@OVER_BOTH
@pytest.mark.parametrize("is_failing", [True, False])
async def test_an_allowance_that_openrouter_does_not_tell_is_unknown_and_the_minutes_limit_holds(
    is_failing: bool,
) -> None:
    word = Word(limit=None, user=None)  # a /key as before September 2026
    if is_failing:
        word.failure = Network("Down.")
    async with ledger(word) as one:
        await one.reserve(20, longest_wait=0)
        with pytest.raises(MinuteQuota):
            await one.reserve(longest_wait=55)
        standing = await one.standing()
    assert word.asked == 1
    assert (standing.use.today, standing.use.left, standing.use.day_limit) == (20, None, None)
    assert standing.share_left == 1.0
    assert str(standing).startswith("20 free requests used today; ")
    assert standing.warning == ""


@OVER_BOTH
async def test_what_was_kept_under_the_key_is_the_accounts_once_it_is_known(tmp_path: Path) -> None:
    word = Word()
    word.failure = Network("Down.")
    async with ledger(word, tmp_path) as one, ledger(Word(), tmp_path, key="another key") as sibling:
        await one.reserve(7, longest_wait=0)
        await sibling.reserve(5, longest_wait=0)
        word.failure, word.used = None, 12
        word.at.now += 10
        await one.read_key()
        assert (await one.standing()).use.minute == (await sibling.standing()).use.minute == 12
        with pytest.raises(MinuteQuota):
            await sibling.reserve(9, longest_wait=0)

    silent = Word()
    silent.failure = Network("Down.")
    async with ledger(silent, tmp_path) as later:  # it knows the account without asking
        with pytest.raises(MinuteQuota):
            await later.reserve(9, longest_wait=0)
        assert (await later.standing()).use.left == 38


@OVER_BOTH
async def test_a_process_that_could_not_ask_follows_a_sibling_that_could(tmp_path: Path) -> None:
    silent, word = Word(), Word()
    silent.failure = Network("Down.")
    async with ledger(silent, tmp_path) as one, ledger(word, tmp_path) as sibling:
        await one.reserve(longest_wait=0)
        await sibling.reserve(19, longest_wait=0)
        with pytest.raises(MinuteQuota):
            await one.reserve(longest_wait=0)


@OVER_BOTH
async def test_the_time_that_asking_openrouter_takes_counts_as_waiting() -> None:
    async with ledger(word := Word()) as one:
        await one.reserve(20, longest_wait=0)
        word.at.now += 10
        word.takes_s = 30
        await one.failed([MODEL], MinuteQuota("Full.", hint_s=0.0))  # so that it must be asked
        with pytest.raises(MinuteQuota):  # 30 s for the word, then 21 for the slot
            await one.reserve(longest_wait=40)


@OVER_BOTH
async def test_a_clock_set_back_after_the_grant_does_not_lengthen_the_wait() -> None:
    async with ledger(word := Word()) as one:
        await one.reserve(20, longest_wait=0)
        word.at.now += 30
        (slot,) = await one.reserve(longest_wait=55)
        word.at.now -= 3600
        assert one.wait_for(slot) <= 55


@OVER_BOTH
async def test_a_reservation_that_comes_too_late_is_refused_at_once_with_the_seconds() -> None:
    async with ledger(word := Word(used=30)) as one:
        await one.reserve(18, longest_wait=0, spare=2)
        word.at.now += 1
        with pytest.raises(MinuteQuota, match="nothing was sent") as minute:
            await one.reserve(2, longest_wait=55, spare=2)
        assert minute.value.hint_s == pytest.approx(60)
        assert "Try again in 60 s." in str(minute.value)
        await one.reserve(2, longest_wait=0)
        word.used = 50
        word.at.now += WINDOW
        with pytest.raises(DailyQuota, match="nothing was sent") as day:
            await one.reserve(longest_wait=55)
        assert day.value.hint_s == next_midnight(word.at.now) + NEW_DAY_S - word.at.now
        assert "00:00 UTC" in str(day.value)
    assert word.at.waits == []


# failure, seconds that everybody waits for
@OVER_BOTH
@pytest.mark.parametrize(
    ("failure", "seconds"),
    [
        (MinuteQuota("Full.", hint_s=8), 8),
        (MinuteQuota("Full."), WINDOW),
        (MinuteQuota("Full.", hint_s=1e12), 90),
        (DailyQuota("Full."), DAY_S / 2 + NEW_DAY_S),
        (DailyQuota("Full.", hint_s=1.0), 1.0 + NEW_DAY_S),  # by a clock a little fast it is yesterday's limit
    ],
)
async def test_a_limit_that_one_process_met_stops_all(
    failure: OpenRouterMCPError, seconds: float, tmp_path: Path
) -> None:
    word = Word()
    async with ledger(word, tmp_path) as one, ledger(word, tmp_path, key="another key") as sibling:
        await one.reserve(longest_wait=0)
        await sibling.reserve(longest_wait=0)
        await one.failed([MODEL], failure)
        with pytest.raises(type(failure)) as refusal:
            await sibling.reserve(longest_wait=1)
        assert refusal.value.hint_s == pytest.approx(seconds)
        word.at.now += seconds
        await sibling.reserve(longest_wait=0)


async def test_a_slot_of_another_book_is_not_given_back(tmp_path: Path) -> None:
    word = Word()
    async with ledger(word, tmp_path / "a") as one, ledger(word, tmp_path / "b") as other:
        slots = await one.reserve(3, longest_wait=0)
        await other.reserve(3, longest_wait=0)
        await other.give_back(slots)
        assert (await other.standing()).use.minute == 3
        await one.give_back(slots)
        assert (await one.standing()).use.minute == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
async def test_the_book_is_the_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    async with ledger(Word(), folder) as one:
        await one.reserve(longest_wait=0)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600] * len(list(folder.iterdir()))
    assert (folder / "ledger.db").is_file()


async def test_nothing_in_the_book_identifies_a_key_a_user_or_a_prompt(sandbox: Sandbox, tmp_path: Path) -> None:
    prompt = "Where does the pangolin sleep?"
    sandbox.fail(faults.pool_busy(), model=MODEL)
    async with connected(sandbox, settings=replace(SETTINGS, state_dir=tmp_path)) as client:
        await ask(client, prompt=prompt, model=MODEL, system=prompt)
        await ask(client, prompt=prompt, model=FIVE[1])
        await ask(client, "check_credits")
    held = b"".join(content for name, content in files(tmp_path).items() if "ledger" in str(name)).lower()
    assert MODEL.encode() in held  # the cooldown is there
    for secret in (CANARY, CANARY[-8:], sandbox.account.user, *prompt.lower().strip("?").split()[3:]):
        assert secret.lower().encode() not in held


async def test_a_sibling_that_holds_the_book_blocks_nobody_but_who_waits_for_it(tmp_path: Path) -> None:
    got: list[Slot] = []
    async with ledger(Word(), tmp_path) as one:
        await one.reserve(longest_wait=0)
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as sibling:
            sibling.execute("BEGIN IMMEDIATE")

            async def reserve() -> None:
                got.extend(await one.reserve(longest_wait=0))

            with anyio.fail_after(5):
                async with anyio.create_task_group() as group:
                    group.start_soon(reserve)
                    for _ in range(2000):
                        await anyio.lowlevel.checkpoint()
                    assert got == []
                    sibling.execute("COMMIT")
        assert len(got) == 1
        assert (await one.standing()).warning == ""


# --- a book that cannot be used -------------------------------------------------------------------------------------

Spoil = Callable[[Path, pytest.MonkeyPatch], object]


def _scribble(file: Path) -> None:
    """Keep the first page and spoil the others."""
    with book(file) as one:
        for number in range(400):
            granted(one, NOON, account=f"{number}", longest_wait=0)
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def _foreign(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as other:
        for statement in statements:
            other.execute(statement)
        other.commit()
    file.chmod(0o600)


def _touch(file: Path, mode: int) -> None:
    file.touch()
    file.chmod(mode)


def _plant_link(file: Path) -> None:
    target = file.parent / "elsewhere"
    target.write_bytes(b"")
    file.symlink_to(target)


def _fail_to_open(patch: pytest.MonkeyPatch, error: OSError) -> None:
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("ledger.db"):
            raise error
        return real(path, *arguments, **options)

    patch.setattr(os, "open", refuse)


def _without_no_follow(file: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delattr(os, "O_NOFOLLOW")
    _plant_link(file)


# how it came to be unusable, words of the warning, whether the file is set aside
UNUSABLE: dict[str, tuple[Spoil, str, bool]] = {
    "no book at all": (lambda file, _: file.write_bytes(b"not a book " * 200), "set aside as ledger.db.broken-", True),
    "scribbled over": (lambda file, _: _scribble(file), "set aside as ledger.db.broken-", True),
    "another program's": (
        lambda file, _: _foreign(file, "CREATE TABLE t (x)", f"PRAGMA user_version={VERSION}"),
        "no such table",
        False,
    ),
    "newer": (lambda file, _: _foreign(file, "PRAGMA user_version=99"), "newer version", False),
    "a planted link": (lambda file, _: _plant_link(file), "is a link", False),
    "a link to nowhere": (lambda file, _: file.symlink_to(file.parent / "nowhere"), "is a link", False),
    "a link, on a system without O_NOFOLLOW": (_without_no_follow, "is a link", False),
    "a folder": (lambda file, _: file.mkdir(mode=0o700), "IsADirectoryError", False),
    "a pipe": (lambda file, _: os.mkfifo(file, 0o600), "no regular file", False),
    "another user's": (
        lambda _, patch: patch.setattr(os, "geteuid", lambda: os.getuid() + 1),
        "belongs to another user",
        False,
    ),
    "a file others can write": (lambda file, _: _touch(file, 0o666), "written by others", False),
    "a folder others can write": (lambda file, _: file.parent.chmod(0o777), "written by others", False),
    "on a read-only disk": (lambda _, patch: _fail_to_open(patch, OSError(30, "Read-only")), "Read-only", False),
    "a file out of reach": (lambda _, patch: _fail_to_open(patch, PermissionError(13, "No")), "Permission", False),
}  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither owners nor modes nor pipes")
@pytest.mark.parametrize(("spoil", "words", "is_set_aside"), UNUSABLE.values(), ids=UNUSABLE)
async def test_a_book_that_cannot_be_used_leaves_five_requests_a_minute_and_a_warning(  # noqa: PLR0917 - fixtures
    spoil: Spoil,
    words: str,
    is_set_aside: bool,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    file = folder / "ledger.db"
    spoil(file, monkeypatch)
    before = file.read_bytes() if file.is_file() and not file.is_symlink() else None
    async with opened(sandbox, settings=replace(SETTINGS, state_dir=folder)) as app, Client(build(app)) as client:
        answers = [await ask(client, prompt="Hi", model=MODEL) for _ in range(7)]
        text, _, is_error = await ask(client, "check_credits")
        warning = (await app.ledger.standing()).warning
    assert [record.get("code") for _, record, _ in answers] == [None] * ALONE_PER_MINUTE + ["minute_quota"] * 2
    assert len(sandbox.chats) == ALONE_PER_MINUTE
    assert not is_error
    assert words in warning
    assert f"Warning: {warning}" in text
    assert f"This minute: {ALONE_PER_MINUTE} of {ALONE_PER_MINUTE} used." in text
    assert [record.getMessage() for record in caplog.records if "The shared book" in record.getMessage()] == [warning]
    monkeypatch.undo()
    aside = list(folder.glob("ledger.db.broken-*"))
    assert len(aside) == is_set_aside
    if before is not None:
        assert (aside[0] if aside else file).read_bytes() == before
    assert not [path.read_bytes() for path in folder.glob("elsewhere") if path.stat().st_size]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
async def test_a_state_folder_that_is_a_file_costs_the_shared_book_only(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        async with connected(sandbox, settings=replace(SETTINGS, state_dir=folder)) as client:
            assert not (await ask(client, prompt="Hi", model=MODEL))[2]
            assert "Warning: The shared book" in (await ask(client, "check_credits"))[0]


@pytest.mark.skipif(ROOT or os.name == "nt", reason="root may write everywhere")
async def test_a_folder_that_may_not_be_written_costs_the_shared_book_only(tmp_path: Path) -> None:
    (folder := tmp_path / "state").mkdir(mode=0o500)
    async with ledger(Word(), folder) as one:
        await one.reserve(longest_wait=0)
        assert (await one.standing()).warning


async def test_a_disk_that_fills_up_in_the_middle_costs_the_shared_book_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite's own limit of pages stands for the disk's end: the error is the same."""
    word = Word(limit=None)
    async with ledger(word, tmp_path, limit=1000) as one:
        slots = await one.reserve(longest_wait=0)
        (pages,) = file_of(one).db.execute("PRAGMA page_count").fetchone()
        file_of(one).db.execute(f"PRAGMA max_page_count={pages}")
        while not (await one.standing()).warning:
            slots += await one.reserve(longest_wait=0)
            assert len(slots) < 1000
        assert "database or disk is full" in (await one.standing()).warning
        await one.reserve(ALONE_PER_MINUTE - 1, longest_wait=0)
        with pytest.raises(MinuteQuota):
            await one.reserve(longest_wait=55)
        await one.give_back(slots)  # of the book that is gone, but for the last
        await one.reserve(longest_wait=0)
        with pytest.raises(MinuteQuota):
            await one.reserve(longest_wait=55)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    async with ledger(word, tmp_path, limit=1000) as later:
        await later.read_key()
        assert (await later.standing()).use.minute == len(slots) - 1


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("slots", "at"),
        ("accounts", "minute_stop"),
        ("accounts", "day_stop"),
        pytest.param("accounts", "day_limit"),
        pytest.param("accounts", "elsewhere"),
    ],
)
async def test_a_book_that_holds_words_for_numbers_stops_nobody(tmp_path: Path, table: str, column: str) -> None:
    word = Word()
    async with ledger(word, tmp_path) as one:
        await one.reserve(longest_wait=0)
    _foreign(tmp_path / "ledger.db", f"UPDATE {table} SET {column} = 'tomorrow'")  # noqa: S608
    word.failure = Network("Down.")
    async with ledger(word, tmp_path) as one:
        await one.reserve(longest_wait=0)
        with pytest.raises(MinuteQuota):
            await one.reserve(20, longest_wait=55)


async def test_a_newer_book_is_left_as_it_is(tmp_path: Path) -> None:
    _foreign(tmp_path / "ledger.db", "CREATE TABLE future (x)", "PRAGMA user_version=99")
    before = files(tmp_path)
    async with ledger(Word(), tmp_path) as one:
        await one.reserve(5, longest_wait=0)
        await one.failed([MODEL], DailyQuota("Full."))
        assert "newer version" in (await one.standing()).warning
    assert files(tmp_path) == before


# --- from end to end ------------------------------------------------------------------------------------------------


@pytest.fixture
def at() -> Time:
    time = Time()
    time.now = NOON
    return time


@pytest.fixture
def timed(at: Time) -> Sandbox:
    """A sandbox on the same clock as the server."""
    return Sandbox(clock=at.clock)


async def test_a_comparison_larger_than_what_is_left_is_refused_with_both_numbers(timed: Sandbox, at: Time) -> None:
    timed.account.per_day = 10
    async with connected(timed, at=at) as client:
        for _ in range(7):
            await ask(client, prompt="Hi", model=MODEL)
        text, record, is_error = await ask(client, "compare_models", prompt="Hi", models=FIVE)
        assert is_error
        assert text.startswith("daily_quota: This needs 5 free requests and 3 are left today: nothing was sent.")
        assert record["code"] == "daily_quota"
        assert len(timed.chats) == 7
        _, _, is_error = await ask(client, "compare_models", prompt="Hi", models=FIVE[:3])  # what is left is not lost
    assert not is_error
    assert len(timed.chats) == 10


async def test_comparisons_leave_two_requests_of_the_minute_for_a_question(timed: Sandbox, at: Time) -> None:
    async with connected(timed, at=at) as client:
        codes = [
            (await ask(client, "compare_models", prompt="Hi", models=FIVE[:size]))[1].get("code")
            for size in (5, 5, 5, 3, 2)
        ]
        assert codes == [None] * 4 + ["minute_quota"]
        assert len(timed.chats) == 18
        answers = [await ask(client, prompt="Hi", model=MODEL) for _ in range(2)]
        assert not [text for text, _, is_error in answers if is_error]
        assert at.waits == []
        text, record, _ = await ask(client, prompt="Hi", model=MODEL)
    assert record["code"] == "minute_quota"
    assert "Try again in 61 s." in text


async def test_the_21st_question_of_a_minute_waits_if_it_may(timed: Sandbox, at: Time) -> None:
    async with connected(timed, at=at) as client:
        for _ in range(20):
            await ask(client, prompt="Hi", model=MODEL)
        at.now += 5
        text, record, is_error = await ask(client, prompt="Hi", model=MODEL)
        assert is_error  # 56 s would be beyond the call's deadline
        assert record["code"] == "minute_quota"
        assert record["retry_after_s"] == 56
        assert "Try again in 56 s." in text
        assert "of 50 free requests left today" in text
        assert (len(timed.chats), at.waits) == (20, [])
        at.now += 2
        _, _, is_error = await ask(client, prompt="Hi", model=MODEL)
    assert not is_error
    assert at.waits == [54]


@pytest.mark.parametrize("is_another_process", [False, True])
async def test_a_daily_limit_stops_the_next_call_everywhere(
    is_another_process: bool,
    timed: Sandbox,
    at: Time,
    tmp_path: Path,
) -> None:
    stated = replace(SETTINGS, state_dir=tmp_path)
    timed.fail(faults.day_limit(now=at.now), times=None)
    async with connected(timed, at=at, settings=stated) as client, connected(timed, at=at, settings=stated) as second:
        _, record, _ = await ask(client, prompt="Hi", model=MODEL)
        assert record["code"] == "daily_quota"
        assert len(timed.chats) == 1
        timed.clear()
        for tool, more in (("ask_model", {"model": MODEL}), ("ask_model", {}), ("compare_models", {"models": FIVE})):
            text, record, _ = await ask(second if is_another_process else client, tool, prompt="Hi", **more)
            assert record["code"] == "daily_quota"
            assert record["retry_after_s"] == pytest.approx(DAY_S / 2, abs=2)
            assert "00:00 UTC" in text
        assert timed.chats == []
        at.now = next_midnight(at.now) + NEW_DAY_S
        _, _, is_error = await ask(second, prompt="Hi", model=MODEL)
    assert not is_error


@pytest.mark.parametrize("tool", ["ask_model", "compare_models"])
async def test_a_call_cancelled_while_it_waits_for_its_slot_gives_it_back(tool: str, timed: Sandbox, at: Time) -> None:
    waiting = anyio.Event()

    async def wait_for_ever(seconds: float) -> None:
        if seconds > 0:
            waiting.set()
            await anyio.sleep_forever()

    arguments: dict[str, Any] = {"models": FIVE} if tool == "compare_models" else {"model": MODEL}
    at.sleep = wait_for_ever  # type: ignore[method-assign]
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        await app.ledger.reserve(20, longest_wait=0)
        at.now += 30
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: ask(client, tool, prompt="Hi", **arguments))
            with anyio.fail_after(5):
                await waiting.wait()
            assert (await app.ledger.standing()).use.today > 20
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            while (await app.ledger.standing()).use.today > 20:
                await anyio.lowlevel.checkpoint()
    assert timed.chats == []


@pytest.mark.parametrize("tool", ["ask_model", "compare_models"])
async def test_a_call_cancelled_while_the_book_is_busy_leaves_nothing_reserved(
    tool: str, timed: Sandbox, at: Time, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"models": FIVE} if tool == "compare_models" else {"model": MODEL}
    at.sleep = anyio.sleep  # type: ignore[method-assign, assignment]  # of nothing: which is where a cancel arrives
    async with connected(timed, at=at, settings=replace(SETTINGS, state_dir=tmp_path)) as client:
        await ask(client, "check_credits")
        await ask(client, "list_free_models")
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as sibling:
            sibling.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: ask(client, tool, prompt="Hi", **arguments))
                for _ in range(2000):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
                sibling.execute("COMMIT")
        await ask(client, "check_credits")
    assert timed.chats == []
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as peek:
        assert peek.execute("SELECT count(*) FROM slots").fetchone() == (0,)


class Unreachable(httpx2.AsyncBaseTransport):
    """The sandbox, but no question ever gets there."""

    def __init__(self, sandbox: Sandbox, error: Exception) -> None:
        self._sandbox, self._error = StreamingTransport(sandbox.app), error

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/chat/completions"):
            raise self._error
        return await self._sandbox.handle_async_request(request)


# what happened to every request, how many of them the book keeps
@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (httpx2.ConnectError("refused"), 0),
        (httpx2.ConnectTimeout("no route"), 0),
        (httpx2.PoolTimeout("all busy"), 0),
        (httpx2.ReadError("reset"), 2),
        (httpx2.ReadTimeout("silence"), 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_only_a_request_that_was_never_sent_gives_its_slot_back(
    error: Exception, counted: int, timed: Sandbox, at: Time
) -> None:
    transport = Unreachable(timed, error)
    async with (
        open_app(SETTINGS, transport=transport, clock=at.clock, monotonic=at.clock, sleep=at.sleep) as app,
        Client(build(app)) as client,
    ):
        _, _, is_error = await ask(client, prompt="Hi", model=MODEL)
        assert is_error
        assert (await app.ledger.standing()).use.today == counted


async def test_a_request_that_failed_upstream_counts(timed: Sandbox, at: Time) -> None:
    timed.fail(faults.server_error(503), times=None)
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        await ask(client, prompt="Hi", model=MODEL)
        assert (await app.ledger.standing()).use.today == len(timed.chats) == 2


async def test_after_a_series_of_failures_nothing_is_tried_again_until_some_succeed(timed: Sandbox, at: Time) -> None:
    timed.account.per_day = timed.account.per_minute = 1000
    timed.fail(faults.server_error(503), times=None)
    async with connected(timed, at=at) as client:

        async def requests() -> int:
            timed.requests.clear()
            at.now += 60
            await ask(client, prompt="Hi", model=MODEL)
            return len(timed.chats)

        assert [await requests() for _ in range(5)] == [2, 2, 1, 1, 1]
        timed.clear()
        for _ in range(31):  # a failure costs ten times what a success brings
            assert await requests() == 1
        timed.fail(faults.server_error(503))
        assert await requests() == 2


async def test_footers_errors_and_check_credits_say_what_is_left_and_when_it_returns(timed: Sandbox, at: Time) -> None:
    async with connected(timed, at=at) as client:
        text, _, _ = await ask(client, prompt="Hi", model=MODEL)
        assert "49 of 50 free requests left today; the count restarts at 00:00 UTC" in text.splitlines()[-1]
        text, _, _ = await ask(client, "compare_models", prompt="Hi", models=FIVE)
        assert "44 of 50 free requests left today; the count restarts at 00:00 UTC" in text.splitlines()[-1]
        timed.fail(faults.pool_busy(), model=MODEL)
        text, _, is_error = await ask(client, prompt="Hi", model=MODEL)
        assert is_error
        assert "(43 of 50 free requests left today; the count restarts at 00:00 UTC" in text
        for _ in range(2):  # through another program
            timed.account.count_free(at.now)
        text, record, _ = await ask(client, "check_credits")
    assert "41 of 50 free requests left today; the count restarts at 00:00 UTC" in text
    assert "(OpenRouter's count, 2 of them not through this server)" in text
    assert "This minute: 7 of 20 used." in text
    assert f"Not chosen for now: {MODEL} for 30 s (its provider is overrun)." in text
    assert record["free_requests"] == {"used": 9, "limit": 50, "remaining": 41}
    assert record["free_requests_this_minute"] == {"used": 7, "limit": 20}


async def test_check_credits_says_when_openrouter_does_not_count(timed: Sandbox, at: Time) -> None:
    timed.account.newer_key_fields = False
    async with connected(timed, at=at) as client:
        text, _, _ = await ask(client, prompt="Hi", model=MODEL)
        assert "1 free requests used today; the count restarts at 00:00 UTC" in text.splitlines()[-1]
        text, record, _ = await ask(client, "check_credits")
    assert "(counted here; OpenRouter did not say)" in text
    assert record["free_requests"] == {"used": 1, "limit": None, "remaining": None}


# --- found by reading and trying ------------------------------------------------------------------------------------


async def test_calls_that_wait_do_not_send_after_the_day_was_said_to_be_used_up(timed: Sandbox, at: Time) -> None:
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        await app.ledger.reserve(20, longest_wait=0)
        at.now += 30  # so that the next moment is 31 s away
        slept = at.sleep

        async def limit_met_meanwhile(seconds: float) -> None:
            await slept(seconds)
            await app.ledger.failed([MODEL], DailyQuota("Used up."))

        app.writing._attempts._sleep = limit_met_meanwhile
        _, record, _ = await ask(client, prompt="Hi", model=MODEL)
        assert record["code"] == "daily_quota"
        assert timed.chats == []
        assert (await app.ledger.standing()).use.today == 20


async def test_a_slot_whose_moment_is_past_is_exchanged(timed: Sandbox, at: Time) -> None:
    async with opened(timed, at=at) as app:
        (slot,) = await app.ledger.reserve(longest_wait=0)
        assert not await app.ledger.missed(slot)
        at.now += 5
        assert await app.ledger.missed(slot)
        purse = app.guard.purse()
        running = app.writing.start(ChatRequest(model=MODEL, prompt="Hi"), purse, held=Held(purse, slot))
        assert running.task
        await running.task
        assert (await app.ledger.standing()).use.today == len(timed.chats) == 1


async def test_a_clock_a_second_fast_at_midnight_does_not_lose_the_new_day(timed: Sandbox, at: Time) -> None:
    at.now = next_midnight(at.now)
    async with connected(timed, at=at) as client:
        timed.fail(faults.rate_limit("free-models-per-day.", 50, at.now + 1))  # OpenRouter's midnight is a second away
        _, record, _ = await ask(client, prompt="Hi", model=MODEL)
        assert record["code"] == "daily_quota"
        assert record["retry_after_s"] == pytest.approx(1, abs=0.1)
        at.now += 3
        _, _, is_error = await ask(client, prompt="Hi", model=MODEL)
    assert not is_error


@OVER_BOTH
async def test_openrouters_lag_never_gives_back_what_was_used() -> None:
    with book() as one:
        one.note_count("a", 30, 50, NOON)
        granted(one, NOON, 15)
        one.note_count("a", 30, 50, NOON + 1)  # it has not counted ours yet
        assert one.use("a", NOON + 1).left == 5
        one.note_count("a", 2**70, 2**70, NOON + 2)
        assert one.use("a", NOON + 2).left == 0


async def test_callers_who_come_together_wait_for_the_one_first_reading() -> None:
    word = Word()
    gate = anyio.Event()

    async def slow() -> KeyInfo:
        await gate.wait()
        return await word.key()

    one = Ledger("key", None, slow, clock=word.at.clock)
    async with anyio.create_task_group() as callers:
        for _ in range(5):
            callers.start_soon(partial(one.reserve, longest_wait=0))
        await anyio.wait_all_tasks_blocked()
        assert (await one.standing()).use.today == 0  # nobody went ahead
        gate.set()
    assert word.asked == 1
    await one.aclose()


async def test_a_model_that_answers_under_a_dated_name_recovers(timed: Sandbox, at: Time) -> None:
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        timed.fail(faults.server_error(503))
        timed.fail(Fault(model="acme/tiny-2025-04:free"))
        _, record, is_error = await ask(client, prompt="Hi", model=MODEL)
        assert not is_error
        assert record["attempts"] == 2
        assert (await app.ledger.standing()).cooldowns == {}


async def test_the_model_that_failed_and_those_on_cooldown_are_no_alternatives(timed: Sandbox, at: Time) -> None:
    async with connected(timed, at=at) as client:
        await ask(client, "list_free_models")
        for model in ("globex/large:free", "hooli/thinker:free"):
            timed.fail(faults.pool_busy(), model=model)
            text, _, _ = await ask(client, prompt="Hi", model=model)
        alternatives = text.partition("Free alternatives: ")[2]
    assert alternatives.startswith("initech/coder:free, ")
    assert "globex" not in alternatives
    assert "hooli" not in alternatives


async def test_an_untrusted_certificate_uses_nothing_of_the_allowance(timed: Sandbox, at: Time) -> None:
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        await ask(client, prompt="Hi", model=MODEL)
        failure = Network("Not trusted.", outcome=Outcome.BAD_TLS)

        async def refuse(permit: Any) -> AsyncGenerator[Any]:
            permit.spend()
            if permit.spent:
                raise failure
            yield

        app.client.chat = refuse  # type: ignore[method-assign]
        _, record, _ = await ask(client, prompt="Hi", model=MODEL)
        assert record["code"] == "network"
        assert (await app.ledger.standing()).use.today == 1


async def test_without_the_shared_book_a_comparison_that_can_never_fit_is_told_so(at: Time, tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 100)
    async with connected(Sandbox(), at=at, settings=replace(SETTINGS, state_dir=tmp_path)) as client:
        models = [*FIVE, "wonka/long:free"]
        text, _, _ = await ask(client, "compare_models", prompt="Hi", models=models)
        assert text.startswith("minute_quota: At most 5 can be asked at once now")
        assert "Try again in" not in text


async def test_what_went_wrong_first_is_told_when_there_is_no_slot_for_a_second_try(timed: Sandbox, at: Time) -> None:
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        await app.ledger.reserve(19, longest_wait=0)
        timed.fail(faults.server_error(503))
        text, record, _ = await ask(client, prompt="Hi", model=MODEL)
        assert record["code"] == "upstream"
        assert record["attempts"] == len(timed.chats) == 1
        assert "answered 503" in text


@pytest.mark.parametrize("fault", [faults.server_error(503), Fault(delay_headers_s=600)], ids=["503", "silence"])
async def test_check_credits_shows_our_own_figures_when_openrouter_says_nothing(sandbox: Sandbox, fault: Fault) -> None:
    async with connected(sandbox, timeouts=Timeouts(connect=0.1, line=0.1)) as client:
        await ask(client, prompt="Hi", model=MODEL)
        sandbox.fail(fault, times=None, path="/key")
        text, record, is_error = await ask(client, "check_credits")
    assert not is_error
    assert text.startswith("49 of 50 free requests left today")
    assert "Key limit, spending and balance: unknown, OpenRouter did not say (" in text
    assert record["free_requests"]["used"] == 1


async def test_the_minutes_limit_that_openrouter_met_us_with_is_shown(timed: Sandbox, at: Time) -> None:
    async with connected(timed, at=at) as client:
        timed.fail(faults.minute_limit(50, now=at.now))
        await ask(client, prompt="Hi", model=MODEL)
        text, _, _ = await ask(client, "check_credits")
    assert "OpenRouter's limit of the minute is met: nothing is sent for 50 s." in text
