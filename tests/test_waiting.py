"""A tool answers before its client gives up, and says meanwhile how far it is."""

import itertools
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from calls import PATIENT, Call, Clock, some_turns
from mcp import Client, StdioServerParameters
from processes import SERVER, environment, initialize, receive, send, spawned
from support import ERAS, SETTINGS, ask, connected, opened, until
from test_http import client_of, serving

from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.server import build
from openrouter_mcp.writing import Waits

TINY = "acme/tiny:free"
THREE = (TINY, "globex/large:free", "hooli/thinker:free")


@pytest.fixture
async def at(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that tests set forward."""
    return Clock(monkeypatch)


def never_done(sandbox: Sandbox, **fault: Any) -> None:
    """The next question is answered by a few tokens, and then by nothing more."""
    sandbox.fail(Fault(then="stall", after_tokens=2, **fault))


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("token", "deadline_s"), [(False, 55.0), (True, 180.0)])
@pytest.mark.parametrize("tool", ["ask_model", "compare_models"])
async def test_a_tool_returns_what_there_is_at_its_deadline_and_the_answer_goes_on(
    sandbox: Sandbox, at: Clock, tool: str, *, token: bool, deadline_s: float
) -> None:
    go_on = anyio.Event()
    sandbox.token_delay_s = 1.0
    arguments = {"models": [TINY, "globex/large:free"]} if tool == "compare_models" else {"model": TINY}

    async def second_token(_: float) -> None:
        await go_on.wait()

    sandbox.sleep = second_token
    async with connected(sandbox, era="legacy", at=at, timeouts=PATIENT) as client, anyio.create_task_group() as group:
        call = Call(group, client, tool, token=token, prompt="Why?", **arguments)
        await until(lambda: sandbox.open_streams == len(arguments.get("models", "1")))
        at.jump(deadline_s - 10)
        await some_turns()
        assert not call.is_over
        at.jump(10)
        text, record = await call.result()
        for row in record.get("rows", [record]):
            assert row["status"] == "running"
            assert f'read_answer(id="{row["id"]}") waits for more]' in text
        assert text.count("[sandbox]") == len(record.get("rows", [record]))  # the first token
        go_on.set()
        for row in record.get("rows", [record]):
            text, now, is_error = await ask(client, "read_answer", id=row["id"])
            assert not is_error
            assert now["status"] == "complete"
            assert "No real model has read this." in text


@pytest.mark.parametrize(("token", "patience_s"), [(False, 40.0), (True, 100.0)])
async def test_how_long_is_the_users_to_say(sandbox: Sandbox, at: Clock, *, token: bool, patience_s: float) -> None:
    never_done(sandbox)
    settings = replace(SETTINGS, wait_s=40.0, wait_with_progress_s=100.0)
    async with (
        connected(sandbox, era="legacy", at=at, timeouts=PATIENT, settings=settings) as client,
        anyio.create_task_group() as group,
    ):
        call = Call(group, client, "ask_model", token=token, prompt="Why?", model=TINY)
        await until(lambda: sandbox.open_streams == 1)
        at.jump(patience_s)
        _, record = await call.result()
    assert record["status"] == "running"


@pytest.mark.parametrize(
    ("tool", "token", "catalogue_s", "deadline_s"),
    [
        ("ask_model", False, 50.0, 55.0),
        ("ask_model", True, 175.0, 180.0),
        ("compare_models", False, 50.0, 55.0),
        ("compare_models", True, 50.0, 180.0),
    ],
)
async def test_what_came_before_the_question_counts_as_well(
    sandbox: Sandbox, at: Clock, tool: str, *, token: bool, catalogue_s: float, deadline_s: float
) -> None:
    """The deadline is the call's: so long as the catalogue takes, so much less is waited for the answer."""
    timeouts = replace(PATIENT, connect=1e6)
    async with connected(sandbox, era="legacy", at=at, timeouts=timeouts) as client:
        _, record, _ = await ask(client, prompt="Why?", model=TINY)
        arguments = {"continue_from": record["id"], "model": TINY} if tool == "ask_model" else {"models": THREE[:2]}
        at.jump(4000)  # what is known of the catalogue is too old
        sandbox.fail(faults.server_error(503), path="/models/user")
        sandbox.fail(Fault(delay_headers_s=catalogue_s), path="/models")
        sandbox.fail(Fault(then="stall"), times=None)
        before = len(sandbox.requests)
        async with anyio.create_task_group() as group:
            call = Call(group, client, tool, token=token, prompt="And then?", **arguments)
            await until(lambda: sandbox.requests[-1].path == "/models" and len(sandbox.requests) > before)
            at.jump(catalogue_s)
            await until(lambda: sandbox.open_streams > 0)
            at.jump(deadline_s - catalogue_s - 1)
            await some_turns()
            assert not call.is_over
            at.jump(1)
            text, _ = await call.result()
    assert "still writing" in text


async def test_reading_waits_as_long_as_it_is_told_and_no_longer(sandbox: Sandbox, at: Clock) -> None:
    never_done(sandbox)
    async with connected(sandbox, era="legacy", at=at, timeouts=PATIENT) as client, anyio.create_task_group() as group:
        call = Call(group, client, "ask_model", token=False, prompt="Why?", model=TINY)
        await until(lambda: sandbox.open_streams == 1)
        at.jump(55)
        _, record = await call.result()
        for wait_s, token, lasts_s in ((0, True, 0.0), (20, True, 20.0), (180, False, 55.0), (180, True, 180.0)):
            reading = Call(group, client, "read_answer", token=token, id=record["id"], wait_seconds=wait_s)
            if lasts_s:
                await some_turns()
                at.jump(lasts_s - 10)
                await some_turns()
                assert not reading.is_over
                at.jump(10)
            _, now = await reading.result()
            assert now["status"] == "running"


@pytest.mark.parametrize("words", [0, 2])
async def test_an_answer_takes_ten_minutes_at_most(sandbox: Sandbox, at: Clock, words: int) -> None:
    sandbox.fail(Fault(then="stall", after_tokens=words))
    async with connected(sandbox, era="legacy", at=at, timeouts=PATIENT) as client, anyio.create_task_group() as group:
        call = Call(group, client, "ask_model", token=False, prompt="Why?", model=TINY)
        await until(lambda: sandbox.open_streams == 1)
        at.jump(55)
        _, record = await call.result()
        at.jump(535)
        await some_turns()
        assert sandbox.open_streams == 1
        at.jump(10)
        text, record, is_error = await ask(client, "read_answer", id=record["id"])
    assert sandbox.open_streams == 0
    assert sandbox.chats[0].closed_early
    if words:
        assert text.startswith("[sandbox] acme")
        assert "[incomplete: it was stopped here after 10 min]" in text
        assert record["status"] == "partial"
    else:
        assert is_error
        assert text.startswith("timeout: The model wrote nothing in 10 min and was stopped.")


# --- progress ---------------------------------------------------------------------------------------------------------


def rises(call: Call) -> bool:
    """Whether every number it was told is greater than the one before."""
    numbers = [number for number, _ in call.told]
    return all(one < next_ for one, next_ in itertools.pairwise(numbers))


async def told(call: Call, times: int) -> str:
    """The words of the message of that number, which is the latest."""
    await until(lambda: len(call.told) >= times)
    await some_turns()
    assert len(call.told) == times
    return call.told[-1][1]


async def test_the_first_message_comes_at_once_with_the_id_and_then_one_every_five_seconds(
    sandbox: Sandbox, at: Clock
) -> None:
    sandbox.fail(Fault(then="stall", after_tokens=12))
    async with connected(sandbox, era="legacy", at=at, timeouts=PATIENT) as client, anyio.create_task_group() as group:
        call = Call(group, client, "ask_model", prompt="Why?", model="hooli/thinker:free")
        first = await told(call, 1)
        await until(lambda: sandbox.open_streams == 1)
        await some_turns()
        at.jump(4)
        assert await told(call, 1) == first
        at.jump(1)
        second = await told(call, 2)
        for times in range(3, 37):
            at.jump(5)
            await told(call, times)
        at.jump(5)
        _, record = await call.result()
    assert first == f"thinker:free: starting, 0 s (id {record['id']})"
    assert second == f"thinker:free: thinking, 12 tokens, 5 s (id {record['id']})"
    assert call.told[-1][1] == f"thinker:free: thinking, 12 tokens, 175 s (id {record['id']})"
    assert rises(call)


async def test_the_numbers_rise_although_the_clock_stands_still(sandbox: Sandbox) -> None:
    never_done(sandbox)
    waits = Waits(progress=0.0)
    async with connected(sandbox, era="legacy", waits=waits) as client, anyio.create_task_group() as group:
        call = Call(group, client, "ask_model", prompt="Why?", model=TINY)
        await until(lambda: len(call.told) > 50)
        group.cancel_scope.cancel()
    assert rises(call)


async def test_a_comparison_says_which_models_are_done(sandbox: Sandbox, at: Clock) -> None:
    sandbox.fail(Fault(then="stall", after_tokens=3), model=THREE[1])
    sandbox.fail(Fault(status=400, json={"error": {"code": 400, "message": "no"}}), model=THREE[2])
    async with connected(sandbox, era="legacy", at=at, timeouts=PATIENT) as client, anyio.create_task_group() as group:
        call = Call(group, client, "compare_models", prompt="Why?", models=THREE)
        assert await told(call, 1) == "0 of 3 done, 0 s; " + "; ".join(
            f"{name}: starting" for name in ("tiny:free", "large:free", "thinker:free")
        )
        await until(lambda: len(sandbox.chats) == 3 and sandbox.open_streams == 1)
        await some_turns()
        at.jump(5)
        words = await told(call, 2)
        group.cancel_scope.cancel()
    assert words == "2 of 3 done, 5 s; tiny:free: complete; large:free: writing, 3 tokens; thinker:free: error"


async def test_while_it_waits_for_the_allowance_it_says_for_how_long(sandbox: Sandbox, at: Clock) -> None:
    async with opened(sandbox, at=at, timeouts=PATIENT) as app, Client(build(app), mode="legacy") as client:
        await app.ledger.reserve(20, longest_wait=0.0)
        at.jump(31)
        async with anyio.create_task_group() as group:
            call = Call(group, client, "ask_model", prompt="Why?", model=TINY)
            await told(call, 1)
            await until(lambda: any(one.draft.waits_for for one in app.writing.running("").values()))
            at.jump(5)
            assert "tiny:free: waiting 25 s for the free allowance, 5 s (id " in await told(call, 2)
            assert sandbox.chats == []
            at.jump(25)
            _, record = await call.result()
    assert record["status"] == "complete"


async def test_a_reader_is_told_too(sandbox: Sandbox, at: Clock) -> None:
    never_done(sandbox)
    async with connected(sandbox, era="legacy", at=at, timeouts=PATIENT) as client, anyio.create_task_group() as group:
        call = Call(group, client, "ask_model", token=False, prompt="Why?", model=TINY)
        await until(lambda: sandbox.open_streams == 1)
        at.jump(55)
        _, record = await call.result()
        reading = Call(group, client, "read_answer", id=record["id"], wait_seconds=20)
        assert await told(reading, 1) == f"tiny:free: writing, 2 tokens, 55 s (id {record['id']})"
        at.jump(20)
        await reading.result()
    assert call.told == []


# --- over every transport ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address() -> Generator[str]:
    """One sandboxed HTTP server."""
    with serving("--sandbox") as (address, _):
        yield address


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "/mcp", "/sse"])
async def test_progress_reaches_the_client_over(transport: str, era: str, request: pytest.FixtureRequest) -> None:
    if transport == "stdio":
        server = StdioServerParameters(command=SERVER[0], args=[*SERVER[1:], "--sandbox"], env=environment())
        client = Client(server, mode=era)
    else:
        client = client_of(request.getfixturevalue("address"), transport, era)
    async with client, anyio.create_task_group() as group:
        call = Call(group, client, "ask_model", prompt="Why?", model=TINY)
        _, record = await call.result()
        assert call.told[0][1] == f"tiny:free: starting, 0 s (id {record['id']})"


def test_nobody_is_told_who_did_not_ask() -> None:
    with spawned("--sandbox") as process:
        initialize(process)
        arguments: dict[str, Any] = {"prompt": "Why?", "model": TINY}
        send(process, "tools/call", id_=2, name="ask_model", arguments=arguments)
        assert receive(process)["id"] == 2
        send(process, "tools/call", id_=3, name="ask_model", arguments=arguments, _meta={"progressToken": "mine"})
        assert receive(process)["params"]["progressToken"] == "mine"
        assert receive(process)["id"] == 3
