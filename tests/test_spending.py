"""The money book where it is strange: amounts or books that cannot be used, costs learnt late, cancelled calls."""

import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from engine import OVER_BOTH, either_place
from mcp import Client
from support import SETTINGS, Time, ask, connected, file_of, opened

from openrouter_mcp.callers import Caller
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.ledger import amounts, spending
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.book import DEAD_S, FIRST_INQUIRY_S, Charge, Closure, Spent, Wish
from openrouter_mcp.ledger.shelf import ALONE_PER_MINUTE
from openrouter_mcp.ledger.slots import DAY_S, day_of
from openrouter_mcp.ledger.sqlite import money
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.ledger.sqlite.schema import VERSION
from openrouter_mcp.policy import Policy
from openrouter_mcp.records import KeyInfo
from openrouter_mcp.refusals import CannotReserve
from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.server import build
from openrouter_mcp.transcript import Draft
from openrouter_mcp.wire import Usage

# A disk in memory where there is one: that money waits for the disk is tested once, and costs milliseconds each time.
RAM = next((str(path) for path in (Path("/dev/shm"),) if path.is_dir()), None)  # noqa: S108
NOON = 20_000.5 * DAY_S
BUDGET = Decimal("0.1")
MODEL, FREE = "acme/tiny", "acme/tiny:free"


@pytest.fixture
def folder() -> Generator[Path]:
    with tempfile.TemporaryDirectory(dir=RAM) as name:
        yield Path(name)


# --- the book, case by case -----------------------------------------------------------------------------------------


async def _unheard(_: str) -> Usage | None:
    return None


@asynccontextmanager
async def ledger(
    folder: Path | None, at: Time, *, inquire: Callable[[str], Awaitable[Usage | None]] = _unheard
) -> AsyncGenerator[Ledger]:
    async def key() -> KeyInfo:
        return KeyInfo()

    one = Ledger("key", either_place(folder, at.clock), key, clock=at.clock, inquire=inquire)
    try:
        yield one
    finally:
        await one.aclose()


@pytest.fixture
def at() -> Time:
    time = Time()
    time.now = NOON
    return time


async def held(one: Ledger, amount: str | Decimal = "0.01", budget: Decimal = BUDGET) -> Charge:
    charges = await one.spending.hold([(MODEL, Decimal(amount))], budget)
    assert isinstance(charges, list)
    return charges[0]


def sql(folder: Path, *statements: str) -> list[Any]:
    """What the last of `statements` finds in the book's file."""
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as db:
        (folder / "ledger.db").chmod(0o600)
        return [db.execute(statement).fetchall() for statement in statements][-1]


def budgeted(folder: Path | None, daily: str = "1") -> dict[str, Any]:
    policy = Policy(daily_budget=Decimal(daily), call_budget=Decimal(daily))
    return {"settings": replace(SETTINGS, state_dir=folder, policy=policy)}


@OVER_BOTH
async def test_what_is_finer_than_the_book_counts_as_a_little_more_never_as_less(folder: Path, at: Time) -> None:
    async with ledger(folder, at) as one:
        charge = await held(one, "1e-19")
        assert (await one.spending.spent()).held == Decimal("1e-18")
        await one.spending.settle(charge, Decimal("2e-19"))
        assert (await one.spending.spent()).cost == Decimal("1e-18")
        await one.spending.settle(charge, Decimal("2e9"))  # the most that a reply can say
        assert (await one.spending.spent()).cost == Decimal("2e9")


async def test_days_that_are_over_are_forgotten_and_yesterday_is_not(folder: Path, at: Time) -> None:
    async with ledger(folder, at) as one:
        for _ in range(5):
            await held(one)
            at.now += DAY_S
        assert len(sql(folder, "SELECT id FROM charges")) == 3


@OVER_BOTH
async def test_a_clock_set_back_over_midnight_gives_nobody_the_same_budget_twice(folder: Path, at: Time) -> None:
    at.now = NOON + DAY_S / 2
    async with ledger(folder, at) as one:
        await held(one, BUDGET)
        at.now -= 1
        assert isinstance(await one.spending.hold([(MODEL, BUDGET)], BUDGET), Spent)
        at.now += DAY_S + 1
        await held(one, BUDGET)


PLANTED = ["'-1'", "'NaN'", "''", "'1e9'", "'Infinity'", "' 0'", "x'30'", "NULL"]


@pytest.mark.parametrize(("column", "value"), [(column, v) for column in ("amount", "cost") for v in PLANTED][:-1])
async def test_an_amount_in_the_file_that_cannot_be_read_is_more_than_any_budget(
    folder: Path, sandbox: Sandbox, column: str, value: str
) -> None:
    async with connected(sandbox, **budgeted(folder)) as client:
        assert not (await ask(client, prompt="Hi", model=MODEL))[2]
        (create,) = sql(folder, "SELECT replace(sql, ' NOT NULL', '') FROM sqlite_master WHERE name = 'charges'")
        sql(folder, "ALTER TABLE charges RENAME TO old", *create, "INSERT INTO charges SELECT * FROM old")
        sql(folder, "UPDATE charges SET cost = NULL", f"UPDATE charges SET {column} = {value}")  # noqa: S608
        text, record, _ = await ask(client, prompt="Hi", model=MODEL)
        assert record["code"] == "over_budget"
        assert "of which $0 is left" in text
        assert len(sandbox.chats) == 1
        text, record, is_error = await ask(client, "check_credits")
        assert not is_error
        assert record["budget_left_usd"] == "0"
        assert not (await ask(client, prompt="Hi", model=FREE))[2]


async def test_words_for_numbers_in_the_file_stop_neither_the_calls_nor_the_person(folder: Path, at: Time) -> None:
    async with ledger(folder, at) as one:
        await one.spending.leave_open(await held(one), "gen-1")
        sql(folder, "UPDATE charges SET ended = 'tomorrow'")
        await held(one)
        sql(folder, "INSERT INTO closures VALUES ('tomorrow', 'planted')")
        (closure,) = await one.spending.closures()
        assert closure.reason == "planted"
        await one.spending.acknowledge([closure], [])
        assert await one.spending.closures() == []


VERSION_1 = """
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
PRAGMA user_version=1"""


async def test_a_book_from_before_there_was_money_is_taken_over_with_its_content(folder: Path, at: Time) -> None:
    async with ledger(None, at) as any_:
        key = any_.spending._key
    sql(
        folder,
        *VERSION_1.split(";"),
        f"INSERT INTO names VALUES ('{key}', 'user')",  # noqa: S608
        *[f"INSERT INTO slots (account, at, made) VALUES ('user', {NOON - 5}, {NOON - 5})"] * 19,  # noqa: S608
        f"INSERT INTO accounts VALUES ('user', {day_of(NOON)}, 50, 3, 0, 0)",  # noqa: S608
        f"INSERT INTO cooldowns VALUES ('{FREE}', {NOON + 60}, 'no content', 2)",  # noqa: S608
    )
    async with ledger(folder, at) as one, ledger(folder, at) as other:
        charge = await held(one)
        await one.spending.close("it cost")
        assert (await other.spending.spent()).held == charge.amount
        assert [closure.reason for closure in await other.spending.closures()] == ["it cost"]
        standing = await other.standing()
    assert (standing.warning, standing.use.minute, standing.use.left) == ("", 19, 50 - 3 - 19)
    assert standing.cooldowns[FREE].failures == 2
    assert sql(folder, "SELECT account FROM charges") == [("user",)]
    assert sql(folder, "PRAGMA user_version") == [(VERSION,)]


def test_between_the_look_at_what_is_left_and_the_booking_nobody_else_books(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_book = partial(SQLiteBook, folder / "ledger.db", limit=20, window=61.0)
    with closing(opened_book()) as one, closing(opened_book()) as sibling:
        sibling.db.execute("PRAGMA busy_timeout=0")
        write_down = amounts.written

        def meanwhile(amount: Decimal) -> str:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                sibling.db.execute("BEGIN IMMEDIATE")
            return write_down(amount)

        monkeypatch.setattr(money, "written", meanwhile)
        assert isinstance(one.hold("a", [Wish([(MODEL, BUDGET)], BUDGET)], NOON)[0], list)
        assert isinstance(sibling.hold("a", [Wish([(MODEL, BUDGET)], BUDGET)], NOON)[0], Spent)


async def test_money_waits_for_the_disk_and_what_is_free_does_not(folder: Path) -> None:
    with closing(SQLiteBook(folder / "ledger.db", limit=20, window=61.0)) as book:
        levels: list[int] = []

        def note() -> None:
            levels.append(book.db.execute("PRAGMA synchronous").fetchone()[0])
            if len(levels) == 5:
                raise RuntimeError

        book.db.create_function("note", 0, note)
        for table in ("charges", "closures", "slots"):
            book.db.execute(f"CREATE TEMP TRIGGER on_{table} AFTER INSERT ON {table} BEGIN SELECT note(); END")
        assert isinstance(book.hold("a", [Wish([(MODEL, BUDGET)], BUDGET)], NOON)[0], list)
        book.reserve("a", 1, NOON, 0.0, 0)
        book.shut("it cost", NOON)
        book.reserve("a", 1, NOON, 0.0, 0)
        with pytest.raises(sqlite3.Error):
            book.hold("a", [Wish([(MODEL, BUDGET)], BUDGET * 2)], NOON)
        book.reserve("a", 1, NOON, 0.0, 0)
        full, off = 2, 0
        assert levels == [full, off, full, off, full, off]
        assert book.spent("a", NOON).held == BUDGET


def test_what_is_drawn_and_what_a_person_said_waits_for_the_disk_too(folder: Path) -> None:
    with closing(SQLiteBook(folder / "ledger.db", limit=20, window=61.0)) as book:
        (held_of_batch,) = book.hold("a", [Wish([(MODEL, BUDGET)], BUDGET, "batch")], NOON)
        assert isinstance(held_of_batch, list)
        book.shut("it cost", NOON)
        assert book.seal("seal-1", NOON)

        levels: list[int] = []
        book.db.create_function("note", 0, lambda: levels.append(*book.db.execute("PRAGMA synchronous").fetchone()))
        for event in ("DELETE ON promises", "DELETE ON closures", "INSERT ON seals"):
            book.db.execute(f"CREATE TEMP TRIGGER {event.replace(' ', '_')} AFTER {event} BEGIN SELECT note(); END")
        assert book.draw(held_of_batch[0].id)
        book.acknowledge(book.closures())
        assert book.seal("seal-2", NOON)
        assert levels == [2, 2, 2]  # full


async def test_a_cost_in_the_file_that_cannot_be_read_leaves_the_months_unknown_and_may_be_corrected(
    folder: Path, at: Time
) -> None:
    async with ledger(folder, at) as one:
        charge = await held(one)
        await one.spending.settle(charge, Decimal("0.01"))
        sql(folder, "UPDATE charges SET cost = '?'")
        await one.spending.settle(charge, Decimal("0.02"))
        assert (await one.spending.spent()).cost == Decimal("0.02")
        assert (await one.month()).today[MODEL].cost is None


# --- a book that cannot be used -------------------------------------------------------------------------------------


async def test_after_a_book_was_set_aside_nothing_that_costs_is_sent_until_a_person_has_seen_it(
    folder: Path, sandbox: Sandbox
) -> None:
    (folder / "ledger.db").write_bytes(b"not a book " * 200)
    async with connected(sandbox, **budgeted(folder)) as client, opened(sandbox, **budgeted(folder)) as later:
        for _ in range(2):
            text, record, _ = await ask(client, prompt="Hi", model=MODEL)
            assert record["code"] == "cannot_reserve"
            assert "acknowledge" not in text
        assert sandbox.chats == []
        free = [(await ask(client, prompt="Hi", model=FREE))[1].get("code") for _ in range(ALONE_PER_MINUTE + 1)]
        assert free == [None] * ALONE_PER_MINUTE + ["minute_quota"]
        async with Client(build(later)) as other:  # with a new book, whose budget nobody has touched
            assert (await ask(other, prompt="Hi", model=MODEL))[1]["code"] == "cannot_reserve"
            await later.ledger.spending.acknowledge([], await later.ledger.spending.doubts())
            assert not (await ask(other, prompt="Hi", model=MODEL))[2]
        assert (await ask(client, prompt="Hi", model=MODEL))[1]["code"] == "cannot_reserve"  # it has no book still


async def test_who_still_has_a_book_open_that_was_set_aside_holds_nothing_in_it(
    folder: Path, at: Time, caplog: pytest.LogCaptureFixture
) -> None:
    async with ledger(folder, at) as one, ledger(folder, at) as other:
        await held(one)
        (folder / "ledger.db.broken-0").touch()
        (folder / "ledger.db").replace(folder / "ledger.db.broken-1")  # as a sibling does that met a broken page
        with pytest.raises(CannotReserve):
            await held(one)
        lost = "; ".join(f"{folder / 'ledger.db'}.broken-{number} broke and was set aside" for number in range(2))
        assert f"What was spent today is not known, so nothing that costs is sent: {lost}. When" in caplog.text
        await other.spending.acknowledge([], await other.spending.doubts())
        await held(other, BUDGET)
        with pytest.raises(CannotReserve):
            await held(one)


async def test_why_the_guard_is_closed_is_in_the_log_of_whoever_closes_it_or_meets_it(
    folder: Path, at: Time, caplog: pytest.LogCaptureFixture
) -> None:
    async with ledger(folder, at) as one, ledger(folder, at) as other:
        await one.spending.close("it cost")
        assert await other.spending.closures() == [Closure(NOON, "it cost")]
    said = "The guard against surprise bills is closed and nothing is sent: it cost. When you know why, "
    assert [text[: len(said)] for text in caplog.messages] == [said] * 2


def _make_newer(folder: Path) -> None:
    sql(folder, "PRAGMA user_version=99")


def _make_a_folder(folder: Path) -> None:
    (folder / "ledger.db").mkdir()


@pytest.mark.parametrize("spoil", [_make_newer, _make_a_folder])
async def test_without_a_usable_book_nothing_that_costs_is_reserved(
    folder: Path, at: Time, spoil: Callable[[Path], None]
) -> None:
    spoil(folder)
    async with ledger(folder, at) as one:
        with pytest.raises(CannotReserve):
            await held(one)
        assert len(await one.reserve(ALONE_PER_MINUTE, longest_wait=0)) == ALONE_PER_MINUTE


async def test_a_book_that_becomes_read_only_holds_no_more_and_keeps_the_guard_closed(folder: Path, at: Time) -> None:
    async with ledger(folder, at) as one:
        charge = await held(one)
        await one.spending.close("it cost")
        assert await one.spending.closures()
        file_of(one).db.execute("PRAGMA query_only=ON")
        with pytest.raises(CannotReserve):
            await held(one)
        await one.spending.settle(charge, Decimal(0))  # of a book that was given up
        assert [closure.reason for closure in await one.spending.closures()] == ["it cost"]
        await one.spending.close("it cost again")
        assert [closure.reason for closure in await one.spending.closures()] == ["it cost", "it cost again"]
    async with ledger(folder, at) as later:
        assert (await later.spending.spent()).held == charge.amount


# --- whose it is ------------------------------------------------------------------------------------------------------


@OVER_BOTH
async def test_what_a_process_holds_is_its_own_for_as_long_as_it_shows_life(folder: Path, at: Time) -> None:
    async with ledger(folder, at) as gone:
        await held(gone)
    async with ledger(folder, at) as one, ledger(folder, at) as other:
        await held(one, "0.02")
        await one.spending.release([await held(one)])
        for _ in range(3):
            at.now += DEAD_S - 1
            await one.spending.show_life()
            await other.spending.learn()
        lives = Spent({MODEL: Decimal("0.01")}, Decimal("0.02"))
        assert await other.spending.spent() == lives
        at.now += DEAD_S + 1
        await one.spending.learn()  # it is its own still
        assert await other.spending.spent() == lives
        await other.spending.learn()
        assert await other.spending.spent() == Spent({MODEL: Decimal("0.03")}, Decimal(0))


@OVER_BOTH
async def test_what_a_request_cost_whose_process_is_gone_is_asked_by_the_id_it_ran_under(
    folder: Path, at: Time
) -> None:
    asked = []

    async def inquire(generation: str) -> Usage | None:
        asked.append(generation)
        return Usage(cost=Decimal("0.01"))

    async with ledger(folder, at) as one, ledger(folder, at, inquire=inquire) as other:
        first, second = await held(one), await held(one, "0.02")
        await one.spending.show_life(second)
        await one.spending.show_life(None, "gen-0")
        for generation in ("gen-1", "gen-2"):  # a request has one
            await one.spending.show_life(first, generation)
        at.now += DEAD_S + 1
        await other.spending.learn()
        at.now += FIRST_INQUIRY_S
        await other.spending.learn()
        assert asked == ["gen-1"]
        assert await other.spending.spent() == Spent({MODEL: Decimal("0.03")}, Decimal(0))
        assert await other.spending.closures() == []  # it cost what was held, and no more


async def _settle(one: Ledger, charge: Charge) -> None:
    await one.spending.settle(charge, Decimal("0.001"))


async def _release(one: Ledger, charge: Charge) -> None:
    await one.spending.release([charge])


async def _leave_open(one: Ledger, charge: Charge) -> None:
    await one.spending.leave_open(charge, "gen-1")


async def _note_generation(one: Ledger, charge: Charge) -> None:
    await one.spending.show_life(charge, "gen-1")


ENDS = [_settle, _release, _leave_open]


@pytest.mark.parametrize("end", ENDS)
async def test_who_holds_nothing_any_more_writes_nothing_to_say_so(
    folder: Path, at: Time, end: Callable[[Ledger, Charge], Awaitable[None]]
) -> None:
    async with ledger(folder, at) as one:
        charge = await held(one)
        for _ in range(2):  # the second time it is nothing new
            await end(one, charge)
        at.now += 1
        await one.spending.show_life()
        assert sql(folder, "SELECT seen FROM holders") == [(NOON,)]


@pytest.mark.parametrize("end", [*ENDS, _note_generation])
async def test_what_becomes_of_another_books_charge_changes_none_of_ours(
    folder: Path, at: Time, end: Callable[[Ledger, Charge], Awaitable[None]]
) -> None:
    async with ledger(folder, at) as one, ledger(None, at) as other:
        ours, theirs = await held(one), await held(other)
        assert ours.id == theirs.id
        everything = sql(folder, "SELECT * FROM charges")
        await end(one, theirs)
        assert sql(folder, "SELECT * FROM charges") == everything


@OVER_BOTH
async def test_who_ask_in_the_same_moment_are_each_told_what_they_spent(folder: Path, at: Time) -> None:
    async with ledger(folder, at) as one:
        for name in ("alice", "bob"):
            await one.spending.hold([(MODEL, Decimal("0.01"))], BUDGET, caller=Caller(name))
        told: list[tuple[str | None, Spent]] = []

        async def ask_for(whose: str | None) -> None:
            told.append((whose, await one.spending.spent(whose)))

        async with anyio.create_task_group() as group:
            for whose in (None, "alice", "bob", "carol") * 5:
                group.start_soon(ask_for, whose)
        amounts_held = {None: "0.02", "alice": "0.01", "bob": "0.01", "carol": "0"}
        assert all(spent == Spent({}, Decimal(amounts_held[whose]), whose) for whose, spent in told)


# --- what calls cost that ended without a word on it ----------------------------------------------------------------


async def test_one_generation_that_openrouter_is_slow_to_tell_keeps_no_other_from_being_learnt(
    folder: Path, at: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "_LONGEST_INQUIRY_S", 0.05)

    async def inquire(generation: str) -> Usage:
        if generation == "gen-0":
            await anyio.sleep_forever()
        return Usage(cost=Decimal("0.001"))

    async with ledger(folder, at, inquire=inquire) as one:
        for number in range(3):
            await one.spending.leave_open(await held(one), f"gen-{number}")
        at.now += 10
        assert (await held(one)).amount
        spent = await one.spending.spent()
    assert spent == Spent({MODEL: Decimal("0.002")}, Decimal("0.02"))


@OVER_BOTH
async def test_openrouter_is_asked_a_few_times_ever_later_by_one_process_and_until_it_tells(
    folder: Path, at: Time
) -> None:
    asked: list[tuple[str, float]] = []

    async def inquire(generation: str) -> Usage | None:
        asked.append((generation, at.now - NOON))
        return Usage(cost=Decimal(0)) if generation == "gen-2" else None

    async with ledger(folder, at, inquire=inquire) as one, ledger(folder, at, inquire=inquire) as other:
        for generation in ("gen-1", "gen-2", ""):  # nothing is known of the last
            await one.spending.leave_open(await held(one), generation)
        for seconds in (4, 5, 6, 19, 20, 79, 80, 319, 320, 1280, 5120):
            at.now = NOON + seconds
            await one.spending.learn()
            await other.spending.learn()
        assert (await one.spending.spent()).held == Decimal("0.02")
    in_time = sorted(asked, key=lambda each: (each[1], each[0]))
    assert in_time == [("gen-1", 5), ("gen-2", 5), ("gen-1", 20), ("gen-1", 80), ("gen-1", 320)]


@OVER_BOTH
async def test_what_openrouter_tells_is_booked_and_heeded_though_who_asked_is_cancelled(folder: Path, at: Time) -> None:
    scope = anyio.CancelScope()

    async def inquire(_: str) -> Usage:
        scope.cancel()
        return Usage(cost=Decimal("0.02"))

    async with ledger(folder, at, inquire=inquire) as one:
        await one.spending.leave_open(await held(one, "0.01"), "gen-1")
        at.now += 10
        with scope:
            await held(one)
        assert await one.spending.spent() == Spent({MODEL: Decimal("0.02")}, Decimal(0))
        assert "gen-1 cost $0.02, and $0.01 was held" in (await one.spending.closures())[0].reason


async def test_a_call_that_learns_of_a_cost_above_what_was_held_is_not_sent(sandbox: Sandbox, at: Time) -> None:
    async with connected(sandbox, at=at, **budgeted(None)) as client:
        sandbox.fail(Fault(then="reset"))
        assert (await ask(client, prompt="Hi", model=MODEL))[1]["code"] == "may_have_been_billed"
        sandbox.fail(Fault(json={"data": {"total_cost": 0.9}}), path="/generation")
        at.now += 10
        for _ in range(2):
            assert (await ask(client, prompt="Hi", model=MODEL))[1]["code"] == "guard_closed"
        _, record, _ = await ask(client, "check_credits")
        assert Decimal(record["spent_today_usd"][MODEL]) == Decimal("0.9")
    assert len(sandbox.chats) == 1


# --- cancelled at any moment ----------------------------------------------------------------------------------------


class Cancelled:
    """Waits for `work` in a scope that is cancelled the `nth` time it waits for anything."""

    def __init__(self, work: Awaitable[object], nth: int) -> None:
        self._work, self._nth = work, nth
        self.waits = 0
        self._scope = anyio.CancelScope()

    async def end(self) -> bool:
        """Whether it ended before it came to that."""
        with self._scope:
            await self
        return self.waits < self._nth

    def __await__(self) -> Generator[Any, Any, object]:
        steps: Any = self._work.__await__()
        step = partial(next, steps)
        while True:
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self._nth:
                self._scope.cancel()
            try:
                step = partial(steps.send, (yield waits_for))
            except BaseException as error:  # noqa: BLE001 - it goes to whom it is for
                step = partial(steps.throw, error)


async def test_a_call_cancelled_at_any_moment_holds_nothing_that_nobody_knows(sandbox: Sandbox, at: Time) -> None:
    request = ChatRequest(model=MODEL, prompt="Hi", max_tokens=20)
    async with opened(sandbox, at=at, **budgeted(None, "1000")) as app:
        await app.writing._attempts.ask(request, app.guard.purse(), Draft())
        for nth in count(1):
            before = await app.ledger.spending.spent()
            sandbox.clear()
            purse = app.guard.purse()
            if await Cancelled(app.writing._attempts.ask(request, purse, Draft()), nth).end():
                break
            spent = await app.ledger.spending.spent()
            assert purse.held == spent.in_all - before.in_all
            assert purse.held == 0 or sandbox.chats
        unknown = file_of(app.ledger).db.execute("SELECT generation FROM charges WHERE cost IS NULL").fetchall()
    assert nth > 10
    assert unknown
    assert len([row for row in unknown if row == ("",)]) < len(unknown)
