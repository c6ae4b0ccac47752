"""When the engine that keeps the books is away: what runs ends, nothing is sent that nobody counts, and when it is back
nobody has to restart anything."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from engine import started
from mcp import Client
from pydantic import SecretStr
from served import held_back
from support import CANARY, SETTINGS, ask, before_long, until

from openrouter_mcp import app as app_room
from openrouter_mcp.app import App, open_app
from openrouter_mcp.engine import Engine
from openrouter_mcp.ledger.shelf import ALONE_PER_MINUTE
from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Sandbox
from openrouter_mcp.sandbox.transport import StreamingTransport
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings
from openrouter_mcp.writing import Waits

FREE, TINY = "acme/tiny:free", "acme/tiny"
CALL: dict[str, Any] = {"prompt": "Hi", "model": TINY, "max_tokens": 100}
BUDGET = Policy(daily_budget=Decimal(1), call_budget=Decimal(1))


class Cable:
    """The way to an engine, which can be cut and joined again."""

    def __init__(self, url: str) -> None:
        self._far = urlsplit(url).port or 0
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def join(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server
        self._server.close()
        for end in self._ends:
            end.transport.abort()
        await self._server.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._far)
        ends = {writer, far_writer}
        self._ends |= ends
        with suppress(asyncio.CancelledError):  # the test is over
            await asyncio.gather(_pour(reader, far_writer), _pour(far_reader, writer))
        self._ends -= ends


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
    writer.close()


@pytest.fixture
async def cable(engine_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Cable]:
    monkeypatch.setattr(app_room, "_LOOK_S", 0.01)
    cable = Cable(engine_url)
    await cable.join()
    yield cable
    await cable.cut()


@asynccontextmanager
async def replica(
    sandbox: Sandbox, url: str, policy: Policy = BUDGET, *, wait_s: float = 5.0, **settings: Any
) -> AsyncGenerator[tuple[App, Client]]:
    """A server whose books are on the engine at `url`."""
    shared: Settings = replace(SETTINGS, state_url=SecretStr(url), policy=policy, **settings)
    waits = Waits(plain=wait_s, with_progress=wait_s, heartbeat=0.05, poll=0.01)
    wire = StreamingTransport(sandbox.app)
    async with open_app(shared, transport=wire, waits=waits) as app, Client(build(app)) as client:
        yield app, client


async def back(app: App) -> None:
    """Until the engine is found again."""
    engine = app.engine
    await until(lambda: engine is not None and not engine.away)


async def test_what_runs_when_the_engine_goes_away_is_delivered_and_booked_when_it_is_back(
    sandbox: Sandbox, cable: Cable, engine_url: str
) -> None:
    gate = held_back(sandbox)
    async with replica(sandbox, cable.url, wait_s=0) as (app, client), replica(sandbox, engine_url) as (other, far):
        _, record, _ = await ask(client, **CALL)
        await until(lambda: bool(sandbox.chats))
        await cable.cut()
        gate.opened.set()
        await until(lambda: not app.writing.running(""))
        text, record, is_error = await ask(client, "read_answer", id=record["id"])
        assert not is_error
        assert record["status"] == "complete"
        assert (await other.ledger.spending.spent()).held > 0  # it is not booked yet
        await cable.join()
        await back(app)

        async def is_booked() -> bool:
            return not (await other.ledger.spending.spent()).held

        async def is_kept() -> bool:
            found, _, is_error = await ask(far, "read_answer", id=record["id"])
            return not is_error and found.splitlines()[0] == text.splitlines()[0]

        await before_long(is_booked)
        await before_long(is_kept)
        assert (await other.ledger.spending.spent()).cost == sandbox.bill


@pytest.mark.parametrize("model", [FREE, TINY, None])
async def test_while_it_is_away_nothing_new_is_sent_and_afterwards_nobody_restarts_anything(
    sandbox: Sandbox, cable: Cable, model: str | None
) -> None:
    arguments = {"prompt": "Hi"} | ({"model": model} if model else {})
    async with replica(sandbox, cable.url) as (app, client):
        assert not (await ask(client, **arguments))[2]
        asked = len(sandbox.chats)
        await cable.cut()
        for tool in ("ask_model", "compare_models"):
            text, record, is_error = await ask(
                client, tool, prompt="Hi", **({"model": model} if model and tool == "ask_model" else {})
            )
            assert is_error, text
        text, record, is_error = await ask(client, **arguments)
        assert is_error
        assert record["code"] == "cannot_reserve"
        assert "cannot be used since" in text
        assert "UTC" in text
        assert "it cannot be reached" in text
        assert len(sandbox.chats) == asked
        text, _, is_error = await ask(client, "check_credits")
        assert not is_error
        assert "The shared books cannot be used since" in text
        assert "Until they are back nothing is sent. They are" in text
        assert "How many free requests are left is not known while the shared books cannot be used." in text
        assert "This minute" not in text
        await cable.join()
        await back(app)
        assert not (await ask(client, **arguments))[2]
        assert "cannot be used" not in (await ask(client, "check_credits"))[0]


async def test_with_the_fallback_a_few_free_requests_a_minute_go_on(sandbox: Sandbox, cable: Cable) -> None:
    async with replica(sandbox, cable.url, Policy(), goes_on_alone=True) as (app, client):
        assert not (await ask(client, prompt="Hi", model=FREE))[2]
        await cable.cut()
        codes = [(await ask(client, prompt="Hi", model=FREE))[1].get("code") for _ in range(ALONE_PER_MINUTE)]
        assert codes == [None] * ALONE_PER_MINUTE
        assert (await ask(client, prompt="Hi", model=FREE))[1]["code"] == "minute_quota"
        await cable.join()
        await back(app)
        assert not (await ask(client, prompt="Hi", model=FREE))[2]


async def test_a_server_that_starts_while_it_is_away_serves_once_it_is_there(sandbox: Sandbox, cable: Cable) -> None:
    await cable.cut()
    async with replica(sandbox, cable.url) as (app, client):
        assert (await ask(client, prompt="Hi", model=FREE))[1]["code"] == "cannot_reserve"
        await cable.join()
        await back(app)
        assert not (await ask(client, prompt="Hi", model=FREE))[2]


async def test_an_emptied_engine_costs_nothing_until_a_person_has_seen_it(sandbox: Sandbox, engine_url: str) -> None:
    async with replica(sandbox, engine_url) as (app, client):
        assert not (await ask(client, **CALL))[2]
        with redis.Redis.from_url(engine_url) as engine:
            engine.flushall()
        _, record, _ = await ask(client, **CALL)
        assert record["code"] == "cannot_reserve"
        assert not (await ask(client, prompt="Hi", model=FREE))[2]
        (doubt,) = await app.ledger.spending.doubts()
        assert "were lost at" in doubt
        await app.ledger.spending.acknowledge([], [doubt])
        assert not (await ask(client, **CALL))[2]


async def test_a_guard_that_one_replica_closes_is_closed_for_all_at_once(sandbox: Sandbox, engine_url: str) -> None:
    async with replica(sandbox, engine_url) as (app, _), replica(sandbox, engine_url) as (_, other):
        await app.ledger.spending.close("it cost")
        assert (await ask(other, prompt="Hi", model=FREE))[1]["code"] == "guard_closed"
    assert not sandbox.chats


# --- an engine that will not do ---------------------------------------------------------------------------------------


async def _shut_out(sandbox: Sandbox, url: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said of an engine that cannot be used, after a question that was refused."""
    with caplog.at_level(logging.WARNING):
        async with replica(sandbox, url) as (_, client):
            text, record, _ = await ask(client, prompt="Hi", model=FREE)
    assert record["code"] == "cannot_reserve"
    assert "secret-word" not in text + caplog.text
    assert not sandbox.chats
    return [entry.getMessage() for entry in caplog.records if "The books at" in entry.getMessage()]


async def test_a_wrong_password_is_said_in_one_line_that_does_not_hold_it(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with started(tmp_path) as (url, _):
        with redis.Redis.from_url(url) as engine:
            engine.config_set("requirepass", "another-one")
        (line,) = await _shut_out(sandbox, url.replace("//", "//someone:secret-word@"), caplog)
        assert "it refuses the user or the password" in line


async def test_a_read_only_replica_is_said_in_one_line(
    sandbox: Sandbox, tmp_path: Path, engine_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with started(tmp_path, "--replicaof", f"127.0.0.1 {urlsplit(engine_url).port}") as (url, _):
        (line,) = await _shut_out(sandbox, url, caplog)
    assert "it is a read-only replica" in line


async def test_an_engine_that_may_forget_is_warned_of_and_used(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with started(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as (url, _):
        async with replica(sandbox, url) as (_, client):
            assert not (await ask(client, prompt="Hi", model=FREE))[2]
    (line,) = [entry.getMessage() for entry in caplog.records if "The books at" in entry.getMessage()]
    assert "maxmemory-policy allkeys-lru" in line
    assert "noeviction" in line


async def test_a_database_shared_with_strangers_is_warned_of_and_used(
    sandbox: Sandbox, engine_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(engine_url) as engine:
        engine.set("session:1", "theirs")
    async with replica(sandbox, engine_url) as (_, client):
        assert not (await ask(client, prompt="Hi", model=FREE))[2]
    (line,) = [entry.getMessage() for entry in caplog.records if "The books at" in entry.getMessage()]
    assert "holds what is not openrouter-mcp's" in line
    with redis.Redis.from_url(engine_url) as engine:
        assert engine.get("session:1") == b"theirs"


async def test_a_stranger_under_our_names_is_said_in_one_line(
    sandbox: Sandbox, engine_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(engine_url) as engine:
        engine.lpush("{openrouter-mcp}:closures", "theirs")
        engine.lpush("{openrouter-mcp}:names", "theirs")
    (line,) = await _shut_out(sandbox, engine_url, caplog)
    assert "lies under its names" in line


def test_an_engine_that_is_too_old_is_said_to_be(monkeypatch: pytest.MonkeyPatch, engine_url: str) -> None:
    monkeypatch.setattr(redis.Redis, "info", lambda _: {"redis_version": "5.0.14", "role": "master"})
    engine = Engine(engine_url)
    assert not engine.try_again()
    assert engine.away == "it is version 5.0.14, and 6.2 is the oldest that will do"
    engine.close()


def test_a_url_is_shown_without_who_and_how() -> None:
    engine = Engine(f"rediss://someone:{CANARY}@books.example:6380/3")
    assert engine.name == "rediss://books.example:6380/3"
    engine.close()
