"""What the tests share: a server over the sandbox and a real MCP client connected to it, and the canary key."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from mcp import Client
from mcp_types import CallToolResult, TextContent
from pydantic import SecretStr

from openrouter_mcp.app import App, open_app
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.reading import Timeouts
from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.sandbox.transport import StreamingTransport
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings
from openrouter_mcp.writing import Waits

# The key every test uses. `conftest.py` fails the run when it turns up in anything a test, a server or a client shows.
CANARY = "sk-or-v1-" + "canary0123456789"
SETTINGS = Settings(key=SecretStr(CANARY), base_url="http://localhost/api/v1")
ERAS = ("auto", "legacy")  # 2026-07-28 with server/discover, 2025-11-25 with initialize


def in_ascii(value: object) -> str:
    """What stands for `value` in a test's id, which every tool can be given."""
    return ascii(value).replace("\\", "/")


class Time:
    """A clock that only waiting moves: `waits` are the seconds slept, one entry each."""

    def __init__(self) -> None:
        self.now = float(round(time.time()))
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.waits.append(seconds)
            self.now += seconds


@asynccontextmanager
async def opened(
    sandbox: Sandbox,
    *,
    settings: Settings = SETTINGS,
    timeouts: Timeouts | None = None,
    waits: Waits | None = None,
    at: Time | None = None,
) -> AsyncGenerator[App]:
    """An App over `sandbox`, whose waits take no time."""
    at = at or Time()
    async with open_app(
        settings,
        transport=StreamingTransport(sandbox.app),
        timeouts=timeouts,
        waits=waits,
        clock=at.clock,
        monotonic=at.clock,
        sleep=at.sleep,
    ) as app:
        yield app


@asynccontextmanager
async def connected(sandbox: Sandbox, *, era: str = "auto", **options: Any) -> AsyncGenerator[Client]:
    """A real MCP client of the given era, in process, over `opened(sandbox, **options)`."""
    async with opened(sandbox, **options) as app, Client(build(app), mode=era) as client:
        yield client


def text_of(result: CallToolResult) -> str:
    """The result's one block of text, as the agent reads it."""
    (block,) = result.content
    assert isinstance(block, TextContent)
    assert CANARY not in result.model_dump_json()
    return block.text


def record_of(result: CallToolResult) -> dict[str, Any]:
    """The result's record for programs."""
    assert result.meta is not None
    record = result.meta["openrouter"]
    assert isinstance(record, dict)
    return record


async def ask(client: Client, tool: str = "ask_model", **arguments: Any) -> tuple[str, dict[str, Any], bool]:
    """Call a tool; its text, its record, and whether it is an error."""
    result = await client.call_tool(tool, arguments)
    return text_of(result), record_of(result), bool(result.is_error)


async def until(condition: Callable[[], bool]) -> None:
    """Let the other tasks run until `condition` holds; five seconds at most."""
    with anyio.fail_after(5):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def before_long(holds: Callable[[], Awaitable[bool]], *, seconds: float = 5) -> None:
    """Ask until it `holds`; so many seconds at most."""
    with anyio.fail_after(seconds):
        while not await holds():
            await anyio.lowlevel.checkpoint()


LISTS = ("/models/user", "/models")


def fail_lists(sandbox: Sandbox, fault: Fault, times: int | None = None) -> None:
    """Spoil the next `times` requests (None: all) for either list of models, the key's own and the public one."""
    for path in LISTS:
        sandbox.fail(fault, times=times, path=path)


def file_of(ledger: Ledger) -> SQLiteBook:
    """The book behind `ledger`, which is a file or in memory, once it was used."""
    book = ledger._shelf._shared
    assert isinstance(book, SQLiteBook)
    return book
