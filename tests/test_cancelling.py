"""A cancel means stop, a client's time-out does not; and whatever ends a call, nothing stays behind."""

import asyncio
import itertools
import logging
import signal
import sqlite3
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx2
import pytest
from calls import PATIENT, Call, Clock, some_turns
from mcp import Client
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest
from processes import Upstream, initialize, receive, send, spawned, wait_until
from pydantic import TypeAdapter
from support import ERAS, SETTINGS, ask, opened, until
from test_http import client_of, serving
from test_stdio import ENVELOPE

from openrouter_mcp.app import App
from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.server import build
from openrouter_mcp.transcript import Answer
from openrouter_mcp.writing import Waits

TINY, PRICED, ROUTER = "acme/tiny:free", "globex/large", "openrouter/free"
ONE: dict[str, Any] = {"tool": "ask_model", "prompt": "Why?", "model": TINY}
TWO: dict[str, Any] = {"tool": "compare_models", "prompt": "Why?", "models": [TINY, "globex/large:free"]}
PAID: dict[str, Any] = {"tool": "ask_model", "prompt": "Why?", "model": PRICED}
RICH = replace(SETTINGS, policy=Policy(daily_budget=Decimal(1), call_budget=Decimal(1)))
TURNS = 30  # of the event loop: well under 50 ms


@pytest.fixture
async def at(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that tests set forward."""
    return Clock(monkeypatch)


@asynccontextmanager
async def leaving_nothing(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, era: str, at: Clock, **options: Any
) -> AsyncGenerator[tuple[App, Client]]:
    """A client whose calls must leave no task behind, no open stream, and no complaint."""
    async with opened(sandbox, at=at, timeouts=PATIENT, **options) as app, Client(build(app), mode=era) as client:
        await ask(client, "check_credits")  # what is made once is made
        before = asyncio.all_tasks()
        yield app, client
        await until(lambda: asyncio.all_tasks() <= before)
        assert sandbox.open_streams == 0
        assert app.writing.running("") == {}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def kept(client: Client) -> list[dict[str, Any]]:
    """The answers in the list of the newest."""
    _, record, _ = await ask(client, "read_answer")
    return list(record["rows"])


# --- within 50 seconds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("question", [ONE, TWO, PAID], ids=["one", "two", "paid"])
async def test_a_cancel_closes_the_connection_at_once_and_keeps_what_had_come(
    sandbox: Sandbox, at: Clock, caplog: pytest.LogCaptureFixture, question: dict[str, Any], era: str
) -> None:
    models = question.get("models", [TINY])
    sandbox.fail(Fault(then="stall", after_tokens=4), times=len(models))
    async with leaving_nothing(sandbox, caplog, era, at, settings=RICH) as (app, client):
        async with anyio.create_task_group() as group:
            call = Call(group, client, **question)
            await until(lambda: sandbox.open_streams == len(models))
            at.jump(49)
            await some_turns()
            call.cancel()
            for _ in range(TURNS):
                await anyio.lowlevel.checkpoint()
            assert sandbox.open_streams == 0
        assert all(chat.closed_early for chat in sandbox.chats)
        await until(lambda: not app.writing.running(""))
        rows = await kept(client)
        assert [row["status"] for row in rows] == ["cancelled"] * len(models)
        for row in rows:
            text, _, is_error = await ask(client, "read_answer", id=row["id"])
            assert not is_error
            assert text.startswith("[sandbox] ")
            assert "[incomplete: it was stopped here: the call was cancelled]" in text
        assert len(sandbox.chats) == len(models)


async def test_what_a_cancelled_call_cost_is_held_until_openrouter_tells(
    sandbox: Sandbox, at: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.fail(Fault(then="stall", after_tokens=4))
    async with leaving_nothing(sandbox, caplog, "legacy", at, settings=RICH) as (app, client):
        async with anyio.create_task_group() as group:
            call = Call(group, client, **PAID)
            await until(lambda: sandbox.open_streams == 1)
            await some_turns()
            call.cancel()
        await until(lambda: not app.writing.running(""))
        assert (await app.guard.budget()).spent.held == Decimal("0.08197")
        at.jump(600)
        await ask(client, **PAID)
        spent = (await app.guard.budget()).spent
        assert spent.held == 0
        assert spent.cost == sandbox.bill > 0


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("question", [ONE, TWO], ids=["one", "two"])
async def test_a_cancel_while_it_waits_for_a_slot_sends_nothing_and_gives_the_slot_back(
    sandbox: Sandbox, at: Clock, caplog: pytest.LogCaptureFixture, question: dict[str, Any], era: str
) -> None:
    async with leaving_nothing(sandbox, caplog, era, at) as (app, client):
        await app.ledger.reserve(20, longest_wait=0.0)
        at.jump(31)
        async with anyio.create_task_group() as group:
            call = Call(group, client, **question)
            await until(lambda: any(each.draft.waits_for for each in app.writing.running("").values()))
            assert (await app.ledger.standing()).use.today > 20
            call.cancel()
        await until(lambda: not app.writing.running(""))
        assert (await app.ledger.standing()).use.today == 20
        assert await kept(client) == []
        assert sandbox.chats == []


@pytest.mark.parametrize("turns", range(0, 60, 2))
async def test_a_cancel_at_any_moment_leaves_nothing_reserved_that_was_not_sent(
    sandbox: Sandbox, at: Clock, caplog: pytest.LogCaptureFixture, turns: int
) -> None:
    """From before the first line of the tool runs until the answer is there."""
    mixed: dict[str, Any] = {"tool": "compare_models", "prompt": "Why?", "models": [ROUTER, TINY, PRICED]}
    async with leaving_nothing(sandbox, caplog, "auto", at, settings=RICH) as (app, client):
        async with anyio.create_task_group() as group:
            call = Call(group, client, **mixed)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
                await anyio.to_thread.run_sync(int)
            call.cancel()
        await until(lambda: not app.writing.running(""))
        sent = [chat.body["model"] for chat in sandbox.chats]
        assert (await app.ledger.standing()).use.today == len(sent) - sent.count(PRICED)
        spent = (await app.guard.budget()).spent
        assert spent.held + spent.cost == 0 or PRICED in sent


# --- after 50 seconds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("question", [ONE, TWO], ids=["one", "two"])
async def test_a_late_cancel_is_a_time_out_and_the_answer_goes_on_until_it_is_stopped(
    sandbox: Sandbox, at: Clock, caplog: pytest.LogCaptureFixture, question: dict[str, Any], era: str
) -> None:
    models = question.get("models", [TINY])
    sandbox.fail(Fault(then="stall", after_tokens=4), times=len(models))
    async with leaving_nothing(sandbox, caplog, era, at) as (_, client):
        async with anyio.create_task_group() as group:
            call = Call(group, client, **question)
            await until(lambda: sandbox.open_streams == len(models))
            at.jump(50)
            await some_turns()
            call.cancel()
            await some_turns()
        assert sandbox.open_streams == len(models)
        rows = await kept(client)
        assert [row["status"] for row in rows] == ["running"] * len(models)
        for number, row in enumerate(rows, 1):
            text, record, _ = await ask(client, "read_answer", id=row["id"], cancel=True)
            assert sandbox.open_streams == len(models) - number
            assert record["status"] == "cancelled"
            assert text.startswith("[sandbox] ")
            assert "[incomplete: it was stopped here: read_answer was called with cancel]" in text


@pytest.mark.parametrize("era", ERAS)
async def test_a_reader_that_is_cancelled_stops_nothing_but_itself(
    sandbox: Sandbox, at: Clock, caplog: pytest.LogCaptureFixture, era: str
) -> None:
    go_on = anyio.Event()

    async def until_told(_: float) -> None:
        await go_on.wait()

    sandbox.token_delay_s, sandbox.sleep = 1.0, until_told
    async with leaving_nothing(sandbox, caplog, era, at) as (_, client):
        async with anyio.create_task_group() as group:
            call = Call(group, client, **ONE, token=False)
            await until(lambda: sandbox.open_streams == 1)
            at.jump(55)
            _, record = await call.result()
            readers = [Call(group, client, "read_answer", id=record["id"]) for _ in range(2)]
            await some_turns()
            readers[0].cancel()
            await some_turns()
            assert sandbox.open_streams == 1
            go_on.set()
            text, record = await readers[1].result()
        assert record["status"] == "complete"
        assert "No real model has read this." in text


# --- a client that goes away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after_s", "status"), [(49.0, "cancelled"), (50.0, "running")])
async def test_a_client_that_goes_away_while_it_is_told_of_progress_has_cancelled(
    sandbox: Sandbox, at: Clock, caplog: pytest.LogCaptureFixture, after_s: float, status: str
) -> None:
    sandbox.fail(Fault(then="stall", after_tokens=4))
    asked = {"name": "ask_model", "arguments": {"prompt": "Why?", "model": TINY}}
    params = asked | {"_meta": ENVELOPE | {"progressToken": 1}}
    request = JSONRPCRequest(jsonrpc="2.0", id=1, method="tools/call", params=params)
    async with leaving_nothing(sandbox, caplog, "legacy", at, waits=Waits(progress=0.0)) as (app, client):
        async with create_client_server_memory_streams() as ((told, say), served), anyio.create_task_group() as group:
            group.start_soon(build(app).serve, *served)
            await say.send(SessionMessage(request))
            await until(lambda: sandbox.open_streams == 1)
            for _ in range(5):
                assert isinstance((read := await told.receive()), SessionMessage)
                assert isinstance(read.message, JSONRPCNotification)
            at.jump(after_s)
            await told.aclose()
            await some_turns()
            assert sandbox.open_streams == 1  # it may yet say something
            await say.aclose()
        (row,) = await kept(client)
        assert row["status"] == status
        text, record, _ = await ask(client, "read_answer", id=row["id"], cancel=True)
        assert record["status"] == "cancelled"
        assert text.startswith("[sandbox] ")


# --- real servers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def upstream() -> Generator[Upstream]:
    """A sandbox that says four words and then nothing."""
    with Upstream() as upstream:
        upstream.sandbox.fail(Fault(then="stall", after_tokens=4), times=None)
        yield upstream


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("envelope", "ends_by_signal"), [({}, False), ({"_meta": ENVELOPE}, True)])
def test_over_stdio_a_cancel_stops_one_call_and_the_end_all_others(
    upstream: Upstream, envelope: dict[str, Any], *, ends_by_signal: bool
) -> None:
    """In both eras. One of the others has been handed over by then."""
    sandbox, settings = upstream.sandbox, upstream.settings | {"OPENROUTER_MCP_WAIT_SECONDS": "1"}
    question = {"name": "ask_model", "arguments": {"prompt": "Why?", "model": TINY}}
    with spawned(**settings) as process:
        if not envelope:
            initialize(process)
        for number in (2, 3):
            token = {"progressToken": number} if number == 2 else {}
            meta = {"_meta": envelope.get("_meta", {}) | token}
            send(process, "tools/call", id_=number, **question, **meta)
        wait_until(lambda: sandbox.open_streams == 2)
        while (message := receive(process)).get("id") != 3:
            assert message["method"] == "notifications/progress"
        assert message["result"]["_meta"]["openrouter"]["status"] == "running"
        send(process, "notifications/cancelled", requestId=2, **envelope)
        wait_until(lambda: sandbox.open_streams == 1)
        send(process, "tools/call", id_=4, **question, _meta=envelope.get("_meta", {}) | {"progressToken": 4})
        wait_until(lambda: sandbox.open_streams == 2)
        if ends_by_signal:
            process.send_signal(signal.SIGTERM)
        else:
            assert process.stdin is not None
            process.stdin.close()
        assert process.wait(2.5 if ends_by_signal else 1) == (128 + signal.SIGTERM if ends_by_signal else 0)
        wait_until(lambda: sandbox.open_streams == 0)
        assert process.stderr is not None
        said = process.stderr.read().splitlines()
        assert len(said) == 3  # a line for each call, and nothing of the end
        assert all(b" tool=ask_model " in line for line in said)
    kept = answers_in(settings)
    assert len(kept) == 3
    assert all(status == "cancelled" and text.startswith("[sandbox] ") for status, text in kept)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
async def test_over_http_a_cancel_and_a_lost_connection_stop_a_call_and_the_end_all_others(upstream: Upstream) -> None:
    """On both transports and in both eras."""
    sandbox, settings = upstream.sandbox, upstream.settings | {"OPENROUTER_MCP_WAIT_SECONDS": "1"}
    with serving(**settings) as (address, process):
        for path, era in itertools.product(("/mcp", "/sse"), ERAS):
            async with client_of(address, path, era) as client, anyio.create_task_group() as group:
                call = Call(group, client, **ONE)
                await eventually(lambda: sandbox.open_streams == 1)
                call.cancel()
                await eventually(lambda: sandbox.open_streams == 0)
        for path in ("/mcp", "/sse"):
            await lose(address, path, sandbox)
            await eventually(lambda: sandbox.open_streams == 0)
        async with client_of(address, "/mcp", "legacy") as client:
            _, record, _ = await ask(client, **ONE)
            assert record["status"] == "running"
        assert sandbox.open_streams == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(2.5) == 0
        await eventually(lambda: sandbox.open_streams == 0)
    kept = answers_in(settings)
    assert len(kept) == 7
    assert {status for status, _ in kept} == {"cancelled"}
    begun = [text for _, text in kept if text]  # a call may have been cancelled between its first byte and first word
    assert begun
    assert all(text.startswith("[sandbox]") for text in begun)


async def lose(address: str, path: str, sandbox: Sandbox) -> None:
    """Ask over a connection that breaks once the answer has begun, without another word."""
    params = {"name": "ask_model", "arguments": {"prompt": "Why?", "model": TINY}, "_meta": ENVELOPE}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28"}
    headers |= {"mcp-method": "tools/call", "mcp-name": "ask_model"}
    async with httpx2.AsyncClient(base_url=address, headers=headers) as http, anyio.create_task_group() as group:
        if path == "/sse":
            async with http.stream("GET", path) as events:
                lines = events.aiter_lines()
                while not (line := await anext(lines)).startswith("data: "):
                    pass
                await http.post(line.removeprefix("data: "), json=request)
                await eventually(lambda: sandbox.open_streams == 1)
        else:
            group.start_soon(partial(http.post, path, json=request))
            await eventually(lambda: sandbox.open_streams == 1)
        group.cancel_scope.cancel()


def answers_in(settings: dict[str, str]) -> list[tuple[str, str]]:
    """What a process that ended has left in its folder: of each answer its status and its first page."""
    with closing(sqlite3.connect(Path(settings["OPENROUTER_MCP_STATE_DIR"]) / "answers.db")) as db:
        rows = db.execute("SELECT facts, text FROM answers LEFT JOIN pages ON id = answer").fetchall()
    return [(TypeAdapter(Answer).validate_json(facts).status, text or "") for facts, text in rows]


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another process brings about."""
    await anyio.to_thread.run_sync(wait_until, condition)
