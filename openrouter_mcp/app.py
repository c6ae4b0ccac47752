"""What a running server holds, opened and closed once per process: the SDK enters a lifespan once per connection."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
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
    """The parts of one server process. Opening sends and writes nothing; closing ends every connection.

    `transport` stands in for the network, `timeouts` for the client's own, `waits` for the tools'; the books allow
    `per_minute` free requests in any `window` seconds; `clock` gives them epoch seconds, `monotonic` counts those a
    call has lasted, and `sleep` waits for a slot or between tries.
    """
    client = OpenRouter(settings, transport=transport, timeouts=timeouts, clock=clock)
    key = settings.key.get_secret_value() if settings.key else ""
    catalog = Catalog(client.models, Cached(settings.cache_dir, settings.base_url, key), clock=monotonic, wall=clock)
    inquire = client.generation
    ledger = Ledger(key, settings.state_dir, client.key, limit=per_minute, window=window, clock=clock, inquire=inquire)
    guard = Guard(catalog, ledger, settings.policy)
    attempts = Attempts(client, catalog, ledger, guard, clock=monotonic, sleep=sleep)
    keeping = Keeping(settings.state_dir if settings.keep_answers else None, clock=clock)
    waits = waits or Waits(plain=settings.wait_s, with_progress=settings.wait_with_progress_s)
    writing = Writing(attempts, keeping, ledger, waits, clock=monotonic, wall=clock)
    answers = Answers(writing, keeping, ledger, repeat_s=settings.repeat_s, wall=clock)
    parts = Parts(writing, keeping, ledger, guard, clock=monotonic, wall=clock, sleep=sleep)
    batches = Batches(answers, parts)
    try:
        results = Results(batches, answers, parts)
        yield App(settings, client, catalog, ledger, guard, writing, answers, batches, results)
    finally:
        with anyio.CancelScope(shield=True):
            await batches.aclose()
            await writing.aclose()
            await client.aclose()
            await ledger.aclose()
