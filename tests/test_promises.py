"""What batches set aside: requests of the day, money until it is drawn, and a lease that ends if nobody renews it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest
from budgets import NOTHING
from support import Time

from openrouter_mcp.callers import Caller
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.book import LEASE_S, Charge
from openrouter_mcp.ledger.slots import DAY_S, Refusal
from openrouter_mcp.records import KeyInfo

NOON = 20_000.5 * DAY_S
ALICE = Caller("alice", per_day=5)
CENT = Decimal("0.01")
SEVEN_LEFT = {"creator_user_id": "u", "free_model_daily_requests": {"used": 43, "limit": 50, "remaining": 7}}


@pytest.fixture
def at() -> Time:
    time = Time()
    time.now = NOON
    return time


@asynccontextmanager
async def ledger(at: Time, key: KeyInfo) -> AsyncGenerator[Ledger]:
    async def read_key() -> KeyInfo:
        return key

    one = Ledger("key", None, read_key, clock=at.clock)
    try:
        await one.refresh()
        yield one
    finally:
        await one.aclose()


@pytest.fixture
async def book(at: Time) -> AsyncGenerator[Ledger]:
    """Of an account that has seven free requests left today."""
    async with ledger(at, KeyInfo.model_validate(SEVEN_LEFT)) as one:
        yield one


async def held(book: Ledger, batch: str) -> Charge:
    charges = await book.spending.hold([("acme/tiny", CENT)], Decimal(1), batch=batch)
    assert isinstance(charges, list)
    return charges[0]


async def held_in_all(book: Ledger) -> Decimal:
    return (await book.spending.spent()).held


# --- requests ---------------------------------------------------------------------------------------------------------


async def test_batches_together_set_aside_what_is_left_of_the_day_but_the_spare(book: Ledger) -> None:
    refusal = Refusal(DAY_S / 2, daily=True, left=7, fits=5)
    assert await book.promises.promise("one", 6, spare=2) == refusal
    assert await book.promises.promise("one", 3, spare=2) is None
    assert await book.promises.promise("two", 3, spare=2) == Refusal(DAY_S / 2, daily=True, left=7, fits=2)
    assert await book.promises.promise("two", 2, spare=2) is None
    assert await book.promises.promise("three", 3, spare=0) == Refusal(DAY_S / 2, daily=True, left=7, fits=2)
    assert await book.promises.promise("three", 1, spare=7) == Refusal(DAY_S / 2, daily=True, left=7, fits=0)
    assert await book.promises.promise("three", 2, spare=0) is None


async def test_a_callers_batches_keep_to_their_share_and_others_are_not_counted(book: Ledger) -> None:
    assert await book.promises.promise("bobs", 1, spare=0, caller=Caller("bob")) is None
    assert await book.promises.promise("one", 3, spare=0, caller=ALICE) is None
    refusal = await book.promises.promise("two", 3, spare=0, caller=ALICE)
    assert refusal == Refusal(DAY_S / 2, daily=True, left=7, fits=2, whose=ALICE)
    assert await book.promises.promise("two", 2, spare=0, caller=ALICE) is None
    assert await book.promises.promise("bobs second", 2, spare=0, caller=Caller("bob")) is not None
    assert await book.promises.promise("bobs second", 1, spare=0, caller=Caller("bob")) is None


async def test_what_was_asked_already_is_of_the_share_too(book: Ledger) -> None:
    await book.reserve(longest_wait=0, caller=ALICE)
    refusal = await book.promises.promise("one", 5, spare=0, caller=ALICE)
    assert refusal == Refusal(DAY_S / 2, daily=True, left=6, fits=4, whose=ALICE)
    as_much = Caller("carol", per_day=6)
    assert await book.promises.promise("one", 7, spare=0, caller=as_much) == Refusal(DAY_S / 2, True, 6, fits=6)


async def test_where_nobody_knows_what_is_left_only_a_share_is_kept_to(at: Time) -> None:
    async with ledger(at, KeyInfo()) as book:
        assert await book.promises.promise("one", 10_000, spare=2) is None
        refusal = await book.promises.promise("two", 6, spare=2, caller=ALICE)
        assert refusal == Refusal(DAY_S / 2, daily=True, left=None, fits=5, whose=ALICE)


async def test_what_is_done_or_ended_or_of_yesterday_is_set_aside_no_more(book: Ledger, at: Time) -> None:
    assert await book.promises.promise("one", 4, spare=0) is None
    assert await book.promises.promise("two", 3, spare=0) is None
    assert await book.promises.promise("three", 1, spare=0) is not None
    assert await book.promises.take("one", "me")
    assert await book.promises.promise("three", 1, spare=0) is not None  # to be worked on changes nothing
    assert await book.promises.renew("one", "me", 3)
    assert await book.promises.promise("three", 1, spare=0) is None
    await book.promises.leave("one", "me")
    assert await book.promises.promise("four", 1, spare=0) is not None  # another goes on with it
    await book.promises.end("two")
    assert await book.promises.promise("four", 3, spare=0) is None
    at.now += DAY_S
    await book.refresh()
    assert await book.promises.promise("five", 7, spare=0) is None


async def test_a_batch_that_goes_on_the_next_day_sets_aside_of_that_day(book: Ledger, at: Time) -> None:
    assert await book.promises.promise("one", 4, spare=0) is None
    at.now += DAY_S
    await book.refresh()
    assert await book.promises.take("one", "me")
    assert await book.promises.renew("one", "me", 4)
    assert await book.promises.promise("two", 4, spare=0) == Refusal(DAY_S / 2, daily=True, left=7, fits=3)


@pytest.mark.parametrize(("days", "known"), [(2, True), (3, False)])
async def test_a_batch_is_forgotten_after_two_days(book: Ledger, at: Time, days: int, known: bool) -> None:
    assert await book.promises.take("old", "me")
    at.now += days * DAY_S
    assert await book.promises.promise("new", 1, spare=0) is None
    assert await book.promises.renew("old", "me", 1) is known


# --- who works on it --------------------------------------------------------------------------------------------------


async def test_one_at_a_time_works_on_a_batch(book: Ledger, at: Time) -> None:
    assert await book.promises.promise("one", 1, spare=0) is None
    assert not await book.promises.is_leased("one")
    assert await book.promises.take("one", "me")
    assert await book.promises.take("one", "me")
    assert await book.promises.is_leased("one")
    assert not await book.promises.is_leased("another")
    assert not await book.promises.take("one", "you")
    assert not await book.promises.renew("one", "you", 1)
    await book.promises.leave("one", "you")
    assert await book.promises.is_leased("one")
    at.now += LEASE_S - 1
    assert await book.promises.renew("one", "me", 1)
    at.now += LEASE_S - 1
    assert not await book.promises.take("one", "you")
    at.now += 1
    assert not await book.promises.is_leased("one")
    assert await book.promises.take("one", "you")
    assert not await book.promises.renew("one", "me", 1)
    await book.promises.leave("one", "you")
    assert not await book.promises.is_leased("one")
    assert await book.promises.take("one", "me")


@pytest.mark.parametrize(("back", "leased"), [(1.0, True), (1.5, False)])
async def test_a_lease_from_the_future_is_another_clocks(book: Ledger, at: Time, back: float, leased: bool) -> None:
    assert await book.promises.take("one", "me")
    at.now -= back
    assert await book.promises.is_leased("one") is leased
    assert await book.promises.take("one", "you") is not leased


# --- its money --------------------------------------------------------------------------------------------------------


async def test_who_takes_over_a_batch_frees_what_was_held_for_it_and_never_drawn(book: Ledger, at: Time) -> None:
    assert await book.promises.take("one", "me")
    drawn, waiting = await held(book, "one"), await held(book, "one")
    await held(book, "another")
    await held(book, "")
    assert await book.promises.draw(drawn)
    assert not await book.promises.draw(drawn)
    assert await book.promises.take("one", "me")
    assert await held_in_all(book) == 4 * CENT
    at.now += LEASE_S
    assert await book.promises.take("one", "you")
    assert await held_in_all(book) == 3 * CENT
    assert not await book.promises.draw(waiting)


async def test_a_batch_that_is_left_or_ended_frees_what_it_did_not_draw(book: Ledger) -> None:
    for batch in ("left", "ended"):
        assert await book.promises.take(batch, "me")
        await held(book, batch)
        assert await book.promises.draw(await held(book, batch))
    await book.promises.leave("left", "you")
    assert await held_in_all(book) == 4 * CENT
    await book.promises.leave("left", "me")
    assert await held_in_all(book) == 3 * CENT
    await book.promises.end("ended")
    assert await held_in_all(book) == 2 * CENT


async def test_a_charge_of_another_book_is_not_drawn(book: Ledger, at: Time) -> None:
    async with ledger(at, KeyInfo()) as other:
        assert not await book.promises.draw(await held(other, "one"))
        assert await held_in_all(book) == NOTHING
