"""An answer is kept whole although writing it down was held up."""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from calls import PATIENT, Call, Clock, some_turns
from mcp import Client
from support import SETTINGS, ask, opened, until

from openrouter_mcp.sandbox import Sandbox
from openrouter_mcp.server import build
from openrouter_mcp.writing import Running

TINY = "acme/tiny:free"


class Writer(Clock):
    """Lets a model of `sandbox` say 4000 words, two thirds of them on the first page, and the rest at `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
        super().__init__(monkeypatch)
        self.tokens = 0
        self.go_on = anyio.Event()
        sandbox.token_delay_s, sandbox.sleep = 1.0, self._next_token

    async def _next_token(self, _: float) -> None:
        self.tokens += 1
        if self.tokens == 4000:
            await self.go_on.wait()


@pytest.fixture
async def at(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> Writer:
    """A clock that tests set forward, and how far the model is."""
    return Writer(monkeypatch, sandbox)


@asynccontextmanager
async def half_way(
    sandbox: Sandbox, at: Writer, folder: Path
) -> AsyncGenerator[tuple[Running, Client, sqlite3.Connection]]:
    """An answer of which the first page is there and not yet written down, and the file it is kept in."""
    settings = replace(SETTINGS, state_dir=folder)
    async with opened(sandbox, settings=settings, at=at, timeouts=PATIENT) as app, Client(build(app)) as client:
        async with anyio.create_task_group() as group:
            call = Call(group, client, "ask_model", token=False, prompt="In 6000 words: why?", model=TINY)
            await until(lambda: at.tokens == 4000)
            (running,) = app.writing.running("").values()
            await until(lambda: running.saved and len(running.draft.text.pages) == 1)
            with closing(sqlite3.connect(folder / "answers.db", isolation_level=None)) as file:
                yield running, client, file
            at.go_on.set()
            _, record = await call.result()
        text, record, _ = await ask(client, "read_answer", id=record["id"])
        assert record["finish_reason"] == "length"  # so it is the end that was kept
        assert text.startswith(running.draft.text.pages[0])
        assert record["pages"] == len(running.draft.text.pages) == 2
        text, _, _ = await ask(client, "read_answer", id=record["id"], page=2)
        assert text.startswith(running.draft.text.pages[1])


async def test_a_page_is_kept_although_the_end_overtook_its_writing_down(
    sandbox: Sandbox, at: Writer, tmp_path: Path
) -> None:
    """A sign of life waits for its turn at the disk when the answer is done."""
    async with half_way(sandbox, at, tmp_path) as (running, client, file), anyio.create_task_group() as group:
        file.execute("BEGIN EXCLUSIVE")
        Call(group, client, "read_answer")  # somebody else's turn
        await some_turns()
        at.jump(5)
        await some_turns()
        at.go_on.set()
        await until(lambda: not running.draft.answer.running)
        await some_turns()
        file.execute("COMMIT")


async def test_an_answer_is_whole_although_the_disk_was_full_for_a_while(
    sandbox: Sandbox, at: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with half_way(sandbox, at, tmp_path) as (_, _, file):
        file.execute("CREATE TRIGGER full BEFORE UPDATE ON answers BEGIN SELECT RAISE(FAIL, 'disk full'); END")
        at.jump(5)
        await until(lambda: "cannot be written" in caplog.text)
        file.execute("DROP TRIGGER full")
