"""Shares: what one caller does with the free requests leaves the others theirs, in one server or in several."""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from budgets import TINY, budget, noon
from calls import some_turns
from engine import OVER_BOTH, either
from hypothesis import given
from hypothesis import strategies as st
from many import AT_ONCE, tasks
from mcp import Client
from support import SETTINGS, Time, ask, file_of, opened, until
from team import WAYS, caller, team
from test_many_resumed import as_killed
from test_sums import VERSION_3

from openrouter_mcp.app import App
from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger.book import Book
from openrouter_mcp.ledger.slots import DAY_S, NEW_DAY_S, Refusal, Slot, day_of
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.ledger.sqlite.schema import VERSION
from openrouter_mcp.sandbox import Sandbox

FREE = "acme/tiny:free"
FIVE = [FREE, "globex/large:free", "initech/coder:free", "tyrell/polyglot:free", "soylent/chat:free"]
MIDNIGHT = 20_000.0 * DAY_S
NOON = MIDNIGHT + DAY_S / 2
WINDOW = 61.0
BOB = caller("bob")
LOOSER = ("OPENROUTER_MCP_CALLERS", "requests_per", "daily_budget_usd")


@pytest.fixture
def at() -> Time:
    return noon()


@pytest.fixture
def sandbox(at: Time) -> Sandbox:
    """OpenRouter on the servers' clock."""
    return Sandbox(clock=at.clock)


@contextmanager
def book(path: Path | str = ":memory:", *, limit: int = 20) -> Generator[Book]:
    with either(path, limit=limit, window=WINDOW) as opened_book:
        yield opened_book


def reserved(
    one: Book, now: float, count: int = 1, *, longest_wait: float = 10 * DAY_S, caller: Caller = NOBODY
) -> list[Slot]:
    slots = one.reserve("a", count, now, longest_wait, 0, caller=caller)
    assert isinstance(slots, list)
    return slots


async def at_once(client: Client, at: Time, *, model: str = FREE) -> bool:
    """Whether a question is answered without a wait."""
    before = at.now
    _, _, is_error = await ask(client, prompt="Hi", model=model)
    return not is_error and at.now == before


def assert_shut(sandbox: Sandbox, text: str, sent: int) -> None:
    """Nothing more was sent, and the agent is not told how to get more."""
    assert len(sandbox.chats) == sent
    assert not any(word in text for word in LOOSER)


# --- one who asks without end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "era"), WAYS)
async def test_a_loop_takes_its_share_of_the_minute_and_another_gets_through_at_once(
    sandbox: Sandbox, at: Time, path: str, era: str
) -> None:
    alice = caller("alice", per_minute=3)
    async with (
        team(sandbox, alice, BOB, at=at) as server,
        server.client("alice", path, era) as loop,
        server.client("bob", path, era) as bob,
    ):
        for _ in range(3):
            assert await at_once(loop, at)
        text, record, is_error = await ask(loop, prompt="Hi", model=FREE)
        assert is_error
        assert record["code"] == "minute_quota"
        assert "alice's own share of this minute's free requests is used up" in text
        assert "Try again in 61 s" in text
        assert_shut(sandbox, text, 3)
        for _ in range(15):
            assert await at_once(bob, at)
        at.now += record["retry_after_s"]
        assert await at_once(loop, at)


async def test_a_loop_takes_its_share_of_the_day_and_the_next_day_another(sandbox: Sandbox, at: Time) -> None:
    alice = caller("alice", per_day=2)
    async with (
        team(sandbox, alice, BOB, at=at) as server,
        server.client("alice") as loop,
        server.client("bob") as bob,
    ):
        for day in range(2):
            for _ in range(2):
                assert await at_once(loop, at)
            text, record, _ = await ask(loop, prompt="Hi", model=FREE)
            assert record["code"] == "daily_quota"
            assert "alice's own share of this day's free requests is used up" in text
            assert_shut(sandbox, text, 3 * day + 2)
            assert await at_once(bob, at)
            assert record["retry_after_s"] == pytest.approx(DAY_S / 2 + NEW_DAY_S if day == 0 else DAY_S)
            at.now += record["retry_after_s"]


@pytest.mark.parametrize("share", [{"per_day": 0}, {"per_minute": 0}, {"per_day": 5, "per_minute": 0}])
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("ask_model", {"prompt": "Hi"}),
        ("ask_model", {"prompt": "Hi", "model": FREE}),
        ("compare_models", {"prompt": "Hi"}),
        ("ask_many", {"prompts": tasks(2)}),
    ],
)
async def test_a_share_of_nothing_is_refused_at_once_and_money_still_buys(
    sandbox: Sandbox, at: Time, share: dict[str, int], tool: str, arguments: dict[str, Any]
) -> None:
    alice = caller("alice", **share)
    async with team(sandbox, alice, at=at, settings=budget("1")) as server, server.client("alice") as client:
        before = at.now
        text, record, is_error = await ask(client, tool, **arguments)
        assert is_error
        assert record["code"] == "daily_quota"
        assert "alice" in text
        assert_shut(sandbox, text, 0)
        assert at.now == before
        credits_, _, _ = await ask(client, "check_credits")
        assert "None" not in credits_
        _, _, is_error = await ask(client, prompt="Hi", model=TINY)
        assert not is_error


async def test_a_share_larger_than_the_accounts_is_the_accounts(sandbox: Sandbox, at: Time) -> None:
    alice = caller("alice", per_day=1000, per_minute=100)
    async with team(sandbox, alice, at=at) as server, server.client("alice") as client:
        for _ in range(20):
            assert await at_once(client, at)
        text, record, _ = await ask(client, prompt="Hi", model=FREE)
        assert record["code"] == "minute_quota"
        assert "alice" not in text


# --- more at once than there is --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "code"), [({"per_minute": 4}, "minute_quota"), ({"per_day": 4}, "daily_quota")])
async def test_a_comparison_beyond_the_share_says_how_many_fit(
    sandbox: Sandbox, at: Time, share: dict[str, int], code: str
) -> None:
    alice = caller("alice", **share)
    async with team(sandbox, alice, at=at) as server, server.client("alice") as client:
        assert await at_once(client, at)
        text, record, is_error = await ask(client, "compare_models", prompt="Hi", models=FIVE)
        assert is_error
        assert record["code"] == code
        assert "This needs 5 free requests, and 3 fit in alice's own share" in text
        assert "Ask for 3 at once or fewer." in text
        assert "Try again" not in text  # five never fit
        assert_shut(sandbox, text, 1)
        _, record, is_error = await ask(client, "compare_models", prompt="Hi", models=FIVE[:3])
        assert not is_error
        assert len(sandbox.chats) == 4


async def test_a_batch_beyond_the_days_share_says_how_many_fit(sandbox: Sandbox, at: Time) -> None:
    alice = caller("alice", per_day=6)
    async with team(sandbox, alice, BOB, at=at) as server, server.client("alice") as client:
        assert await at_once(client, at)
        text, record, is_error = await ask(client, "ask_many", prompts=tasks(9), model=FREE)
        assert is_error
        assert record["code"] == "daily_quota"
        assert "5 fit in what alice's own share of the day has left" in text
        assert "Send 5 or fewer" in text
        assert_shut(sandbox, text, 1)
        assert server.app.batches.asked == {}
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(5), model=FREE)
        assert not is_error
        assert [row["status"] for row in record["rows"]] == ["complete"] * 5


async def test_what_one_batch_still_needs_of_a_share_is_not_promised_to_another(sandbox: Sandbox, at: Time) -> None:
    alice = caller("alice", per_day=8)
    async with opened(sandbox, at=at) as app:
        promise = app.ledger.promises.promise
        assert await promise("batch-1", 5, spare=5, caller=alice) is None
        refusal = await promise("batch-2", 4, spare=5, caller=alice)
        assert refusal
        assert (refusal.fits, refusal.whose) == (3, alice)
        assert await promise("batch-3", 4, spare=5, caller=BOB) is None
        await app.ledger.promises.end("batch-1")
        assert await promise("batch-2", 4, spare=5, caller=alice) is None


async def test_a_batch_keeps_to_its_callers_minute_and_is_done_all_the_same(sandbox: Sandbox, at: Time) -> None:
    alice = caller("alice", per_minute=2)
    async with team(sandbox, alice, BOB, at=at) as server, server.client("alice") as client:
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(6), model=FREE)
        assert not is_error
        with anyio.fail_after(10):
            while record["status"] == "running":
                _, record, _ = await ask(client, "read_answer", id=record["id"])
        assert [row["status"] for row in record["rows"]] == ["complete"] * 6
        taken = moments(server.app, "alice")
    assert len(taken) == 6
    assert windows_hold(taken, 2)


def moments(app: App, name: str) -> list[float]:
    """When the requests of `name` left, by the book in memory."""
    return [
        at for (at,) in file_of(app.ledger).db.execute("SELECT at FROM slots WHERE caller = ? ORDER BY at", (name,))
    ]


# --- given back, and what is shown -----------------------------------------------------------------------------------


async def test_what_was_never_sent_returns_to_the_share(sandbox: Sandbox, at: Time) -> None:
    alice = caller("alice", per_day=2)
    async with opened(sandbox, at=at) as app:
        slots = await app.ledger.reserve(2, longest_wait=0, caller=alice)
        assert await app.ledger.left_of_share(alice) == 0
        await app.ledger.give_back(slots[:1])
        assert await app.ledger.left_of_share(alice) == 1
        await app.ledger.reserve(longest_wait=0, caller=alice)
        assert await app.ledger.left_of_share(alice) == 0


async def test_a_call_that_meets_another_limit_takes_nothing_of_the_share(sandbox: Sandbox, at: Time) -> None:
    alice = caller("alice", per_day=9)
    async with team(sandbox, alice, at=at) as server, server.client("alice") as client:
        await server.app.ledger.reserve(18, longest_wait=0)
        text, record, is_error = await ask(client, "compare_models", prompt="Hi", models=FIVE)
        assert is_error
        assert record["code"] == "minute_quota"
        assert "alice" not in text
        _, record, _ = await ask(client, "check_credits")
        assert record["your_share"] == {"remaining": 9, "of": 9, "a_minute": None}


@pytest.mark.parametrize(("path", "era"), WAYS)
async def test_each_is_shown_their_own_share(sandbox: Sandbox, at: Time, path: str, era: str) -> None:
    alice, carol = caller("alice", per_day=9, per_minute=4), caller("carol", per_minute=3)
    async with (
        team(sandbox, alice, BOB, carol, at=at) as server,
        server.client("alice", path, era) as first,
        server.client("bob", path, era) as second,
        server.client("carol", path, era) as third,
    ):
        assert await at_once(first, at)
        assert await at_once(second, at)
        for client, shown, words in (
            (
                first,
                {"remaining": 8, "of": 9, "a_minute": 4},
                "alice's share of these: 8 of 9 requests left today, 4 ",
            ),
            (third, {"remaining": None, "of": None, "a_minute": 3}, "carol's share of these: 3 a minute at most"),
            (second, None, ""),
        ):
            text, record, _ = await ask(client, "check_credits")
            resource = (await client.read_resource("openrouter://usage")).contents[0]
            for said in (text, resource.model_dump_json()):
                assert words in said
                assert sum(f"{name}'s" in said for name in ("alice", "bob", "carol")) == bool(words)
            assert record.get("your_share") == shown


# --- a server that ends ----------------------------------------------------------------------------------------------


async def test_a_batch_gone_on_with_after_a_kill_keeps_to_its_callers_share(
    sandbox: Sandbox, at: Time, tmp_path: Path
) -> None:
    kept = replace(SETTINGS, state_dir=tmp_path / "state")
    alice = caller("alice", per_minute=2)
    async with team(sandbox, alice, at=at, settings=kept, waits=AT_ONCE) as server, server.client("alice") as client:
        server.app.batches._parts = replace(server.app.batches._parts, sleep=_for_ever)  # for the next minute
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(5), model=FREE)
        assert not is_error
        asking = server.app.batches.asked[record["id"]]
        await until(lambda: len(asking.rows) == 2)
        await some_turns()
        await server.app.answers.newest(1)  # after what is still being written down
        killed = as_killed(kept)
    at.now += 31  # by then its lease is over
    async with team(sandbox, alice, at=at, settings=killed) as server, server.client("alice") as client:
        _, record, _ = await ask(client, "read_answer", id=record["id"], wait_seconds=180)
        assert [row["status"] for row in record["rows"]] == ["complete"] * 5
        taken = moments(server.app, "alice")
    assert len(taken) == 5
    assert windows_hold(taken, 2)


async def _for_ever(_: float) -> None:
    await anyio.sleep_forever()


# --- the book --------------------------------------------------------------------------------------------------------


def test_who_is_put_off_by_all_together_still_keeps_to_the_share() -> None:
    """The share has room from the next minute on, the account from the one after; there the share has none."""
    alice = caller("alice", per_minute=1)
    with book(limit=2) as one:
        put(one, NOON, (alice, NOON), (BOB, NOON + WINDOW), (BOB, NOON + WINDOW), (alice, NOON + 150))
        assert reserved(one, NOON, caller=alice)[0].at == NOON + 150 + WINDOW


def test_who_is_put_off_to_the_next_day_keeps_to_its_share() -> None:
    alice = caller("alice", per_minute=1, per_day=2)
    now = MIDNIGHT - 100.0
    with book(limit=2) as one:
        put(one, now, (alice, now), (BOB, now + WINDOW), (BOB, now + WINDOW))
        put(one, now, (alice, MIDNIGHT + 200), (alice, MIDNIGHT + 300))
        assert reserved(one, now, caller=alice)[0].at == MIDNIGHT + DAY_S + NEW_DAY_S


def put(one: Book, made: float, *slots: tuple[Caller, float]) -> None:
    """What lies ahead after others gave back what came before."""
    assert isinstance(one, SQLiteBook)
    rows = [("a", at, made, who.name) for who, at in slots]
    one.db.executemany("INSERT INTO slots (account, at, made, caller) VALUES (?, ?, ?, ?)", rows)


def test_the_one_who_is_named_is_whose_limit_it_is() -> None:
    alice = caller("alice", per_minute=2, per_day=30)
    with book(limit=3) as one:
        reserved(one, NOON, 2)
        refusal = one.reserve("a", 2, NOON, 20, 0, caller=alice)
        assert refusal == Refusal(WINDOW, daily=False, left=None, fits=1)  # the account's
        reserved(one, NOON + WINDOW, 1, caller=alice)
        refusal = one.reserve("a", 3, NOON + WINDOW, 20, 0, caller=alice)
        assert isinstance(refusal, Refusal)
        assert (refusal.fits, refusal.whose, refusal.daily) == (1, alice, False)


def test_a_key_that_gets_its_accounts_name_keeps_whose_its_slots_and_charges_are() -> None:
    alice = caller("alice", per_day=3)
    with book() as one:
        reserved(one, NOON, 2, caller=alice)
        reserved(one, NOON)
        assert isinstance(one, SQLiteBook)
        one.db.execute("INSERT INTO slots (account, at, made, caller) VALUES ('user', ?, ?, 'alice')", (NOON, NOON))
        one.name("a", "user")
        refusal = one.reserve("a", 1, NOON, 0, 0, caller=alice)
        assert isinstance(refusal, Refusal)
        assert (refusal.daily, refusal.whose) == (True, alice)
        assert one.use("a", NOON).today == 4


# --- an older book ---------------------------------------------------------------------------------------------------

VERSION_4 = VERSION_3.replace("user_version=3", "user_version=4").replace(
    "inquiries INTEGER NOT NULL DEFAULT 0", "inquiries INTEGER NOT NULL DEFAULT 0, caller TEXT NOT NULL DEFAULT ''"
)
SUMS = """
CREATE TABLE sums (
    day INTEGER NOT NULL, account TEXT NOT NULL, model TEXT NOT NULL, caller TEXT NOT NULL,
    asked INTEGER NOT NULL, failed INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL, cost TEXT NOT NULL, PRIMARY KEY (day, account, model, caller)
) WITHOUT ROWID;
"""
DAY = day_of(NOON)
CHARGES = [(1, "a", DAY, "m", "0.2", "0.1"), (2, "a", DAY, "m", "0.3", None)]
SUMMED = [(DAY, "a", "m", "", 4, "0.1")]


def older(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_3 if version == 3 else VERSION_4 + ";" + SUMS)
        db.execute("INSERT INTO slots (account, at, made) VALUES ('a', ?, ?)", (NOON - 1, NOON - 1))
        db.executemany("INSERT INTO charges (id, account, day, model, amount, cost) VALUES (?, ?, ?, ?, ?, ?)", CHARGES)
        db.execute("INSERT INTO batches VALUES ('b', 'a', ?, '', 0, 3)", (DAY,))
        db.execute("INSERT INTO promises VALUES (2, 'b')")
        if version == 4:
            db.execute("INSERT INTO sums VALUES (?, 'a', 'm', '', 4, 0, 1, 1, 1, '0.1')", (DAY,))
        db.commit()


def holds_what_the_older_one_did(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert db.execute("SELECT account, at, caller FROM slots").fetchall() == [("a", NOON - 1, "")]
        columns = "id, account, day, model, amount, cost"
        assert db.execute(f"SELECT {columns} FROM charges WHERE caller = ''").fetchall() == CHARGES  # noqa: S608
        assert db.execute("SELECT id, requests, caller FROM batches").fetchall() == [("b", 3, "")]
        assert db.execute("SELECT * FROM promises").fetchall() == [(2, "b")]
        asked = 4 if version == 4 else 0
        ((*place, count, cost),) = db.execute("SELECT day, account, model, caller, asked, cost FROM sums").fetchall()
        assert (place, count, float(cost)) == ([DAY, "a", "m", ""], asked, 0.1)


@pytest.mark.parametrize("version", [3, 4])
def test_an_older_book_loses_nothing_and_counts_for_all(tmp_path: Path, version: int) -> None:
    older(tmp_path / "ledger.db", version)
    with book(tmp_path / "ledger.db", limit=2) as one:
        holds_what_the_older_one_did(tmp_path / "ledger.db", version)
        reserved(one, NOON, caller=caller("alice", per_minute=1))
        assert isinstance(one.reserve("a", 1, NOON, 0, 0, caller=BOB), Refusal)  # two of the account's two


@pytest.mark.parametrize("version", [3, 4])
def test_of_two_processes_that_open_an_older_book_together_one_takes_it_over(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    older(path, version)
    connect = sqlite3.connect

    class Late(sqlite3.Connection):
        """Begins to write when a sibling has just ended."""

        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            if sql == "BEGIN IMMEDIATE":
                with monkeypatch.context() as patch:
                    patch.setattr(sqlite3, "connect", connect)
                    with book(path):
                        pass
            return super().execute(sql, *more)

    def late(*arguments: Any, **more: Any) -> sqlite3.Connection:
        return connect(*arguments, **more, factory=Late)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", late)
        book(path).__enter__().close()
    holds_what_the_older_one_did(path, version)


# --- any interleaving ------------------------------------------------------------------------------------------------

SHARES = st.builds(
    lambda per_day, per_minute: {"per_day": per_day, "per_minute": per_minute},
    st.none() | st.integers(0, 6),
    st.none() | st.integers(0, 3),
)


@dataclass(frozen=True)
class Move:
    """After `pause` seconds, caller `who` wants `count` at most `longest_wait` seconds away, and gives some back."""

    who: int
    count: int
    longest_wait: float
    pause: float
    back: int


MOVES = st.builds(
    Move,
    who=st.integers(0, 2),
    count=st.integers(1, 5),
    longest_wait=st.sampled_from([0.0, 20.0, 55.0, 300.0, 100_000.0]),
    pause=st.sampled_from([0.0, 0.0, 1.0, 20.0, 61.0, 600.0]) | st.floats(0, 100),
    back=st.sampled_from([0, 0, 0, 1, 2]),
)


def windows_hold(taken: Sequence[float], most: int) -> bool:
    """Whether every window has at most so many of these sorted moments."""
    return all(last - first >= WINDOW - 1e-6 for first, last in zip(taken, taken[most:], strict=False))


def fits(who: Caller, moment: float, own: Sequence[float], everybody: Sequence[float], limit: int) -> bool:
    """Whether a request at `moment` keeps to the caller's share and to the account's window."""

    def around(taken: Sequence[float]) -> list[float]:
        return sorted([*(one for one in taken if abs(one - moment) < 2 * WINDOW), moment])

    today = sum(day_of(one) == day_of(moment) for one in own)
    return (
        windows_hold(around(everybody), limit)
        and (who.per_minute is None or (who.per_minute > 0 and windows_hold(around(own), who.per_minute)))
        and (who.per_day is None or today < who.per_day)
    )


@OVER_BOTH
@given(st.tuples(SHARES, SHARES, SHARES), st.integers(1, 5), st.lists(MOVES, max_size=25), st.sampled_from([5, 200]))
def test_in_any_order_no_share_is_exceeded_and_nobody_waits_who_has_room(
    given_shares: tuple[dict[str, Any], ...], limit: int, moves: list[Move], before_midnight: int
) -> None:
    callers = [caller(name, **share) for name, share in zip(("alice", "bob", "carol"), given_shares, strict=True)]
    now = MIDNIGHT - before_midnight
    granted: dict[str, list[Slot]] = {one.name: [] for one in callers}

    def taken(*whose: Caller) -> list[float]:
        return sorted(slot.at for one in whose for slot in granted[one.name])

    with book(limit=limit) as one:
        for move in moves:
            now += move.pause
            who = callers[move.who]
            slots = one.reserve("a", move.count, now, move.longest_wait, 0, caller=who)
            own, everybody = taken(who), taken(*callers)
            if isinstance(slots, Refusal):
                assert slots.fits < move.count
                assert slots.whose in (NOBODY, who)
                if slots.fits:  # the number that fits does
                    fewer = one.reserve("a", slots.fits, now, move.longest_wait, 0, caller=who)
                    assert isinstance(fewer, list)
                    one.give_back(fewer)
                else:
                    latest = now + move.longest_wait
                    assert not any(
                        fits(who, at, own, everybody, limit) for at in moments_between(now, latest, own, everybody)
                    )
                continue
            for slot in slots:
                assert now <= slot.at <= now + move.longest_wait
                assert fits(who, slot.at, own, everybody, limit)
                earlier = [at for at in moments_between(now, slot.at, own, everybody) if at < slot.at - 1e-6]
                assert not any(fits(who, at, own, everybody, limit) for at in earlier)
                granted[who.name].append(slot)
                own, everybody = taken(who), taken(*callers)
            for _ in range(min(move.back, len(granted[who.name]))):
                one.give_back([granted[who.name].pop(0)])
        for each in callers:
            mine = taken(each)
            assert each.per_minute is None or windows_hold(mine, each.per_minute or 1)
            assert not (each.may_ask_nothing and mine)
            days = [day_of(at) for at in mine]
            assert each.per_day is None or all(days.count(day) <= each.per_day for day in days)
        assert windows_hold(taken(*callers), limit)


def moments_between(now: float, end: float, own: Sequence[float], everybody: Sequence[float]) -> list[float]:
    """Where room can begin: now, a window after what is taken, and soon after each midnight."""
    days = [day * DAY_S + NEW_DAY_S for day in range(day_of(now) + 1, day_of(end) + 1)]
    return [at for at in (now, *(taken + WINDOW for taken in {*own, *everybody}), *days) if now <= at <= end]
