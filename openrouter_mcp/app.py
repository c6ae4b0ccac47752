"""What a running server holds, opened and closed once per process: the SDK enters a lifespan once per connection."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import httpx2

from openrouter_mcp.answers import Answers
from openrouter_mcp.asking import Parts
from openrouter_mcp.attempts import Attempts
from openrouter_mcp.batch import Batches
from openrouter_mcp.cached import Cached
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.client import OpenRouter
from openrouter_mcp.guard import Guard
from openrouter_mcp.keeping import Keeping
from openrouter_mcp.ledger.allowance import PER_MINUTE, WINDOW_S, Ledger
from openrouter_mcp.reading import Timeouts
from openrouter_mcp.results import Results
from openrouter_mcp.settings import Settings
from openrouter_mcp.writing import Waits, Writing

if TYPE_CHECKING:
    from openrouter_mcp.engine import Engine

_LOOK_S = 1.0  # between two looks whether the engine is back
_LONGEST_LOOK_S = 3.0


@dataclass(frozen=True)
class App:
    """The parts the tools use."""

    settings: Settings
    client: OpenRouter
    catalog: Catalog
    ledger: Ledger
    guard: Guard
    writing: Writing
    answers: Answers
    batches: Batches
    results: Results
    engine: "Engine | None" = None

    def leave(self) -> None:
        """The server ends: who waits gets what there is, and what is left of batches is for the next one."""
        self.batches.leave()
        self.writing.leave()


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    transport: httpx2.AsyncBaseTransport | None = None,
    timeouts: Timeouts | None = None,
    waits: Waits | None = None,
    per_minute: int = PER_MINUTE,
    window: float = WINDOW_S,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> AsyncGenerator[App]:
    """The parts of one server process. Opening sends nothing; closing ends every connection.

    `transport` stands in for the network, `timeouts` for the client's own, `waits` for the tools'; the books allow
    `per_minute` free requests in any `window` seconds; `clock` gives them epoch seconds, `monotonic` counts those a
    call has lasted, and `sleep` waits for a slot or between tries."""
    place = (engine := await _engine(settings)) or settings.state_dir
    client = OpenRouter(settings, transport=transport, timeouts=timeouts, clock=clock)
    key = settings.key.get_secret_value() if settings.key else ""
    catalog = Catalog(client.models, Cached(settings.cache_dir, settings.base_url, key), clock=monotonic, wall=clock)
    inquire = client.generation
    ledger = Ledger(key, place, client.key, limit=per_minute, window=window, clock=clock, inquire=inquire)
    wall = ledger.now
    guard = Guard(catalog, ledger, settings.policy)
    attempts = Attempts(client, catalog, ledger, guard, clock=monotonic, sleep=sleep)
    keeping = Keeping(place if settings.keep_answers else None, clock=wall)
    waits = waits or Waits(plain=settings.wait_s, with_progress=settings.wait_with_progress_s)
    writing = Writing(attempts, keeping, ledger, waits, clock=monotonic, wall=wall)
    answers = Answers(writing, keeping, ledger, repeat_s=settings.repeat_s, wall=wall)
    parts = Parts(writing, keeping, ledger, guard, clock=monotonic, wall=wall, sleep=sleep)
    batches = Batches(answers, parts)
    results = Results(batches, answers, parts)
    try:
        async with _mending(engine, ledger, keeping):
            yield App(settings, client, catalog, ledger, guard, writing, answers, batches, results, engine)
    finally:
        with anyio.CancelScope(shield=True):
            for part in (batches, writing, client, ledger):
                await part.aclose()


async def _engine(settings: Settings) -> "Engine | None":
    """The engine that keeps the books, after a first look at it; None when they are in a folder."""
    if settings.state_url is None:
        return None
    from openrouter_mcp.engine import Engine  # an extra, which few have

    engine = Engine(settings.state_url.get_secret_value(), is_spared=settings.goes_on_alone)
    with anyio.move_on_after(_LONGEST_LOOK_S):  # a name that nobody resolves must not hold up the start
        await anyio.to_thread.run_sync(engine.try_again, abandon_on_cancel=True)
    return engine


@asynccontextmanager
async def _mending(engine: "Engine | None", ledger: Ledger, keeping: Keeping) -> AsyncGenerator[None]:
    """Meanwhile, an engine that was away and is back is given what it missed."""

    async def mend() -> None:
        while engine:
            await anyio.sleep(_LOOK_S)
            if await anyio.to_thread.run_sync(engine.try_again):
                await ledger.mend()
                await keeping.mend()

    task = asyncio.create_task(mend())
    try:
        yield
    finally:
        task.cancel()
        if engine and engine.away:  # once more, for what is written down at the end
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(engine.try_again)
