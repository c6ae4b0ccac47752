"""Many calls of every kind in one process leave it as they found it."""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from calls import PATIENT, Call
from mcp import Client
from support import SETTINGS, Time, ask, until

from openrouter_mcp.app import App, open_app
from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.sandbox.transport import StreamingTransport
from openrouter_mcp.server import build
from openrouter_mcp.writing import Waits

ROUNDS = 20  # some hundreds make it a soak
WARM_UP = 5  # what is made once is made
CALLS = 19  # of a round
TINY, LARGE = "acme/tiny:free", "globex/large:free"
PLENTY = 10**6
LONG = Fault(json={"choices": [{"message": {"content": "Word after word. " * 3000}, "finish_reason": "stop"}]})
NOBODY = Waits(plain=0.0)  # without a progress token every answer is handed over


class Soak:
    """One round of calls, all at once, over a server that holds no call up."""

    def __init__(self, sandbox: Sandbox, app: App, client: Client) -> None:
        self.sandbox, self.app, self.client = sandbox, app, client

    async def round(self) -> None:
        kinds: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self.whole, self.broken, self.refused, self.paged, self.continued, self.compared, self.handed_over,
            self.stopped,
        ]  # fmt: skip
        async with anyio.create_task_group() as group:
            for kind in kinds:
                group.start_soon(kind)
        await self.cancelled()
        self.sandbox.clear()
        self.sandbox.account.generations.clear()

    async def ask(self, tool: str = "ask_model", *, model: str = TINY, **arguments: Any) -> dict[str, Any]:
        """Wait for the answer; its record."""
        async with anyio.create_task_group() as group:
            if tool == "ask_model":
                arguments["model"] = model
            call = Call(group, self.client, tool, prompt="Why?", **arguments)
            _, record = await call.result()
        return record

    async def whole(self) -> None:
        assert (await self.ask())["status"] == "complete"

    async def broken(self) -> None:
        self.sandbox.fail(Fault(then="end", after_tokens=3), model="initech/coder:free")
        assert (await self.ask(model="initech/coder:free"))["status"] == "partial"

    async def refused(self) -> None:
        self.sandbox.fail(Fault(status=400, json={"error": {"code": 400}}), model="tyrell/polyglot:free")
        assert (await self.ask(model="tyrell/polyglot:free"))["code"] == "invalid_request"

    async def paged(self) -> None:
        self.sandbox.fail(LONG, model="cyberdyne/json:free")
        record = await self.ask(model="cyberdyne/json:free")
        assert record["pages"] == 3
        for page in (2, 3):
            _, record, _ = await ask(self.client, "read_answer", id=record["id"], page=page)
        assert record["page"] == 3

    async def continued(self) -> None:
        record = await self.ask()
        for _ in range(2):
            record = await self.ask(continue_from=record["id"])

    async def compared(self) -> None:
        record = await self.ask("compare_models", models=[TINY, LARGE, "acme/nothing:free"])
        assert [row["status"] for row in record["rows"]] == ["complete", "complete", "error"]

    async def handed_over(self) -> None:
        _, record, _ = await ask(self.client, prompt="Why?", model=TINY)
        assert record["status"] == "running"
        while record["status"] == "running":
            _, record, _ = await ask(self.client, "read_answer", id=record["id"])
        assert record["status"] == "complete"

    async def stopped(self) -> None:
        self.sandbox.fail(Fault(then="stall", after_tokens=3), model="soylent/chat:free")
        _, record, _ = await ask(self.client, prompt="Why?", model="soylent/chat:free")
        _, record, _ = await ask(self.client, "read_answer", id=record["id"], cancel=True)
        assert record["status"] == "cancelled"

    async def cancelled(self) -> None:
        self.sandbox.fail(Fault(then="stall", after_tokens=3))
        async with anyio.create_task_group() as group:
            call = Call(group, self.client, "ask_model", prompt="Why?", model=TINY)
            await until(lambda: self.sandbox.open_streams == 1)
            call.cancel()
        await until(lambda: not self.app.writing.running(""))


def open_files() -> int:
    """Handles of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def memory() -> tuple[int, int]:
    """The objects there are, and the pieces of memory in use, whatever they hold."""
    gc.collect()
    gc.collect()
    return len(gc.get_objects()), sys.getallocatedblocks()


@pytest.mark.skipif(sys.platform != "linux", reason="counts the handles in /proc")
async def test_some_hundred_calls_of_every_kind_leave_nothing_behind(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.per_minute = sandbox.account.per_day = PLENTY
    at = Time()
    async with (
        open_app(
            replace(SETTINGS, state_dir=tmp_path),
            transport=StreamingTransport(sandbox.app),
            timeouts=PATIENT,
            waits=NOBODY,
            per_minute=PLENTY,
            clock=at.clock,
            monotonic=at.clock,
            sleep=at.sleep,
        ) as app,
        Client(build(app), mode="legacy") as client,
    ):
        soak = Soak(sandbox, app, client)
        for _ in range(WARM_UP):
            await soak.round()
        tasks, files, (objects, blocks) = len(asyncio.all_tasks()), open_files(), memory()
        for _ in range(ROUNDS):
            at.now += 61
            await soak.round()
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert sandbox.open_streams == 0
        assert app.writing.running("") == {}
        assert open_files() == files
        objects_now, blocks_now = memory()
        assert objects_now - objects < ROUNDS * CALLS  # caches fill up slowly; an answer is dozens
        assert blocks_now - blocks < ROUNDS * CALLS * 4
