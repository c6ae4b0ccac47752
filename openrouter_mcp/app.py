"""What a running server holds, opened and closed once per process: the SDK enters a lifespan once per connection."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx2

from openrouter_mcp.answers import Answers
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.client import OpenRouter
from openrouter_mcp.guard import Guard
from openrouter_mcp.ledger.allowance import PER_MINUTE, WINDOW_S, Ledger
from openrouter_mcp.reading import Timeouts
from openrouter_mcp.settings import Settings


@dataclass(frozen=True)
class App:
    """The parts the tools use."""

    settings: Settings
    client: OpenRouter
    catalog: Catalog
    ledger: Ledger
    guard: Guard
    answers: Answers


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    transport: httpx2.AsyncBaseTransport | None = None,
    timeouts: Timeouts | None = None,
    per_minute: int = PER_MINUTE,
    window: float = WINDOW_S,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> AsyncGenerator[App]:
    """The parts of one server process. Opening sends and writes nothing; closing ends every connection.

    `transport` stands in for the network, `timeouts` for the client's own; the books allow `per_minute` free requests
    in any `window` seconds; `clock` gives them epoch seconds, `monotonic` counts those a call has lasted, and `sleep`
    waits for a slot or between tries.
    """
    client = OpenRouter(settings, transport=transport, timeouts=timeouts, clock=clock)
    catalog = Catalog(client.models, clock=monotonic, wall=clock)
    key = settings.key.get_secret_value() if settings.key else ""
    ledger = Ledger(
        key, settings.state_dir, client.key, limit=per_minute, window=window, clock=clock, inquire=client.generation
    )
    guard = Guard(catalog, ledger, settings.policy)
    answers = Answers(client, catalog, ledger, guard, clock=monotonic, sleep=sleep)
    try:
        yield App(settings=settings, client=client, catalog=catalog, ledger=ledger, guard=guard, answers=answers)
    finally:
        with anyio.CancelScope(shield=True):
            await client.aclose()
            await ledger.aclose()
