"""The daily sums: what each model was asked, how often it failed, how fast it wrote and what it cost, by UTC day."""

import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from budgets import CALL, TINY, WORST, budget, served
from hypothesis import example, given
from hypothesis import strategies as st
from mcp import Client
from support import SETTINGS, Time, ask, connected, opened

from openrouter_mcp.app import App
from openrouter_mcp.choice import Health
from openrouter_mcp.errors import ModelBusy
from openrouter_mcp.ledger.slots import DAY_S, day_of
from openrouter_mcp.ledger.sqlite import sums
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.ledger.sqlite.schema import VERSION
from openrouter_mcp.ledger.sums import Sum
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings

NEW_YEAR = 20_454  # the 1st of January 2026, in days since 1970
FREE, OTHER, LARGE, ROUTER = "acme/tiny:free", "initech/coder:free", "globex/large:free", "openrouter/free"


@pytest.fixture
def at() -> Time:
    time = Time()
    time.now = (NEW_YEAR + 14.5) * DAY_S  # nowhere near the end of a day or a month
    return time


@pytest.fixture
def timed(at: Time) -> Sandbox:
    return Sandbox(clock=at.clock, sleep=at.sleep)


def sharing(folder: Path, settings: Settings | None = None) -> Settings:
    return replace(settings or SETTINGS, state_dir=folder)


async def today(app: App, caller: str | None = None) -> dict[str, Sum]:
    return (await app.ledger.month(caller)).today


# --- one request ------------------------------------------------------------------------------------------------------


async def test_a_question_counts_for_the_model_that_was_asked_with_its_tokens_and_what_it_cost(timed: Sandbox) -> None:
    async with served(timed) as (app, client):
        _, free, _ = await ask(client, prompt="Hi", model=FREE)
        _, paid, _ = await ask(client, **CALL)
        found = await today(app)
        assert found.keys() == {FREE, TINY}
        for record, one in ((free, found[FREE]), (paid, found[TINY])):
            assert (one.asked, one.failed) == (1, 0)
            assert (one.prompt_tokens, one.completion_tokens) == (record["prompt_tokens"], record["completion_tokens"])
            assert one.cost == Decimal(record["cost_usd"])
        assert found[TINY].cost == timed.bill > 0
        await ask(client, **CALL)
        assert (await today(app))[TINY].cost == timed.bill == (await app.guard.budget()).spent.cost
        assert (await app.ledger.month()).month == await today(app)


BY_THE_MODEL = {
    "busy": (faults.pool_busy(), 1),
    "broken": (faults.server_error(503), 1),
    "reset": (Fault(reset=True), 1),
    "empty": (Fault(answer="none"), 1),
    "breaks off": (Fault(after_tokens=2, then="reset"), 1),
    "breaks off with a word": (Fault(after_tokens=2, then="error"), 1),
    "refused": (faults.refusal(400, "no"), 0),
    "the minute's limit": (faults.minute_limit(50), 0),
}


@pytest.mark.parametrize(("fault", "failed"), BY_THE_MODEL.values(), ids=BY_THE_MODEL)
async def test_only_what_is_the_models_fault_counts_as_its_failure(
    sandbox: Sandbox, at: Time, fault: Fault, failed: int
) -> None:
    async with opened(sandbox, at=at) as app, Client(build(app)) as client:
        sandbox.fail(fault, times=None)
        await ask(client, prompt="Hi", model=FREE)
        found = (await app.ledger.standing()).health[FREE]
        assert (found.asked, found.failed) == (len(sandbox.chats), failed * len(sandbox.chats))


async def test_a_second_try_counts_like_the_first_and_what_was_never_sent_not_at_all(timed: Sandbox, at: Time) -> None:
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        timed.fail(faults.server_error(503))
        assert not (await ask(client, prompt="Hi", model=FREE))[2]
        assert (await app.ledger.standing()).health[FREE] == Health(2, 1, None)
        await ask(client, prompt="Hi", model="acme/nobody:free")
        assert (await app.ledger.standing()).health.keys() == {FREE}


async def test_of_several_models_the_one_that_served_is_counted(timed: Sandbox, at: Time) -> None:
    dated = next(row for row in timed.catalog if row["id"] == LARGE)["canonical_slug"]
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        for name, counted in ((OTHER, OTHER), (dated, LARGE), ("nobody/knows", FREE)):
            before = (await app.ledger.standing()).health
            timed.fail(Fault(model=name))
            await ask(client, prompt=name, model=FREE, options={"fallbacks": [OTHER, LARGE]})
            after = (await app.ledger.standing()).health
            assert {model for model in after if after[model] != before.get(model)} == {counted}


async def test_several_that_fail_together_have_each_failed(timed: Sandbox, at: Time) -> None:
    timed.fail(faults.server_error(503), times=None)
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        await ask(client, prompt="Hi", model=FREE, options={"fallbacks": [OTHER]})
        assert {model: one.failed for model, one in (await app.ledger.standing()).health.items()} == {
            FREE: len(timed.chats),
            OTHER: len(timed.chats),
        }


async def test_what_the_free_router_chose_is_counted_where_it_is_listed(timed: Sandbox, at: Time) -> None:
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        await ask(client, "list_free_models")  # so that the catalogue is known
        await app.ledger.failed([row["id"] for row in timed.catalog], ModelBusy("busy", hint_s=300.0))
        for served_by, counted in ((LARGE, LARGE), ("nobody/knows", ROUTER)):
            before = (await app.ledger.standing()).health
            timed.fail(Fault(model=served_by))
            await ask(client, prompt=f"Hi, {served_by}")
            assert timed.chats[-1].body["model"] == ROUTER
            after = (await app.ledger.standing()).health
            assert {each for each in after if after[each] != before.get(each)} == {counted}


async def test_speed_is_tokens_by_the_seconds_from_the_first_to_the_last(timed: Sandbox, at: Time) -> None:
    timed.token_delay_s = 0.25
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        timed.fail(Fault(delay_first_s=30.0))
        _, record, _ = await ask(client, prompt="Hi", model=FREE)
        tokens = record["completion_tokens"]
        speed = (await app.ledger.standing()).health[FREE].tokens_per_s
        assert speed == pytest.approx(tokens / ((tokens - 1) * 0.25), rel=0.1)
        timed.fail(Fault(delay_headers_s=10.0, plain=True))  # all at once: nobody knows when it began to write
        _, record, _ = await ask(client, prompt="Ho", model=OTHER)
        assert (await today(app))[OTHER].seconds == pytest.approx(record["seconds"])
        timed.fail(Fault(after_tokens=2, then="reset"))  # no usage: its seconds say nothing about a speed
        await ask(client, prompt="Ha", model=FREE)
        assert (await app.ledger.standing()).health[FREE].tokens_per_s == speed


async def test_callers_are_told_apart_and_a_models_health_is_all_theirs(timed: Sandbox, at: Time) -> None:
    first = replace(budget("1"), caller="anna")
    async with opened(timed, at=at, settings=first) as app, Client(build(app)) as client:
        await ask(client, **CALL)
        await ask(client, prompt="Hi", model=FREE)
        by_anna = await today(app, "anna")
        assert by_anna == await today(app)
        assert by_anna[TINY].cost == timed.bill > 0
        assert await today(app, "") == {}
        assert (await app.ledger.standing()).health[FREE].asked == 1


# --- money ------------------------------------------------------------------------------------------------------------


async def test_a_cost_that_is_learnt_later_counts_when_it_is_known_for_the_day_of_the_call(at: Time) -> None:
    at.now += DAY_S / 2 - 10
    sandbox = Sandbox(clock=at.clock, sleep=at.sleep)
    async with served(sandbox, at=at) as (app, client):
        sandbox.fail(Fault(after_tokens=2, then="reset"))
        await ask(client, **CALL)
        assert (await today(app))[TINY].cost == 0
        assert (await app.guard.budget()).spent.held == WORST
        at.now += 60
        await app.ledger.spending.learn()
        assert await today(app) == {}
        assert (await app.ledger.month()).month[TINY].cost == sandbox.bill > 0
        assert (await app.ledger.standing()).health[TINY].asked == 1


async def test_what_a_free_call_cost_after_all_is_in_the_sums(timed: Sandbox, at: Time) -> None:
    async with opened(timed, at=at) as app, Client(build(app)) as client:
        timed.fail(Fault(cost=0.03))
        await ask(client, prompt="Hi", model=FREE)
        assert (await today(app))[FREE].cost == Decimal("0.03")


async def test_what_a_call_cost_is_booked_for_whoever_served(timed: Sandbox, at: Time) -> None:
    async with served(timed, at=at) as (app, client):
        timed.fail(faults.server_error(503), model=FREE)
        await ask(client, prompt="Hi", model=FREE, max_tokens=100, options={"fallbacks": [TINY]})
        assert (await today(app))[TINY].cost == timed.bill > 0
        assert (await app.guard.budget()).spent.by_model == {TINY: timed.bill}


async def test_what_is_held_by_a_process_that_died_is_in_no_sum(tmp_path: Path, timed: Sandbox, at: Time) -> None:
    settings = sharing(tmp_path, budget("1"))
    async with opened(timed, at=at, settings=settings) as died:
        await died.ledger.spending.hold([(TINY, WORST)], Decimal(1))
    async with opened(timed, at=at, settings=settings) as app:
        assert await today(app) == {}
        assert (await app.guard.budget()).spent.held == WORST


@pytest.mark.parametrize("again", ["0.000000000000000001", "0.3"])
async def test_a_charge_settled_twice_counts_as_it_was_settled_last(tmp_path: Path, at: Time, again: str) -> None:
    async with opened(Sandbox(), at=at, settings=sharing(tmp_path, budget("1"))) as app:
        charges = await app.ledger.spending.hold([(TINY, Decimal("0.5"))], Decimal(1))
        assert isinstance(charges, list)
        for cost in ("0.1", again):
            await app.ledger.spending.settle(charges[0], Decimal(cost))
        assert (await today(app))[TINY].cost == Decimal(again)


ATTODOLLARS = st.integers(0, 2 * 10**27).map(lambda amount: Decimal(amount).scaleb(-18))


@given(st.lists(ATTODOLLARS, max_size=40), st.randoms())
@example([Decimal(2 * 10**27 - 1).scaleb(-18)] * 40, random.Random(5))  # more digits than Decimal keeps by itself
def test_a_sum_is_exact_in_any_order(costs: list[Decimal], chance: random.Random) -> None:
    with closing(SQLiteBook(":memory:", limit=20, window=61.0)) as book:
        for order in range(2):
            for cost in costs:
                with book.transaction() as db:
                    sums.add(db, (20_000, str(order), TINY, ""), Sum(cost=cost))
            chance.shuffle(costs)
        found = [book.month(str(order), 20_000.5 * DAY_S, None).today for order in range(2)]
    assert found[0] == found[1]
    if costs:
        assert Fraction(found[0][TINY].cost or 0) == sum(map(Fraction, costs))


# --- days -------------------------------------------------------------------------------------------------------------


async def asked_on(app: App, at: Time, moment: float) -> None:
    at.now = moment
    async with Client(build(app)) as client:
        assert not (await ask(client, prompt=f"On {moment}", model=FREE))[2]


async def test_a_day_and_a_month_begin_at_midnight_utc(at: Time) -> None:
    async with opened(Sandbox(clock=at.clock), at=at) as app:
        counts = []
        for days in (-2, -1.0 / DAY_S, 0.0, 30.99, 31.0):
            await asked_on(app, at, (NEW_YEAR + days) * DAY_S)
            found = await app.ledger.month()
            counts.append(
                (found.month[FREE].asked, found.today[FREE].asked, (await app.ledger.standing()).health[FREE].asked)
            )
    assert counts == [(1, 1, 1), (2, 1, 2), (1, 1, 2), (2, 1, 1), (1, 1, 2)]


async def test_a_request_counts_on_the_day_it_was_sent_though_it_ends_on_the_next(at: Time) -> None:
    at.now += DAY_S / 2 - 1
    sandbox = Sandbox(clock=at.clock, sleep=at.sleep)
    async with opened(sandbox, at=at) as app, Client(build(app)) as client:
        sandbox.fail(Fault(delay_headers_s=10))
        await ask(client, prompt="Hi", model=FREE)
        assert await today(app) == {}
        assert (await app.ledger.standing()).health[FREE].asked == 1


async def test_sums_are_kept_for_40_days_and_no_longer(tmp_path: Path, at: Time) -> None:
    async with opened(Sandbox(clock=at.clock), at=at, settings=sharing(tmp_path)) as app:
        start = at.now
        for days in (0, 40, 41):
            await asked_on(app, at, start + days * DAY_S)
            kept = [day for (day,) in rows(tmp_path, "SELECT day FROM sums ORDER BY day")]
            assert (day_of(start) in kept) == (days <= 40)
        assert len(kept) == 2


# --- the book ---------------------------------------------------------------------------------------------------------


def rows(folder: Path, *statements: str) -> list[Any]:
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as db:
        (folder / "ledger.db").chmod(0o600)
        return [db.execute(statement).fetchall() for statement in statements][-1]


async def test_two_servers_on_one_book_see_the_same_sums(tmp_path: Path, timed: Sandbox, at: Time) -> None:
    settings = sharing(tmp_path, budget("1"))
    async with opened(timed, at=at, settings=settings) as one, opened(timed, at=at, settings=settings) as other:
        for app in (one, other, one):
            async with Client(build(app)) as client:
                await ask(client, prompt=f"To {id(app)} {at.now}", model=FREE)
                await ask(client, **CALL)
            at.now += 1
        assert await today(one) == await today(other)
        assert (await today(one))[FREE].asked == 3
        assert (await today(other))[TINY].cost == timed.bill
        assert (await one.ledger.standing()).health == (await other.ledger.standing()).health


async def test_what_was_counted_before_the_account_was_known_is_the_accounts(
    tmp_path: Path, timed: Sandbox, at: Time
) -> None:
    settings = sharing(tmp_path, budget("1"))
    async with connected(timed, at=at, settings=settings) as client:
        await ask(client, **CALL)
    rows(tmp_path, "UPDATE sums SET account = (SELECT key FROM names)", "DELETE FROM names")
    async with opened(timed, at=at, settings=settings) as app, Client(build(app)) as client:
        assert (await today(app))[TINY].asked == 1
        rows(tmp_path, "INSERT INTO sums SELECT day, 'x', model, caller, 7, 0, 0, 0, 0, '1' FROM sums")
        await ask(client, "check_credits")
        assert ((await today(app))[TINY].asked, (await today(app))[TINY].cost) == (1, timed.bill)
        await ask(client, **CALL | {"prompt": "Ho"})
        assert ((await today(app))[TINY].asked, (await today(app))[TINY].cost) == (2, timed.bill)


PLANTED = ["'-1'", "'NaN'", "''", "'1e9'", "'Infinity'", "x'30'", "9e99", "-5"]


@pytest.mark.parametrize("column", ["asked", "failed", "completion_tokens", "seconds", "cost", "day", "model"])
@pytest.mark.parametrize("value", PLANTED)
async def test_nonsense_in_the_file_fails_no_call_and_a_cost_that_cannot_be_read_is_unknown(
    tmp_path: Path, timed: Sandbox, at: Time, column: str, value: str
) -> None:
    settings = sharing(tmp_path, budget("1"))
    async with opened(timed, at=at, settings=settings) as app, Client(build(app)) as client:
        await ask(client, **CALL)
        rows(tmp_path, f"UPDATE sums SET {column} = {value}")  # noqa: S608
        assert not (await ask(client, **CALL | {"prompt": "Ho"}))[2]
        found, healths = await today(app), (await app.ledger.standing()).health
        if column == "cost":
            assert found[TINY].cost is None
        else:
            assert healths[TINY].asked > 0
        assert not (await ask(client, "check_credits"))[2]
        assert (await app.ledger.standing()).warning == ""


VERSION_3 = """
CREATE TABLE slots (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, at REAL NOT NULL, made REAL NOT NULL
);
CREATE INDEX slots_by_time ON slots (account, at);
CREATE TABLE accounts (
    account TEXT PRIMARY KEY, day INTEGER, day_limit INTEGER, elsewhere INTEGER,
    minute_stop REAL NOT NULL DEFAULT 0, day_stop REAL NOT NULL DEFAULT 0
);
CREATE TABLE names (key TEXT PRIMARY KEY, account TEXT NOT NULL);
CREATE TABLE cooldowns (
    model TEXT PRIMARY KEY, until REAL NOT NULL, reason TEXT NOT NULL, failures INTEGER NOT NULL
);
CREATE TABLE charges (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, day INTEGER NOT NULL, model TEXT NOT NULL,
    amount TEXT NOT NULL, cost TEXT, generation TEXT NOT NULL DEFAULT '', ended REAL,
    inquiries INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX charges_by_day ON charges (account, day);
CREATE TABLE batches (
    id TEXT PRIMARY KEY, account TEXT NOT NULL, day INTEGER NOT NULL, holder TEXT NOT NULL, until REAL NOT NULL,
    requests INTEGER NOT NULL
);
CREATE TABLE promises (charge INTEGER PRIMARY KEY, batch TEXT NOT NULL);
CREATE TABLE closures (at REAL NOT NULL, reason TEXT NOT NULL);
PRAGMA user_version=3"""


async def test_a_book_from_before_there_were_sums_is_taken_over_with_what_it_spent(
    tmp_path: Path, timed: Sandbox, at: Time
) -> None:
    async with opened(timed, at=at) as any_:
        key = any_.ledger._key
    day = day_of(at.now)
    rows(
        tmp_path,
        *VERSION_3.split(";"),
        f"INSERT INTO slots (account, at, made) VALUES ('{key}', {at.now - 5}, {at.now - 5})",  # noqa: S608
        f"INSERT INTO cooldowns VALUES ('{OTHER}', {at.now + 60}, 'no content', 2)",  # noqa: S608
        *(
            f"INSERT INTO charges (account, day, model, amount, cost) VALUES ('{key}', {row})"  # noqa: S608
            for row in (f"{day}, '{TINY}', '0.2', '0.1'", f"{day}, '{TINY}', '0.2', '0.02'", f"{day}, 'a/b', '1', '?'")
        ),
        "INSERT INTO charges (account, day, model, amount, generation, ended) "  # noqa: S608
        f"VALUES ('{key}', {day}, '{TINY}', '0.3', 'gen-1', {at.now - 60})",
        "INSERT INTO batches VALUES ('b', 'user', 20000, '', 0, 3)",
        "INSERT INTO promises VALUES (4, 'b')",
    )
    settings = sharing(tmp_path, budget("1"))
    async with opened(timed, at=at, settings=settings) as one, opened(timed, at=at, settings=settings) as other:
        costs = {model: found.cost for model, found in (await today(other)).items()}
        assert costs == {TINY: Decimal("0.12"), "a/b": None}
        timed.fail(Fault(json={"data": {"total_cost": 0.25}}), path="/generation")
        await one.ledger.spending.learn()
        assert (await today(other))[TINY].cost == Decimal("0.37")
        standing = await other.ledger.standing()
        assert (standing.warning, standing.use.minute, standing.cooldowns[OTHER].failures) == ("", 1, 2)
    assert rows(tmp_path, "SELECT * FROM promises") == [(4, "b")]
    assert rows(tmp_path, "PRAGMA user_version") == [(VERSION,)]
