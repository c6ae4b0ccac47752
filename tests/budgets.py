"""What the tests about money share: budgets, a server that has one, and how it stands."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

from mcp import Client
from support import SETTINGS, Time, opened

from openrouter_mcp.app import App
from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Sandbox
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings

TINY = "acme/tiny"  # $0.15 in, $0.60 out per million tokens, at most 4096 out
CALL: dict[str, Any] = {"prompt": "Hi", "model": TINY, "max_tokens": 100}
WORST = Decimal("0.0000627")  # of CALL: 18 tokens in, 100 out
THREE = [TINY, "globex/large:free", "initech/coder"]
NOTHING = Decimal(0)


def budget(daily: str, call: str = "", **more: Any) -> Settings:
    """Settings with a budget of the day and of a call, in USD; without the latter all of the day may go into one."""
    return replace(SETTINGS, policy=Policy(daily_budget=Decimal(daily), call_budget=Decimal(call or daily), **more))


@asynccontextmanager
async def served(
    sandbox: Sandbox, settings: Settings | None = None, **options: Any
) -> AsyncGenerator[tuple[App, Client]]:
    """A server with $1 a day unless `settings` say otherwise, and a client of it."""
    async with opened(sandbox, settings=settings or budget("1"), **options) as app, Client(build(app)) as client:
        yield app, client


async def booked(app: App) -> tuple[Decimal, Decimal]:
    """What is spent today, and what is held."""
    spent = (await app.guard.budget()).spent
    return spent.cost, spent.held


def noon() -> Time:
    """A clock that may go on for hours without a new day."""
    at = Time()
    at.now += 43_200 - at.now % 86_400
    return at
