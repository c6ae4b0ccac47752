"""Calls under way, and a clock that a test sets forward: nobody waits for a deadline."""

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup
from mcp import Client
from mcp_types import CallToolResult
from support import Time, record_of, text_of

from openrouter_mcp.reading import Timeouts

LONGEST_S = 20.0  # for what is due
PATIENT = Timeouts(line=1e6, first_token=1e6, between_tokens=1e6, whole_answer=1e6)


class Clock(Time):
    """The event loop's clock, and the server's: as ever, but that a test may set them forward together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._jumped = 0.0
        loop = asyncio.get_running_loop()
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self._jumped)

    def jump(self, seconds: float) -> None:
        self.now += seconds
        self._jumped += seconds

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Call:
    """A call under way in `group`, with what its client was `told` of progress."""

    def __init__(self, group: TaskGroup, client: Client, tool: str, *, token: bool = True, **arguments: Any) -> None:
        self.told: list[tuple[float, str]] = []
        self._result: list[CallToolResult] = []
        self._over = anyio.Event()
        self._scope = anyio.CancelScope()

        async def tell(progress: float, total: float | None, message: str | None) -> None:
            assert total is None  # nobody knows how long an answer gets
            self.told.append((progress, message or ""))

        async def run() -> None:
            with self._scope:
                self._result.append(await client.call_tool(tool, arguments, progress_callback=tell if token else None))
                self._over.set()

        group.start_soon(run)

    def cancel(self) -> None:
        """As a client does whose user loses patience."""
        self._scope.cancel()

    @property
    def is_over(self) -> bool:
        return bool(self._result)

    async def result(self) -> tuple[str, dict[str, Any]]:
        """Its text and its record, once they are there."""
        with anyio.fail_after(LONGEST_S):
            await self._over.wait()
        return text_of(self._result[0]), record_of(self._result[0])


async def some_turns() -> None:
    """Enough for whatever was going to happen by now, in the threads of the books too."""
    for _ in range(50):
        await anyio.to_thread.run_sync(int)
        await anyio.lowlevel.checkpoint()
