"""Batches outlive their server: the next one at work goes on with them, one at a time, and asks nothing twice."""

import shutil
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
from budgets import TINY, booked, budget
from calls import PATIENT, Clock, some_turns
from engine import in_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from many import AT_ONCE, MODEL, Picky, asked, ended, outcomes, passed, tasks
from mcp import Client
from pydantic import SecretStr
from support import SETTINGS, Time, ask, opened, until
from test_consent import Person

from openrouter_mcp.app import App
from openrouter_mcp.archive.entry import Archive
from openrouter_mcp.archive.redis import RedisArchive
from openrouter_mcp.archive.sqlite import SQLiteArchive
from openrouter_mcp.callers import NOBODY
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.engine import Engine
from openrouter_mcp.ledger.book import LEASE_S
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.plans import Plan, State
from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.sandbox.models import catalogue, today
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings
from openrouter_mcp.text import encodable
from openrouter_mcp.transcript import Answer

STALLS = Fault(then="stall", after_tokens=2)
FREE: dict[str, Any] = {"prompts": tasks(9), "model": MODEL}
PRICED: dict[str, Any] = {"prompts": tasks(9), "model": TINY, "max_tokens": 100}
EACH = Decimal("0.00006345")  # of PRICED, at the most


@pytest.fixture
async def at(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that tests set forward; it is not near midnight."""
    clock = Clock(monkeypatch)
    clock.now += 43_200 - clock.now % 86_400
    return clock


@pytest.fixture
def sandbox(at: Clock) -> Picky:
    """OpenRouter on the servers' clock."""
    return Picky(at)


@pytest.fixture
def kept(tmp_path: Path) -> Settings:
    """Settings whose books lie in a folder of the test."""
    return replace(SETTINGS, state_dir=tmp_path / "state")


@pytest.fixture
def everywhere(where: str, kept: Settings) -> Settings:  # noqa: ARG001 - it sees to it
    """The same, which keep answers in the folder or in an engine."""
    return kept


@asynccontextmanager
async def server(
    sandbox: Sandbox, at: Time, settings: Settings, person: Person | None = None
) -> AsyncGenerator[tuple[App, Client]]:
    """One of the servers over the same books, whose tools hand over at once."""
    async with (
        opened(sandbox, at=at, settings=settings, waits=AT_ONCE, timeouts=PATIENT) as app,
        Client(build(app), elicitation_callback=person) as client,
    ):
        yield app, client


async def begun(
    sandbox: Picky, app: App, client: Client, *, answered: int = 2, under_way: int = 5, **arguments: Any
) -> dict[str, Any]:
    """A batch of which `answered` prompts are answered, and the next `under_way` never will be."""
    sandbox.spoiled = dict.fromkeys(tasks(under_way, first=answered + 1), STALLS)
    _, record, is_error = await ask(client, "ask_many", **arguments)
    assert not is_error
    asking = app.batches.asked[record["id"]]
    await until(lambda: sandbox.open_streams == under_way and len(asking.rows) == answered)
    await until(lambda: len(asking.under_way) == under_way)
    await some_turns()
    await app.answers.newest(1)  # after what is still being written down
    return record


async def left_open(sandbox: Picky, at: Time, settings: Settings, **arguments: Any) -> str:
    """The id of a batch whose server ended in the middle of it."""
    async with server(sandbox, at, settings) as (app, client):
        record = await begun(sandbox, app, client, **FREE | arguments)
    assert sandbox.open_streams == 0
    sandbox.spoiled = {}
    return str(record["id"])


def as_killed(settings: Settings) -> Settings:
    """The books as a server leaves them that is killed now."""
    assert settings.state_dir is not None
    snapshot = settings.state_dir.with_name("snapshot")
    shutil.copytree(settings.state_dir, snapshot)
    return replace(settings, state_dir=snapshot)


@contextmanager
def archive_of(settings: Settings, where: str) -> Generator[Archive]:
    """What the servers keep."""
    assert settings.state_dir is not None
    if where:
        with closing(Engine(where)) as engine:
            yield RedisArchive(engine)
    else:
        with closing(SQLiteArchive(settings.state_dir / "answers.db")) as archive:
            yield archive


def sql(settings: Settings, file: str, statement: str, *values: object) -> list[Any]:
    """Do that to one of the books, as somebody else would."""
    assert settings.state_dir is not None
    with sqlite3.connect(settings.state_dir / file) as db:
        rows = db.execute(statement, values).fetchall()
    db.close()
    return rows


# --- going on ---------------------------------------------------------------------------------------------------------

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "a list of models": ("list_free_models", {}),
    "the account": ("check_credits", {}),
    "a list of answers": ("read_answer", {}),
    "the batch": ("read_answer", {"id": "batch"}),
    "another answer": ("read_answer", {"id": "unknown"}),
    "a question": ("ask_model", {"prompt": "Single?", "model": MODEL}),
    "another batch": ("ask_many", {"prompts": ["Single?"], "model": MODEL}),
    "what cannot be done": ("ask_model", {"prompt": ""}),
}


@pytest.mark.parametrize(("tool", "arguments"), CALLS.values(), ids=CALLS)
async def test_it_goes_on_with_the_next_call_of_any_tool_and_not_before(
    sandbox: Picky, at: Clock, kept: Settings, tool: str, arguments: dict[str, Any]
) -> None:
    id_ = await left_open(sandbox, at, kept)
    async with server(sandbox, at, kept) as (_, client):
        await client.list_tools()
        await some_turns()
        assert len(sandbox.requests) == len(sandbox.chats) + 2  # the catalogue and the key, by the first server
        assert len(sandbox.chats) == 7
        await ask(client, tool, **arguments | ({"id": id_} if arguments.get("id") == "batch" else {}))
        await until(lambda: set(tasks(9)) == {*asked(sandbox)} - {"Single?"})
        text, record, _ = await ended(client, id_)
    assert record["status"] == "complete"
    assert text.startswith(f"Batch {id_} is done: 9 of 9 answered.")
    again = [task for task in tasks(9) if asked(sandbox).count(task) > 1]
    assert again == tasks(5, first=3)  # what was cut off


async def test_while_nobody_goes_on_the_list_says_so_and_nothing_answered_is_lost(
    sandbox: Picky, at: Clock, kept: Settings
) -> None:
    id_ = await left_open(sandbox, at, kept)
    at.now += 86_000
    sandbox.fail(STALLS, times=None)
    async with server(sandbox, at, kept) as (_, client):
        _, record, _ = await ask(client, "read_answer", id=id_)
        assert (record["status"], record["answered"]) == ("running", 2)
        text, _, _ = await ask(client, "read_answer", id=record["rows"][0]["id"])
        assert "was asked: 'Task 1.'" in text


async def test_what_another_server_answers_is_read_and_waited_for_here(
    sandbox: Picky, at: Clock, everywhere: Settings
) -> None:
    async with server(sandbox, at, everywhere) as (app, client), server(sandbox, at, everywhere) as (_, sibling):
        record = await begun(sandbox, app, client, **FREE)
        id_ = record["id"]
        for tool in ("list_free_models", "check_credits", "read_answer"):
            await ask(sibling, tool)
        text, record, _ = await ask(sibling, "read_answer", id=id_)
        assert (record["status"], record["answered"], record["to_go_s"]) == ("running", 2, None)
        assert "is being asked in another process: 2 of 9 answered." in text
        await passed(at, 40)
        assert (await ask(sibling, "read_answer", id=id_))[1]["status"] == "running"
        assert len(sandbox.chats) == 7
        _, record, _ = await ask(sibling, "read_answer", id=id_, cancel=True)
        assert record["status"] == "cancelled"
        await passed(at, 10)
        assert sandbox.open_streams == 0
        for one in (client, sibling):
            _, record, _ = await ask(one, "read_answer", id=id_)
            assert outcomes(record) == ["complete"] * 2 + ["cancelled"] * 7
    assert len(sandbox.chats) == 7


async def test_of_two_servers_that_find_a_batch_one_goes_on(sandbox: Picky, at: Clock, everywhere: Settings) -> None:
    id_ = await left_open(sandbox, at, everywhere)
    async with server(sandbox, at, everywhere) as (_, client), server(sandbox, at, everywhere) as (_, sibling):
        async with anyio.create_task_group() as group:
            for one in (client, sibling) * 3:
                group.start_soon(ask, one, "read_answer")
        _, record, _ = await ended(client, id_)
        assert record["answered"] == 9
        await some_turns()
    assert len(sandbox.chats) == 7 + 7


async def test_a_batch_that_is_just_begun_is_not_taken_for_one_that_was_left(
    sandbox: Picky, at: Clock, everywhere: Settings, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks for batches at the very moment at which this one is first seen there."""
    kind: type[Archive] = RedisArchive if where else SQLiteArchive
    save = kind.save_plan
    async with server(sandbox, at, everywhere) as (app, client), server(sandbox, at, everywhere) as (sibling, _):

        def save_and_be_seen(archive: Archive, plan: Plan) -> None:
            save(archive, plan)
            for one in (app, sibling):
                anyio.from_thread.run_sync(one.batches.wake)
            anyio.from_thread.run(some_turns)

        monkeypatch.setattr(kind, "save_plan", save_and_be_seen)
        _, record, _ = await ask(client, "ask_many", **FREE)
        _, record, _ = await ended(client, record["id"])
        await some_turns()
        assert outcomes(record) == ["complete"] * 9
    assert sorted(asked(sandbox)) == tasks(9)


async def test_a_killed_servers_batch_goes_on_when_its_lease_has_ended(
    sandbox: Picky, at: Clock, kept: Settings
) -> None:
    async with server(sandbox, at, kept) as (app, client):
        id_ = (await begun(sandbox, app, client, **FREE))["id"]
        killed = as_killed(kept)
    sandbox.spoiled = {}
    async with server(sandbox, at, killed) as (_, client):
        at.now += 29
        await ask(client, "read_answer", id=id_)
        await some_turns()
        assert len(sandbox.chats) == 7
        at.now += 32
        _, record, _ = await ask(client, "read_answer", id=id_)
        _, record, _ = await ended(client, id_)
        assert record["answered"] == 9
    assert [task for task in tasks(9) if asked(sandbox).count(task) > 1] == tasks(5, first=3)


async def test_a_server_that_lost_its_lease_asks_no_more(sandbox: Picky, at: Clock, kept: Settings) -> None:
    """As after a night with the lid closed."""
    async with server(sandbox, at, kept) as (app, client):
        id_ = (await begun(sandbox, app, client, **FREE))["id"]
        sql(kept, "ledger.db", "UPDATE batches SET holder = 'another', until = ?", at.now + 30)
        sandbox.spoiled = {}
        await passed(at, 5)
        await until(lambda: sandbox.open_streams == 0 and not app.batches.asked)
        text, record, _ = await ask(client, "read_answer", id=id_)
        assert (record["status"], record["answered"]) == ("running", 2)
        assert "in another process" in text
        await passed(at, 30)
        await ask(client, "list_free_models")  # the other one is gone
        _, record, _ = await ended(client, id_)
        assert record["answered"] == 9
    assert [task for task in tasks(9) if asked(sandbox).count(task) > 1] == tasks(5, first=3)


async def test_an_answer_that_was_written_but_not_yet_noted_is_not_asked_again(
    sandbox: Picky, at: Clock, kept: Settings
) -> None:
    id_ = await left_open(sandbox, at, kept)
    sql(kept, "answers.db", "UPDATE plan_rows SET facts = json_set(facts, '$.running', json('true'))")
    async with server(sandbox, at, kept) as (_, client):
        await ask(client, "read_answer", id=id_)
        _, record, _ = await ended(client, id_)
        assert outcomes(record) == ["complete"] * 9
        text, _, _ = await ask(client, "read_answer", id=record["rows"][0]["id"])
        assert "was asked: 'Task 1.'" in text
    assert asked(sandbox).count("Task 1.") == asked(sandbox).count("Task 2.") == 1


async def test_a_batch_survives_one_server_after_another(sandbox: Picky, at: Clock, everywhere: Settings) -> None:
    id_ = await left_open(sandbox, at, everywhere, prompts=tasks(12))
    for number in (3, 4, 5):
        at.now += 61
        sandbox.spoiled = dict.fromkeys(tasks(12, first=number + 1), STALLS)
        before = len(sandbox.chats)
        async with server(sandbox, at, everywhere) as (_, client):
            await ask(client, "read_answer")
            await until(lambda: sandbox.open_streams == 5)
            await some_turns()
            _, record, _ = await ask(client, "read_answer", id=id_)
            assert record["answered"] == number
        assert len(sandbox.chats) == before + 6
    for number in range(1, 6):
        assert asked(sandbox).count(f"Task {number}.") == (1 if number < 3 else number - 1)


@pytest.mark.parametrize("how", ["stopped", "done", "a day old"])
async def test_what_is_stopped_done_or_too_old_is_left_alone(
    sandbox: Picky, at: Clock, everywhere: Settings, where: str, how: str
) -> None:
    if how == "done":
        async with server(sandbox, at, everywhere) as (_, client):
            _, record, _ = await ask(client, "ask_many", **FREE)
            await ended(client, record["id"])
    else:
        id_ = await left_open(sandbox, at, everywhere)
        if how == "stopped":
            with archive_of(everywhere, where) as archive:
                archive.settle(id_, State.STOPPED)
    at.now += 86_400 if how == "a day old" else 61
    before = len(sandbox.chats)
    async with server(sandbox, at, everywhere) as (_, client):
        for tool in ("read_answer", "list_free_models"):
            await ask(client, tool)
        await some_turns()
    assert len(sandbox.chats) == before


async def test_a_batch_that_waits_can_be_stopped(sandbox: Picky, at: Clock, kept: Settings) -> None:
    priced = replace(kept, policy=budget("1").policy)
    id_ = await left_open(sandbox, at, priced, **PRICED)
    async with server(sandbox, at, kept) as (_, client):
        text, record, _ = await ask(client, "read_answer", id=id_)
        assert (record["status"], record["answered"]) == ("partial", 2)
        assert text.startswith(f"Batch {id_} is waiting for a server that may go on with it: 2 of 9 answered.")
        text, record, _ = await ask(client, "read_answer", id=id_, cancel=True)
        assert outcomes(record) == ["complete"] * 2 + ["cancelled"] * 7
        assert "## 3. Task 3.\n\n[sandbox] acme/tiny\n\n[incomplete: it was stopped with the batch]" in text
        assert "## 9. Task 9.\n\n[incomplete: it was not asked any more]" in text
    async with server(sandbox, at, priced) as (_, client):
        _, record, _ = await ask(client, "read_answer", id=id_)
        await some_turns()
        assert record["status"] == "cancelled"
    assert len(sandbox.chats) == 7


# --- for whom ---------------------------------------------------------------------------------------------------------


async def test_neither_another_caller_nor_another_account_goes_on(
    sandbox: Picky, at: Clock, everywhere: Settings
) -> None:
    id_ = await left_open(sandbox, at, everywhere)
    stranger = Picky(at)
    stranger.account.user = "user_other"
    for settings_, upstream in (
        (replace(everywhere, caller="http"), sandbox),
        (replace(everywhere, key=SecretStr("sk-or-v1-anothers0123456789")), stranger),
        (replace(everywhere, key=None), sandbox),
    ):
        async with server(upstream, at, settings_) as (_, client):
            for tool, arguments in (("read_answer", {}), ("read_answer", {"id": id_}), ("list_free_models", {})):
                await ask(client, tool, **arguments)
            await some_turns()
    assert (len(sandbox.chats), len(stranger.chats)) == (7, 0)


async def test_another_key_of_the_account_goes_on(sandbox: Picky, at: Clock, everywhere: Settings) -> None:
    id_ = await left_open(sandbox, at, everywhere)
    async with server(sandbox, at, replace(everywhere, key=SecretStr("sk-or-v1-second0123456789"))) as (_, client):
        await ask(client, "check_credits")  # by which it learns whose it is
        await ask(client, "read_answer", id=id_)
        _, record, _ = await ended(client, id_)
    assert record["answered"] == 9


# --- what may not be asked any more -----------------------------------------------------------------------------------


async def test_a_model_that_is_gone_meanwhile_is_the_reason_of_the_rest(
    sandbox: Picky, at: Clock, kept: Settings
) -> None:
    id_ = await left_open(sandbox, at, kept)
    sandbox.catalog[:] = [row for row in catalogue(today(at.now)) if row["id"] != MODEL]
    async with server(sandbox, at, kept) as (_, client):
        await ask(client, "read_answer", id=id_)
        _, record, _ = await ended(client, id_)
    assert outcomes(record) == ["complete"] * 2 + ["unknown_model"] * 7
    assert len(sandbox.chats) == 7


@pytest.mark.parametrize("policy", [Policy(denied=("acme/",)), Policy(allowed=("globex/",))])
async def test_a_server_whose_lists_exclude_the_model_leaves_it_to_another(
    sandbox: Picky, at: Clock, kept: Settings, policy: Policy
) -> None:
    id_ = await left_open(sandbox, at, kept)
    async with server(sandbox, at, replace(kept, policy=policy)) as (_, client):
        _, record, _ = await ask(client, "read_answer", id=id_)
        await some_turns()
        assert record["status"] == "partial"
        assert len(sandbox.chats) == 7
        async with server(sandbox, at, kept) as (_, sibling):
            await ask(sibling, "read_answer", id=id_)
            _, record, _ = await ended(sibling, id_)
    assert record["answered"] == 9


# --- money ------------------------------------------------------------------------------------------------------------


async def test_what_a_killed_server_held_is_free_again_but_for_what_it_sent(
    sandbox: Picky, at: Clock, kept: Settings
) -> None:
    priced = replace(kept, policy=budget(f"{13 * EACH}").policy)  # not enough if what was only promised stayed held
    async with server(sandbox, at, priced) as (app, client):
        id_ = (await begun(sandbox, app, client, **PRICED))["id"]
        bill = (await booked(app))[0]
        killed = as_killed(priced)
    assert bill > 0
    sandbox.spoiled = {}
    at.now += 61
    before = sandbox.bill  # with what the five came to that were cut off
    async with server(sandbox, at, killed) as (app, client):
        await ask(client, "list_free_models")
        await until(lambda: len(sandbox.chats) > 7)
        _, record, _ = await ended(client, id_)
        assert record["answered"] == 9
        assert await booked(app) == (
            bill + sandbox.bill - before + 5 * EACH,
            Decimal(0),
        )  # what nobody knows counts in full
    assert sorted(asked(sandbox)) == sorted([*tasks(9), *tasks(5, first=3)])


async def test_only_a_server_that_may_spend_goes_on_with_what_costs(sandbox: Picky, at: Clock, kept: Settings) -> None:
    rich, poor = replace(kept, policy=budget("1").policy), replace(kept, policy=budget("0.0001").policy)
    async with server(sandbox, at, rich) as (app, client):
        id_ = (await begun(sandbox, app, client, **PRICED))["id"]
        killed = as_killed(rich)
    sandbox.spoiled = {}
    at.now += 61
    for unwilling in (kept, poor):
        async with server(sandbox, at, replace(unwilling, state_dir=killed.state_dir)) as (app, client):
            text, record, _ = await ask(client, "read_answer", id=id_)
            await some_turns()
            assert record["status"] == "partial"
            assert "waiting for a server that may go on with it" in text
            assert (await booked(app))[1] == 5 * EACH  # the two that were only promised are free
            assert len(sandbox.chats) == 7
    async with server(sandbox, at, killed) as (_, client):
        await ask(client, "list_free_models")
        _, record, _ = await ended(client, id_)
        assert record["answered"] == 9


async def test_the_calls_own_limit_goes_with_it(sandbox: Picky, at: Clock, kept: Settings) -> None:
    rich = replace(kept, policy=budget("1").policy)
    limit, dearer = float(9 * EACH), Decimal("0.00007845")
    id_ = await left_open(sandbox, at, rich, **PRICED | {"max_cost_usd": limit})
    for row in sandbox.catalog:
        if row["id"] == TINY:
            row["pricing"] = {"prompt": "0.00000015", "completion": "0.00000075"}
    assert 7 * dearer < 9 * EACH < 7 * dearer + sandbox.bill
    async with server(sandbox, at, rich) as (_, client):
        await ask(client, "list_free_models")
        _, record, _ = await ended(client, id_)
    codes = [row.get("code") for row in record["rows"]]
    assert 0 < codes.count("over_budget") < 7  # what does not fit any more is not asked
    assert record["answered"] + codes.count("over_budget") == 9
    assert sandbox.bill <= Decimal(str(limit))


async def test_what_was_under_way_when_the_server_was_killed_counts_against_the_calls_limit(
    sandbox: Picky, at: Clock, kept: Settings
) -> None:
    rich = replace(kept, policy=budget("1").policy)
    async with server(sandbox, at, rich) as (app, client):
        id_ = (await begun(sandbox, app, client, **PRICED | {"max_cost_usd": float(9 * EACH)}))["id"]
        killed = as_killed(rich)
    sandbox.spoiled = {}
    at.now += 61
    async with server(sandbox, at, killed) as (app, client):
        await ask(client, "list_free_models")
        _, record, _ = await ended(client, id_)
        settled, held = await booked(app)
    codes = [row.get("code") for row in record["rows"]]
    assert 0 < codes.count("over_budget") <= 5  # at most as many as may have been billed without an answer
    assert settled + held <= 9 * EACH


async def test_the_persons_yes_goes_with_it(sandbox: Picky, at: Clock, kept: Settings) -> None:
    careful = replace(kept, policy=Policy(Decimal(1), Decimal(1), confirm_above=Decimal("0.0001")))
    person = Person(sandbox)
    async with server(sandbox, at, careful, person) as (app, client):
        id_ = (await begun(sandbox, app, client, answered=8, under_way=1, **PRICED))["id"]
    sandbox.spoiled = {}
    async with server(sandbox, at, careful) as (_, client):
        await ask(client, "list_free_models")
        _, record, _ = await ended(client, id_)
        assert record["answered"] == 9
    assert len(person.questions) == 1


# --- the day ----------------------------------------------------------------------------------------------------------


async def test_what_a_batch_still_needs_stays_promised_while_nobody_asks_it(
    sandbox: Picky, at: Clock, kept: Settings
) -> None:
    await left_open(sandbox, at, kept, prompts=tasks(30))
    async with server(sandbox, at, replace(kept, caller="http")) as (_, client):
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(20, first=100), model=MODEL)
        assert (is_error, record["code"]) == (True, "daily_quota")
        _, _, is_error = await ask(client, "ask_many", prompts=tasks(8, first=100), model=MODEL)
        assert not is_error


async def test_where_nothing_is_kept_on_disk_a_batch_ends_with_its_server(
    sandbox: Picky, at: Clock, kept: Settings
) -> None:
    kept = replace(kept, keep_answers=False)
    id_ = await left_open(sandbox, at, kept, prompts=tasks(30))
    assert kept.state_dir is not None
    assert [path.name for path in kept.state_dir.iterdir() if b"Task" in path.read_bytes()] == []
    at.now += 61
    async with server(sandbox, at, kept) as (_, client):
        _, record, _ = await ask(client, "read_answer", id=id_)
        assert record["code"] == "unknown_answer"
        await some_turns()
        assert len(sandbox.chats) == 7
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(38, first=100), model=MODEL)
        assert not is_error  # 50 less seven less five: nothing is promised to what nobody can go on with


# --- what lies on disk ------------------------------------------------------------------------------------------------

PLANTED = {
    "no JSON": "junk",
    "of another kind": "[1]",
    "nothing in it": "{}",
    "no prompts": '{"prompts": []}',
    "another id": '{"id": "batch-other"}',
    "numbers for prompts": '{"prompts": [1, 2]}',
    "an endless moment": '{"at": 1e999}',
    "no amount": '{"max_cost": "NaN"}',
    "less than nothing": '{"max_cost": "-1"}',
    "an endless amount": '{"agreed": "Infinity"}',
    "a model that is none": '{"request": {"model": 7}}',
}


@pytest.mark.parametrize("patch", PLANTED.values(), ids=PLANTED)
async def test_a_planted_batch_is_unknown_or_harmless(sandbox: Picky, at: Clock, kept: Settings, patch: str) -> None:
    async with server(sandbox, at, kept) as (_, client):
        _, mine, _ = await ask(client, "ask_many", prompts=tasks(2), model=MODEL)
        await ended(client, mine["id"])
    written = f"json_patch(json_set(plan, '$.id', 'batch-planted'), '{patch}')" if patch[0] == "{" else "?"
    sql(
        kept,
        "answers.db",
        f"INSERT INTO plans SELECT 'batch-planted', owner, caller, at, '', {written} FROM plans",  # noqa: S608
        *(() if patch[0] == "{" else (patch,)),
    )
    if patch == "{}":
        sql(kept, "answers.db", "UPDATE plans SET plan = '{}' WHERE id = 'batch-planted'")
    sql(kept, "answers.db", "INSERT INTO plan_rows SELECT 'batch-planted', -1, facts FROM plan_rows LIMIT 1")
    sql(kept, "answers.db", "INSERT INTO plan_rows SELECT 'batch-planted', 99, 'junk' FROM plan_rows LIMIT 1")
    async with server(sandbox, at, kept) as (_, client):
        for arguments in ({}, {"id": "batch-planted"}, {"id": mine["id"]}, {}):
            text, _, _ = await ask(client, "read_answer", **arguments)
            assert not text.startswith("internal: "), text
            await some_turns()
        assert mine["id"] in text
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(2, first=3), model=MODEL)
        assert not is_error
        assert (await ended(client, record["id"]))[1]["answered"] == 2


TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
AMOUNTS = st.decimals(0, 1000, allow_nan=False, places=9)
PLANS = st.builds(
    Plan,
    id=st.just("batch-one"),
    owner=st.just("owner"),
    caller=st.sampled_from(["", "http"]),
    at=st.floats(0, 4e9),
    request=st.builds(
        ChatRequest,
        model=TEXTS.map(encodable),
        prompt=st.just(""),
        system=TEXTS.map(encodable),
        max_tokens=st.integers(1),
    ),
    prompts=st.lists(TEXTS.map(encodable), min_size=1, max_size=6).map(tuple),
    max_cost=st.none() | AMOUNTS,
    agreed=AMOUNTS,
)


@given(plan=PLANS, rows=st.dictionaries(st.integers(-2, 8), st.builds(Answer, id=TEXTS.map(encodable)), max_size=5))
def test_a_plan_reads_as_it_was_written(running_engine: str, plan: Plan, rows: dict[int, Answer]) -> None:
    with closing(SQLiteArchive(":memory:")) as file, in_engine(running_engine) as engine:
        for archive in (file, engine):
            archive.save_plan(plan)
            archive.note(plan.id, rows)
            found = archive.find_plan(plan.id, ["owner"], plan.caller)
            assert found is not None
            assert (found.plan, found.state) == (plan, State.OPEN)
            assert found.rows == {place: row for place, row in rows.items() if place in plan.places()}
            assert archive.left_open(["owner"], plan.caller, -1.0) == [plan.id]
            assert archive.find_plan(plan.id, ["another"], plan.caller) is None
            assert archive.find_plan(plan.id, ["owner"], "another") is None
            archive.settle(plan.id, State.STOPPED)
            archive.settle(plan.id, State.DONE)
            assert archive.is_stopped(plan.id)
            assert archive.left_open(["owner"], plan.caller, -1.0) == []


@given(prompts=st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
def test_each_different_prompt_has_one_place(prompts: list[str]) -> None:
    plan = Plan("", "", "", 0.0, ChatRequest("", ""), tuple(prompts), None, Decimal(0))
    assert [prompts[place] for place in plan.places()] == list(dict.fromkeys(prompts))
    assert all(prompts[plan.first(place)] == prompts[place] for place in range(len(prompts)))


# --- promises, whatever comes in which order --------------------------------------------------------------------------

IDS, HOLDERS = st.sampled_from(["one", "two", "three"]), st.sampled_from(["a", "b"])
LIMIT, SPARE = 50, 5


class AnyOrder(RuleBasedStateMachine):
    """Batches of one account, promised, leased, asked and ended by two processes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 20_000.0 * 86_400 + 43_200
        self.book = SQLiteBook(":memory:", limit=1000, window=61.0, ticks=lambda: 0.0)
        self.book.note_count("key", 0, LIMIT, self.now)
        self.promised: dict[str, int] = {}
        self.leases: dict[str, tuple[str, float]] = {}
        self.sent = 0

    def teardown(self) -> None:
        self.book.close()

    @rule(seconds=st.sampled_from([0.0, 1.0, 29.0, 30.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(batch=IDS, requests=st.integers(0, 60))
    def promise(self, batch: str, requests: int) -> None:
        if batch in self.promised:
            return
        fits = LIMIT - SPARE - self.sent - sum(self.promised.values())
        refused = self.book.promise("key", batch, requests, now=self.now, spare=SPARE, caller=NOBODY)
        assert (refused and refused.fits) == (None if requests <= max(0, fits) else max(0, fits))
        if refused is None:
            self.promised[batch] = requests

    @rule(batch=IDS, holder=HOLDERS)
    def take(self, batch: str, holder: str) -> None:
        mine = self._holder(batch) in (None, holder)
        assert self.book.take("key", batch, holder, self.now) == mine
        if mine:
            self.promised.setdefault(batch, 0)
            self.leases[batch] = (holder, self.now + LEASE_S)

    @rule(batch=IDS, holder=HOLDERS)
    def send_one(self, batch: str, holder: str) -> None:
        last = self.leases.get(batch, ("", 0.0))[0]
        rest = max(0, self.promised.get(batch, 0) - 1)
        assert self.book.renew(batch, holder, rest, self.now) == (last == holder)
        if last == holder:
            self.leases[batch] = (holder, self.now + LEASE_S)
            if self.promised[batch]:
                assert isinstance(self.book.reserve("key", 1, self.now, 0.0, 0), list)
                self.promised[batch], self.sent = rest, self.sent + 1

    @rule(batch=IDS, holder=HOLDERS)
    def leave(self, batch: str, holder: str) -> None:
        self.book.leave(batch, holder)
        if self.leases.get(batch, ("", 0.0))[0] == holder:
            self.leases[batch] = (holder, 0.0)

    @rule(batch=IDS)
    def end(self, batch: str) -> None:
        self.book.end(batch)
        self.promised.pop(batch, None)
        self.leases.pop(batch, None)

    @invariant()
    def five_are_always_left(self) -> None:
        assert self.sent + sum(self.promised.values()) <= LIMIT - SPARE

    @invariant()
    def one_at_most_has_each(self) -> None:
        for batch in ("one", "two", "three"):
            assert self.book.is_leased(batch, self.now) == (self._holder(batch) is not None)

    def _holder(self, batch: str) -> str | None:
        holder, until_ = self.leases.get(batch, ("", 0.0))
        return holder if until_ > self.now else None


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
