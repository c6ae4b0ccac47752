"""What a running server holds, opened and closed once per process: the SDK enters a lifespan once per connection."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx2

from openrouter_mcp.answers import Answers
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.client import OpenRouter, Timeouts
from openrouter_mcp.settings import Settings


@dataclass(frozen=True)
class App:
    """The parts the tools use."""

    settings: Settings
    client: OpenRouter
    catalog: Catalog
    answers: Answers


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    transport: httpx2.AsyncBaseTransport | None = None,
    timeouts: Timeouts | None = None,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> AsyncGenerator[App]:
    """The parts of one server process. Opening sends and writes nothing; closing ends every connection.

    `transport` stands in for the network, `timeouts` for the client's own, `sleep` (seconds) for waits between tries.
    """
    client = OpenRouter(settings, transport=transport, timeouts=timeouts)
    catalog = Catalog(client.models)
    try:
        yield App(settings=settings, client=client, catalog=catalog, answers=Answers(client, catalog, sleep=sleep))
    finally:
        await client.aclose()
