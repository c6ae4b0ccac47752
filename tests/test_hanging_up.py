"""A connection that is lost within 50 seconds stops the paid call that came over it, wherever the transport can tell;
later, or where it cannot, the call goes on and its answer is kept."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest
from calls import PATIENT, Clock, some_turns
from processes import Upstream, initialize, send, spawned, wait_until
from support import SETTINGS, ask, until
from team import JSON, Team, bearer, caller, team
from test_cancelling import answers_in
from test_stdio import ENVELOPE

from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Fault, Sandbox

PRICED, WORST = "globex/large", Decimal("0.08197")
RICH = replace(SETTINGS, policy=Policy(daily_budget=Decimal(1), call_budget=Decimal(1)))
CALL = {"name": "ask_model", "arguments": {"prompt": "Why?", "model": PRICED}}
MODERN = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "ask_model"}
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
TELLS = ["/mcp", "/sse", "/sse, the older era"]


def message(method: str, params: Any, number: int | None = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params} | ({"id": number} if number else {})


@asynccontextmanager
async def calling(server: Team, way: str) -> AsyncGenerator[None]:
    """A paid call over a connection of its own, which breaks at the end without another word."""
    path, _, older = way.partition(", ")
    call = message("tools/call", CALL if older else CALL | {"_meta": ENVELOPE}, 2)
    headers = JSON | bearer("alice") | ({} if older else MODERN)
    async with (
        httpx2.AsyncClient(base_url=server.address, headers=headers, timeout=None) as http,
        anyio.create_task_group() as group,
    ):
        if path == "/sse":
            async with http.stream("GET", path, headers={"accept": "text/event-stream"}) as events:
                lines = events.aiter_lines()
                while not (line := await anext(lines)).startswith("data: "):
                    pass
                address = line.removeprefix("data: ")
                for each in (
                    [message("initialize", HELLO), message("notifications/initialized", {}, None)] if older else []
                ):
                    await http.post(address, json=each)
                await http.post(address, json=call)
                yield
        else:
            if older:
                hello = await http.post(path, json=message("initialize", HELLO))
                http.headers["mcp-session-id"] = hello.headers["mcp-session-id"]
                await http.post(path, json=message("notifications/initialized", {}, None))
            group.start_soon(partial(http.post, path, json=call))
            yield
        group.cancel_scope.cancel()


@pytest.fixture
async def at(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that tests set forward."""
    return Clock(monkeypatch)


@pytest.mark.parametrize("way", TELLS)
async def test_a_connection_lost_within_50_seconds_stops_what_is_paid_for(
    sandbox: Sandbox, at: Clock, way: str
) -> None:
    sandbox.fail(Fault(then="stall", after_tokens=4))
    async with team(sandbox, caller("alice"), settings=RICH, timeouts=PATIENT, at=at) as server:
        async with calling(server, way):
            await until(lambda: sandbox.open_streams == 1)
            at.jump(49)
            await some_turns()
            assert sandbox.open_streams == 1
        await until(lambda: sandbox.open_streams == 0 and sandbox.chats[0].closed_early)
        await until(lambda: not server.app.writing.running("alice"))
        assert (await server.app.guard.budget()).spent.held == WORST  # until OpenRouter tells
        at.jump(600)
        async with server.client("alice") as client:
            _, _, is_error = await ask(client, prompt="Ho?", model=PRICED)
            assert not is_error
            text, record, _ = await ask(client, "read_answer", id=await oldest(client))
        assert record["status"] == "cancelled"
        assert "[incomplete: it was stopped here: the call was cancelled]" in text
        spent = (await server.app.guard.budget()).spent
        assert spent.held == 0
        assert spent.cost == sandbox.bill > 0


@pytest.mark.parametrize(("way", "after_s"), [*((way, 50) for way in TELLS), ("/mcp, the older era", 1)])
async def test_one_lost_later_or_that_cannot_tell_leaves_the_call_to_its_end(
    sandbox: Sandbox, at: Clock, way: str, after_s: float
) -> None:
    go_on = anyio.Event()

    async def until_told(_: float) -> None:
        await go_on.wait()

    sandbox.token_delay_s, sandbox.sleep = 1.0, until_told
    async with team(sandbox, caller("alice"), settings=RICH, timeouts=PATIENT, at=at) as server:
        async with calling(server, way):
            await until(lambda: sandbox.open_streams == 1)
            at.jump(after_s)
            await some_turns()
        await some_turns()
        assert sandbox.open_streams == 1
        go_on.set()
        await until(lambda: not server.app.writing.running("alice"))
        async with server.client("alice") as client:
            text, record, _ = await ask(client, "read_answer", id=await oldest(client))
        assert record["status"] == "complete"
        assert "No real model has read this." in text
        spent = (await server.app.guard.budget()).spent
        assert (spent.held, spent.cost) == (Decimal(0), sandbox.bill)
        assert not sandbox.chats[0].closed_early


async def oldest(client: Any) -> str:
    """The id of the caller's first answer."""
    _, record, _ = await ask(client, "read_answer")
    return str(record["rows"][-1]["id"])


@pytest.mark.parametrize("envelope", [{}, {"_meta": ENVELOPE}], ids=["older era", "newer era"])
def test_over_stdio_the_end_of_the_client_stops_what_is_paid_for(envelope: dict[str, Any]) -> None:
    with Upstream() as upstream:
        upstream.sandbox.fail(Fault(then="stall", after_tokens=4))
        settings = upstream.settings | {"OPENROUTER_MCP_DAILY_BUDGET_USD": "1", "OPENROUTER_MCP_CALL_BUDGET_USD": "1"}
        with spawned(**settings) as process:
            if not envelope:
                initialize(process)
            send(process, "tools/call", id_=2, **CALL, **envelope)
            wait_until(lambda: upstream.sandbox.open_streams == 1)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(2.5) == 0
        wait_until(lambda: upstream.sandbox.open_streams == 0 and upstream.sandbox.chats[0].closed_early)
        assert [status for status, _ in answers_in(settings)] == ["cancelled"]
