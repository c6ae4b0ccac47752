"""When the engine that keeps the books is away: what runs ends, nothing is sent that nobody counts, and when it is back
nobody has to restart anything."""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
import redis
from engine import started
from mcp import Client
from processes import called
from pydantic import SecretStr
from served import held_back
from support import CANARY, SETTINGS, ask, before_long, until

from openrouter_mcp import app as app_room
from openrouter_mcp.app import App, open_app
from openrouter_mcp.archive.entry import Entry
from openrouter_mcp.engine import PREFIX, Engine
from openrouter_mcp.ledger.book import Closure
from openrouter_mcp.ledger.redis.book import RedisBook
from openrouter_mcp.ledger.shelf import ALONE_PER_MINUTE, Shelf
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.pages import Text
from openrouter_mcp.policy import Policy
from openrouter_mcp.refusals import BooksAway
from openrouter_mcp.sandbox import Sandbox
from openrouter_mcp.sandbox.transport import StreamingTransport
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings
from openrouter_mcp.text import time_of_day
from openrouter_mcp.transcript import Answer
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
        assert "what is left of the day's $1 is not known" in text
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
        assert app.engine
        app.engine.away_since -= 7_200
        text, record, is_error = await ask(client, **arguments)
        assert is_error
        assert record["code"] == "cannot_reserve"
        assert f"cannot be used since {time_of_day(app.engine.away_since)} (it cannot be reached), so" in text
        assert len(sandbox.chats) == asked
        text, _, is_error = await ask(client, "check_credits")
        assert not is_error
        assert "The shared books cannot be used since" in text
        assert "Until they are back nothing is sent. They are" in text
        assert "How many free requests are left is not known while the shared books cannot be used." in text
        assert "This minute" not in text
        assert "Budget: what is left of the day's $1 is not known" in text
        assert "$1 of" not in text
        await cable.join()
        await back(app)
        assert not (await ask(client, **arguments))[2]
        assert "cannot be used" not in (await ask(client, "check_credits"))[0]


async def test_money_that_nobody_could_hold_is_not_held_for_nobody_later(
    sandbox: Sandbox, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go_silent(book: RedisBook) -> list[str]:
        raise book._engine._leave(redis.TimeoutError())

    async with replica(sandbox, cable.url) as (app, client):
        assert not (await ask(client, **CALL))[2]
        with monkeypatch.context() as silence:
            silence.setattr(RedisBook, "doubts", go_silent)
            refused = await asyncio.gather(*(ask(client, **CALL) for _ in range(3)))
        for text, record, _ in refused:
            assert record["code"] == "cannot_reserve"
            assert "it did not answer in 2 s" in text
            assert "Free models can be asked" not in text
        await back(app)
        assert not (await ask(client, **CALL))[2]
        spent = await app.ledger.spending.spent()
        assert (spent.held, spent.cost) == (Decimal(0), sandbox.bill)


async def test_a_count_of_yesterday_is_not_written_down_as_todays(
    sandbox: Sandbox, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(sandbox, cable.url) as (app, client):
        await cable.cut()
        assert (await ask(client, prompt="Hi", model=FREE))[2]
        await ask(client, "check_credits")  # which says what is used
        assert app.engine
        monkeypatch.setattr(app.engine, "_ahead_s", 86_400.0)
        noted: list[int] = []
        monkeypatch.setattr(RedisBook, "note_count", lambda *given: noted.append(given[2]))
        monkeypatch.setattr(Engine, "_get_to_know", lambda _: None)
        await cable.join()
        await back(app)
        await app.ledger.mend()
        assert not noted


async def test_an_answer_that_could_not_be_written_is_when_the_server_ends_and_the_engine_is_back(
    sandbox: Sandbox, cable: Cable, engine_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = held_back(sandbox)
    async with replica(sandbox, engine_url) as (_, far):
        async with replica(sandbox, cable.url, wait_s=0) as (app, client):
            _, record, _ = await ask(client, **CALL)
            await until(lambda: bool(sandbox.chats))
            await cable.cut()
            gate.opened.set()
            await until(lambda: not app.writing.running(""))
            monkeypatch.setattr(app_room, "_LOOK_S", 60.0)  # it ends before it would look again
            await anyio.sleep(0.05)
            await cable.join()
        text, record, is_error = await ask(far, "read_answer", id=record["id"])
        assert not is_error, text
        assert record["status"] == "complete"
        assert "Budget: $1 of" not in (await ask(far, "check_credits"))[0]


async def test_who_could_show_no_life_while_it_was_away_is_not_taken_for_dead(sandbox: Sandbox, cable: Cable) -> None:
    async with replica(sandbox, cable.url, wait_s=0) as (app, client):
        long_ago, (owner, *_) = time.time() - 60.0, await app.ledger.owners()
        answer = Answer(id="one", models=(FREE,), running=True)
        entry = Entry(answer, owner, "", "", at=long_ago, seen=long_ago, process="1-a", system="", prompt="Hi")
        await app.writing._keeping.save(entry, Text())
        assert (await ask(client, "read_answer", id="one", wait_seconds=0))[1]["status"] == "partial"
        await cable.cut()
        assert (await ask(client, "read_answer", id="one"))[2]
        await cable.join()
        await back(app)
        assert (await ask(client, "read_answer", id="one", wait_seconds=0))[1]["status"] == "running"


async def test_what_was_to_be_written_while_it_was_away_counts_before_anything_is_asked_of_it(
    sandbox: Sandbox, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_yet(_: Shelf) -> None:
        pass

    async with replica(sandbox, cable.url) as (app, client):
        await cable.cut()
        assert (await ask(client, **CALL))[2]
        await app.ledger.spending.close("it cost")
        monkeypatch.setattr(Shelf, "mend", not_yet)
        await cable.join()
        await back(app)
        assert (await ask(client, **CALL))[1]["code"] == "guard_closed"


async def test_a_guard_stays_closed_when_the_engine_comes_back_while_that_is_looked_up(
    sandbox: Sandbox, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(sandbox, cable.url, Policy(), goes_on_alone=True) as (app, client):
        await app.ledger.spending.close("it cost")
        await cable.cut()
        assert (await ask(client, prompt="Hi", model=FREE))[1]["code"] == "guard_closed"
        app.ledger.spending._shelf._alone = None  # of a process that did not close it itself

        def come_back(_: SQLiteBook) -> list[Closure]:
            assert app.engine
            app.engine.away = ""
            return []

        monkeypatch.setattr(SQLiteBook, "closures", come_back)
        assert (await ask(client, prompt="Hi", model=FREE))[1]["code"] == "guard_closed"
        assert not sandbox.chats


async def test_a_yes_that_only_this_process_knows_of_counts_for_nothing(
    sandbox: Sandbox, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(sandbox, cable.url) as (app, client):
        await cable.cut()
        assert (await ask(client, **CALL))[2]

        def come_back(_: SQLiteBook, __: str, ___: float) -> bool:
            assert app.engine
            app.engine.away = ""
            return True

        monkeypatch.setattr(SQLiteBook, "seal", come_back)
        assert not await app.ledger.seals.use("one")


async def test_with_the_fallback_a_few_free_requests_a_minute_go_on(sandbox: Sandbox, cable: Cable) -> None:
    async with replica(sandbox, cable.url, goes_on_alone=True) as (app, client):
        assert not (await ask(client, prompt="Hi", model=FREE))[2]
        await cable.cut()
        text, record, _ = await ask(client, **CALL)
        assert record["code"] == "cannot_reserve"
        assert "once they are back, the same call works" in text
        assert len(sandbox.chats) == 1
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


async def test_what_nobody_heard_is_not_acknowledged(sandbox: Sandbox, cable: Cable) -> None:
    async with replica(sandbox, cable.url) as (app, client):
        await app.ledger.spending.close("it cost")
        closures = await app.ledger.spending.closures()
        await cable.cut()
        assert (await ask(client, **CALL))[2]
        with pytest.raises(BooksAway):
            await app.ledger.spending.acknowledge(closures, [])


def test_the_doctor_does_not_say_that_a_guard_is_open_that_it_cannot_see() -> None:
    settings = {"OPENROUTER_MCP_STATE_URL": "redis://127.0.0.1:1", "OPENROUTER_MCP_DAILY_BUDGET_USD": "1"}
    done = called("doctor", "--offline", **settings)
    assert "whether it is open is not known" in done.stdout
    assert "what is left of the day's $1 is not known" in done.stdout
    assert "guard    open" not in done.stdout


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


@pytest.mark.parametrize("user", ["someone", ""])
async def test_a_server_that_knows_no_password_does_not_have_it_in_its_line(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture, user: str
) -> None:
    names = tmp_path / "names.conf"
    names.write_text("rename-command AUTH unlikely")
    with started(tmp_path, "--include", str(names)) as (url, _):
        (line,) = await _shut_out(sandbox, url.replace("//", f"//{user}:secret-word@"), caplog)
    assert "unknown command 'AUTH'" in line


@pytest.mark.parametrize("lacking", ["info", "scan", "client"])
def test_a_user_who_may_do_no_more_than_it_takes_will_do(engine_url: str, lacking: str) -> None:
    with redis.Redis.from_url(engine_url) as client:
        client.acl_setuser("least", enabled=True, nopass=True, commands=["+@all", f"-{lacking}"], keys=[f"{PREFIX}*"])
    engine = Engine(engine_url.replace("//", "//least@"))
    assert engine.try_again(), engine.away
    assert RedisBook(engine, limit=1, window=1.0).closures() == []
    engine.close()


def test_a_user_who_may_run_no_scripts_is_told_so_at_the_first_look(engine_url: str) -> None:
    with redis.Redis.from_url(engine_url) as client:
        client.acl_setuser("few", enabled=True, nopass=True, commands=["+@all", "-@scripting"], keys=[f"{PREFIX}*"])
    engine = Engine(engine_url.replace("//", "//few@"))
    assert not engine.try_again()
    assert engine.away == "it does not let this user run evalsha"
    engine.close()


async def test_a_certificate_that_is_not_trusted_is_said_in_one_line(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shake_hands(_: redis.SSLConnection) -> None:
        raise ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")

    monkeypatch.setattr(redis.SSLConnection, "_connect", shake_hands)
    (line,) = await _shut_out(sandbox, "rediss://:secret-word@books.example", caplog)
    assert "its certificate is not trusted here" in line


def test_a_clock_that_is_set_back_does_not_put_off_the_next_try(engine_url: str) -> None:
    now = time.time()
    engine = Engine(engine_url, clock=lambda: now)
    engine.refuse("it would not do")
    now -= 3600.0
    assert engine.try_again()
    engine.close()


def test_a_clock_that_is_set_is_compared_anew_at_the_next_look(engine_url: str) -> None:
    ahead = 0.0
    engine = Engine(engine_url, clock=lambda: time.time() + ahead)
    assert engine.try_again()
    ahead = 5.0
    assert engine.try_again()
    assert abs(engine.now() - time.time()) < 1.0
    engine.close()


@pytest.mark.parametrize("host", ["books.example", "[::1]"])
def test_a_url_is_shown_without_who_and_how(host: str) -> None:
    engine = Engine(f"rediss://someone:{CANARY}@{host}:6380/3")
    assert engine.name == f"rediss://{host}:6380/3"
    engine.close()
