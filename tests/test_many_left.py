"""Batches that a server leaves: what stands in the next one's way for a while costs no prompt its answer."""

import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from served import MODEL, Gate
from support import SETTINGS, Time, ask, connected, fail_lists, file_of, until

from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.book import LEASE_S
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.records import KeyInfo
from openrouter_mcp.sandbox import Sandbox, faults
from openrouter_mcp.writing import Waits

HASTY = Waits(plain=0)
PROMPTS = [f"Say {number}" for number in range(8)]


class Endless(Time):
    """A clock that stands still: who waits waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.waiting += 1
            await anyio.sleep_forever()


@asynccontextmanager
async def server(sandbox: Sandbox, folder: Path, **options: Any) -> AsyncGenerator[Client]:
    async with connected(sandbox, settings=replace(SETTINGS, state_dir=folder), **options) as client:
        yield client


async def left(sandbox: Sandbox, folder: Path, answered: int) -> str:
    """The id of a batch that a server left when it had so many answers."""
    sandbox.delay_s, sandbox.sleep, sandbox.account.per_minute = 1.0, Gate(answered), 100
    asked = len(sandbox.chats)
    async with server(sandbox, folder, waits=HASTY) as client:
        _, record, _ = await ask(client, "ask_many", prompts=PROMPTS, model=MODEL)
        await until(lambda: len(sandbox.chats) == asked + min(answered + 5, len(PROMPTS)))
    sandbox.delay_s = 0.0
    return str(record["id"])


async def test_a_batch_that_one_took_while_another_waited_for_the_book_is_not_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [1e9]
    first, second = (Ledger("key", tmp_path, _say_nothing, clock=lambda: at[0]) for _ in range(2))
    await second.standing()
    await first.standing()
    begin: Callable[..., AbstractContextManager[Any]] = SQLiteBook.transaction

    @contextmanager
    def waits(book: SQLiteBook, **more: Any) -> Generator[Any]:
        """Five seconds in which the other was quicker."""
        monkeypatch.undo()
        at[0] += 5
        assert file_of(first).take("key", "batch-1", "first", at[0])
        with begin(book, **more) as db:
            yield db

    monkeypatch.setattr(SQLiteBook, "transaction", waits)
    assert not await second.promises.take("batch-1", "second")
    at[0] += LEASE_S + 1
    assert await second.promises.take("batch-1", "second")
    await first.aclose()
    await second.aclose()


async def _say_nothing() -> KeyInfo:
    return KeyInfo()


async def test_where_the_price_list_cannot_be_read_a_batch_waits_and_is_gone_on_with_when_it_can(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    batch = await left(sandbox, tmp_path, 2)
    async with server(sandbox, tmp_path) as client:
        fail_lists(sandbox, faults.server_error())
        asked = len(sandbox.chats)
        _, record, _ = await ask(client, "read_answer", id=batch)
        assert (record["status"], record["answered"], record["failed"]) == ("partial", 2, 0)
        assert len(sandbox.chats) == asked
        sandbox.clear()
        _, record, _ = await ask(client, "read_answer", id=batch)
        assert (record["status"], record["answered"]) == ("complete", 8)


async def test_a_prompt_that_was_to_be_tried_again_is_tried_again_by_the_next_server(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fail(faults.pool_busy(), times=1)
    at = Endless()
    async with server(sandbox, tmp_path, waits=HASTY, at=at) as client:
        _, record, _ = await ask(client, "ask_many", prompts=PROMPTS[:1], model=MODEL)
        await until(lambda: at.waiting == 1)
    async with server(sandbox, tmp_path) as client:
        _, record, _ = await ask(client, "read_answer", id=record["id"])
    assert (record["status"], record["answered"]) == ("complete", 1)


async def test_an_answer_that_was_written_but_not_yet_noted_is_not_asked_for_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    batch = await left(sandbox, tmp_path, 2)
    with closing(sqlite3.connect(tmp_path / "answers.db")) as db, db:
        db.execute("UPDATE plan_rows SET facts = json_set(facts, '$.running', json('true')) WHERE place < 2")
    asked = len(sandbox.chats)
    async with server(sandbox, tmp_path) as client:
        _, record, _ = await ask(client, "read_answer", id=batch)
    assert (record["status"], record["answered"]) == ("complete", 8)
    assert sorted(chat.body["messages"][-1]["content"] for chat in sandbox.chats[asked:]) == PROMPTS[2:]


@pytest.mark.parametrize("plan", ["{}", "no JSON"])
async def test_a_batch_that_cannot_be_read_is_in_no_other_one_s_way(
    sandbox: Sandbox, tmp_path: Path, plan: str
) -> None:
    unreadable, whole = await left(sandbox, tmp_path, 2), await left(sandbox, tmp_path, 2)
    with closing(sqlite3.connect(tmp_path / "answers.db")) as db, db:
        db.execute("UPDATE plans SET plan = ? WHERE id = ?", (plan, unreadable))
    async with server(sandbox, tmp_path) as client:
        for _ in range(2):
            _, record, _ = await ask(client, "read_answer", id=whole)
            assert (record["status"], record["answered"]) == ("complete", 8)
        assert (await ask(client, "read_answer", id=unreadable))[1]["code"] == "unknown_answer"
