"""A server over the sandbox and its client, for tests of answers that are read later."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp import Client
from support import SETTINGS, Time, record_of, text_of

from openrouter_mcp.app import App, open_app
from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.sandbox.transport import StreamingTransport
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings
from openrouter_mcp.writing import Waits

MODEL = "acme/tiny:free"
HASTY = Waits(plain=0, with_progress=600)  # hands over at once; waits for a client that is shown progress
BY_TOKEN = Fault(delay_first_s=0, delay_token_s=1)
Said = tuple[str, dict[str, Any], bool]  # the text, the record, and whether it is an error


@dataclass
class Served:
    """A server and its client, for tests that ask and read."""

    app: App
    client: Client
    sandbox: Sandbox
    at: Time

    async def ask(self, tool: str = "ask_model", **arguments: Any) -> Said:
        """What a tool says; `prompt` and `model` are given to `ask_model` if need be."""
        if tool == "ask_model":
            arguments = {"prompt": "Why?"} | ({} if "continue_from" in arguments else {"model": MODEL}) | arguments
        result = await self.client.call_tool(tool, arguments)
        return text_of(result), record_of(result), bool(result.is_error)

    async def read(self, id_: str = "", *, wait: bool = False, **more: Any) -> Said:
        """What `read_answer` says, which waits for the end or not at all, and sends nothing."""
        before = len(self.sandbox.requests)
        arguments = {"id": id_, "wait_seconds": 180 if wait else 0} | more
        result = await self.client.call_tool("read_answer", arguments, progress_callback=_nobody if wait else None)
        assert len(self.sandbox.requests) == before
        return text_of(result), record_of(result), bool(result.is_error)

    async def rows(self) -> list[dict[str, Any]]:
        """The records of the newest answers, newest first."""
        rows: list[dict[str, Any]] = (await self.read())[1]["rows"]
        return rows

    def arrived(self) -> str:
        """What has come so far of all that is being written."""
        return "".join(str(each.draft.text) for each in self.app.writing.running("").values())


async def _nobody(progress: float, total: float | None, message: str | None) -> None:
    """Whoever is shown progress."""


@asynccontextmanager
async def served(
    sandbox: Sandbox,
    *,
    settings: Settings = SETTINGS,
    waits: Waits | None = None,
    era: str = "legacy",
    at: Time | None = None,
    **options: Any,
) -> AsyncGenerator[Served]:
    """A server over `sandbox` and its client; `options` are `open_app`'s. In process only the older era's client says
    that it is shown progress."""
    at = at or Time()
    wired: dict[str, Any] = {"transport": StreamingTransport(sandbox.app), "sleep": at.sleep} | options
    async with (
        open_app(settings, waits=waits, clock=at.clock, monotonic=at.clock, **wired) as app,
        Client(build(app), mode=era) as client,
    ):
        yield Served(app, client, sandbox, at)


@dataclass
class Gate:
    """Where a sandbox's tokens wait, all after the first `most`."""

    most: int = 0
    opened: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, _: float) -> None:
        self.most -= 1
        if self.most < 0:
            await self.opened.wait()


def held_back(sandbox: Sandbox, model: str | None = None) -> Gate:
    """Holds back the next answer of `model`, or of any, after its first token."""
    sandbox.sleep = gate = Gate()
    sandbox.fail(BY_TOKEN, model=model)
    return gate


def says(*parts: str) -> Fault:
    """An answer of these parts."""
    events = [{"choices": [{"delta": {"content": part}, "finish_reason": None}]} for part in parts]
    end = 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + end
    return Fault(body=body.encode(), headers={"content-type": "text/event-stream"})
