"""Money for calls that come together is held together: exactly as much as one after the other, and the disk is waited
for once."""

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from budgets import CALL, NOTHING, WORST, booked, served
from calls import Call
from support import until

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.records import KeyInfo
from openrouter_mcp.sandbox import Sandbox

MODEL, TENTH, BUDGET = "acme/tiny", Decimal("0.1"), Decimal(1)


@asynccontextmanager
async def ledger(folder: Path) -> AsyncGenerator[Ledger]:
    async def key() -> KeyInfo:
        return KeyInfo()

    one = Ledger("key", folder, key)
    try:
        await one.spending.spent()
        yield one
    finally:
        await one.aclose()


async def hold_all(one: Ledger, *callers: Caller) -> list[bool]:
    """Whether a tenth of a dollar could be held for each of `callers`, who all come in the same moment."""
    granted = [False] * len(callers)

    async def hold(place: int) -> None:
        granted[place] = isinstance(await one.spending.hold([(MODEL, TENTH)], BUDGET, caller=callers[place]), list)

    async with anyio.create_task_group() as group:
        for place in range(len(callers)):
            group.start_soon(hold, place)
    return granted


async def test_of_many_in_the_same_moment_as_many_are_granted_as_the_budget_bears(tmp_path: Path) -> None:
    async with ledger(tmp_path) as one, ledger(tmp_path) as sibling:
        granted: list[bool] = []

        async def ask(which: Ledger) -> None:
            granted.extend(await hold_all(which, *[NOBODY] * 30))

        async with anyio.create_task_group() as group:
            group.start_soon(ask, one)
            group.start_soon(ask, sibling)
        assert granted.count(True) == 10
        assert (await sibling.spending.spent()).held == BUDGET


async def test_each_of_them_counts_against_its_callers_own_budget_too(tmp_path: Path) -> None:
    alice, bob = Caller("alice", daily_budget=Decimal("0.3")), Caller("bob", daily_budget=Decimal("0.25"))
    async with ledger(tmp_path) as one:
        granted = await hold_all(one, *[alice, bob] * 10, *[NOBODY] * 10)
        assert granted[0:20:2].count(True) == 3
        assert granted[1:20:2].count(True) == 2
        assert granted[20:].count(True) == 5
        assert (await one.spending.spent("alice")).held == Decimal("0.3")


class Disk:
    """Counts how often it is waited for, and holds the first up until `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits = 0
        self.busy, self.go = threading.Event(), threading.Event()
        transaction: Callable[..., AbstractContextManager[Any]] = SQLiteBook.transaction
        hold = SQLiteBook.hold

        def counted(book: SQLiteBook, *, durable: bool = False) -> AbstractContextManager[Any]:
            self.waits += durable and not book.db.in_transaction
            return transaction(book, durable=durable)

        def held(*arguments: Any, **more: Any) -> Any:
            self.busy.set()
            assert self.go.wait(10)
            return hold(*arguments, **more)

        monkeypatch.setattr(SQLiteBook, "transaction", counted)
        monkeypatch.setattr(SQLiteBook, "hold", held)


async def test_those_who_wait_for_the_disk_wait_for_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    async with ledger(tmp_path) as one, anyio.create_task_group() as group:
        group.start_soon(hold_all, one, NOBODY)
        await until(disk.busy.is_set)
        group.start_soon(hold_all, one, *[NOBODY] * 50)
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        disk.go.set()
    assert disk.waits == 2


async def test_a_call_that_is_cancelled_while_it_waits_for_anothers_gives_its_money_back(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    async with served(sandbox) as (app, client), anyio.create_task_group() as group:
        first = Call(group, client, "ask_model", **CALL)
        await until(disk.busy.is_set)
        second = Call(group, client, "ask_model", **CALL | {"prompt": "Ho"})
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        second.cancel()
        disk.go.set()
        await first.result()
        await until(lambda: not app.writing.running(""))
        spent, held = await booked(app)
        assert held == NOTHING
        assert NOTHING < spent == sandbox.bill <= WORST
    assert len(sandbox.chats) == 1
