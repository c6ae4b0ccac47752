"""What a yes is worth: the amount that the person saw, for the one call they saw it for, over every transport."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import anyio
import pytest
import uvicorn
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import CallToolResult, InputRequiredResult
from processes import SERVER, Upstream, environment
from support import CANARY, ERAS, SETTINGS, Time, ask, opened, record_of
from test_consent import (
    NO,
    POLICY,
    PRICED,
    SEVERAL,
    YES,
    Person,
    assert_nothing_left,
    close_guard,
    most,
    shown,
    with_person,
)

from openrouter_mcp.asgi import web_app
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.cli.serve import _listen
from openrouter_mcp.refusals import Declined
from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.server import build

MONEY = {"DAILY_BUDGET": "1", "CALL_BUDGET": "0.5", "CONFIRM_ABOVE": "0.05"}  # POLICY, in the environment


def reprice(sandbox: Sandbox, factor: str) -> None:
    row = next(row for row in sandbox.catalog if row["id"] == "globex/large")
    row["pricing"] = {name: f"{Decimal(price) * Decimal(factor):f}" for name, price in row["pricing"].items()}


# --- never for more than was agreed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "modern", "legacy"),
    [
        ("0.5", "0.041", "0.082"),  # below the limit, nobody is asked again
        ("1.0001", "0.082", None),  # the same to the cent shown
        ("1.02", "0.084", None),
        ("7", "0.5", None),  # shortened to what a call may cost
    ],
)
@pytest.mark.parametrize("era", ERAS)
async def test_a_price_that_changes_while_the_person_thinks_never_costs_more_than_they_saw(
    sandbox: Sandbox, era: str, factor: str, modern: str, legacy: str | None
) -> None:
    at = Time()

    async def change() -> None:
        if len(person.questions) == 1:
            reprice(sandbox, factor)
            at.now += 301  # until the price list is read anew

    person = Person(sandbox, meanwhile=change)
    async with with_person(sandbox, person, era=era, at=at) as (client, _):
        _, record, is_error = await ask(client, **PRICED)
        most_allowed = modern if era == "auto" else legacy
        if most_allowed is None:
            assert (is_error, record["code"]) == (True, "declined")
            await assert_nothing_left(sandbox, client)
        else:
            (chat,) = sandbox.chats
            assert most(chat.body) <= Decimal(most_allowed) <= shown(person.questions[-1])
    # Another price makes another question, and the yes to the first does not answer it.
    assert len(person.questions) == (2 if era == "auto" and factor in ("1.02", "7") else 1)


@pytest.mark.parametrize("era", ERAS)
async def test_a_comparison_never_costs_more_in_all_than_they_saw(sandbox: Sandbox, era: str) -> None:
    at = Time()

    async def change() -> None:
        if len(person.questions) == 1:
            reprice(sandbox, "1.5")
            at.now += 301

    person = Person(sandbox, meanwhile=change)
    async with with_person(sandbox, person, era=era, at=at) as (client, _):
        _, record, is_error = await ask(client, "compare_models", **SEVERAL)
        if era == "legacy":
            assert (is_error, record["code"]) == (True, "declined")
            await assert_nothing_left(sandbox, client)
    assert sum(most(chat.body) for chat in sandbox.chats) <= shown(person.questions[-1])
    assert [shown(question) for question in person.questions][1:] == ([Decimal("0.15")] if era == "auto" else [])


async def test_a_no_to_the_second_question_counts(sandbox: Sandbox) -> None:
    at = Time()

    async def change() -> None:
        if len(person.questions) == 1:
            reprice(sandbox, "2")
            at.now += 301

    person = Person(sandbox, YES, NO, meanwhile=change)
    async with with_person(sandbox, person, at=at) as (client, _):
        _, record, _ = await ask(client, **PRICED)
        assert record["code"] == "declined"
        await assert_nothing_left(sandbox, client)
    assert [shown(question) for question in person.questions] == [Decimal("0.082"), Decimal("0.17")]


async def test_nothing_is_reserved_above_the_limit_that_nobody_agreed_to(sandbox: Sandbox) -> None:
    """The guard's own last word, if a tool forgot to ask or a price rose since it did not need to."""
    async with with_person(sandbox, None) as (client, app):
        request, purse = ChatRequest(model="globex/large", prompt="Why?"), app.guard.purse()
        with pytest.raises(Declined, match="asked first above"):
            await app.guard.permit(request, purse, time_left=lambda: 0.0)
        assert purse.held == 0
        await assert_nothing_left(sandbox, client)


@pytest.mark.parametrize("era", ERAS)
async def test_a_guard_that_closes_while_the_person_thinks_stops_the_call(sandbox: Sandbox, era: str) -> None:
    async def close() -> None:
        await close_guard(app)

    person = Person(sandbox, meanwhile=close)
    async with with_person(sandbox, person, era=era) as (client, app):
        _, record, _ = await ask(client, **PRICED)
    assert record["code"] == "guard_closed"
    assert sandbox.chats == []


async def test_a_second_try_is_within_what_was_agreed_for_the_call(sandbox: Sandbox) -> None:
    sandbox.fail(Fault(answer="none", cost=0.01), times=1)
    person = Person(sandbox)
    async with with_person(sandbox, person) as (client, _):
        _, record, is_error = await ask(client, **PRICED)
    assert (is_error, record["code"]) == (True, "empty_answer")
    assert len(person.questions) == len(sandbox.chats) == 1  # 0.01 and the worst case again would be more than agreed


# --- one yes, one call ----------------------------------------------------------------------------------------------


async def by_hand(client: Client, arguments: dict[str, Any], **answer: Any) -> InputRequiredResult | CallToolResult:
    """One round of a call in the newer era, where the client carries question and answer."""
    result = await client.session.call_tool("ask_model", arguments, allow_input_required=True, **answer)
    assert isinstance(result, InputRequiredResult | CallToolResult)
    return result


async def question_of(client: Client, **answer: Any) -> dict[str, Any]:
    """The question that PRICED comes back with, as a yes to it."""
    question = await by_hand(client, PRICED, **answer)
    assert isinstance(question, InputRequiredResult)
    return {
        "input_responses": dict.fromkeys(question.input_requests or (), YES),
        "request_state": question.request_state,
    }


async def test_one_yes_pays_one_call_however_often_it_is_sent(sandbox: Sandbox) -> None:
    async with with_person(sandbox, Person(sandbox)) as (client, _):
        yes = await question_of(client)
        answer = await by_hand(client, PRICED, **yes)
        assert isinstance(answer, CallToolResult)
        assert record_of(answer)["status"] == "complete"
        with pytest.raises(MCPError, match="requestState"):
            await by_hand(client, PRICED, **yes)
    assert len(sandbox.chats) == 1


@pytest.mark.parametrize("change", [{"prompt": "Why not?"}, {"max_tokens": 9000}, {"model": "initech/cache"}], ids=str)
async def test_a_yes_to_one_question_answers_no_other(sandbox: Sandbox, change: dict[str, Any]) -> None:
    async with with_person(sandbox, Person(sandbox)) as (client, _):
        with pytest.raises(MCPError, match="requestState"):
            await by_hand(client, PRICED | change, **await question_of(client))
        await assert_nothing_left(sandbox, client)


async def test_an_answer_to_a_question_that_was_not_asked_counts_for_nothing(sandbox: Sandbox) -> None:
    async with with_person(sandbox, Person(sandbox)) as (client, _):
        yes = await question_of(client)
        yes |= await question_of(client, input_responses=yes["input_responses"])  # without the state: asked again
        for forged in ('{"v":3}', "v1." + "A" * 80, "", yes["request_state"][:-4] + "AAAA"):
            with pytest.raises(MCPError, match="requestState"):
                await by_hand(client, PRICED, **yes | {"request_state": forged})
        await assert_nothing_left(sandbox, client)


async def test_the_key_is_in_no_question(sandbox: Sandbox) -> None:
    person = Person(sandbox)
    async with with_person(sandbox, person) as (client, _):
        _, _, is_error = await ask(client, prompt=f"Is {CANARY} a good key?", model="globex/large")
    assert not is_error  # the question is the same one when it is asked again
    assert "Is [key] a good key?" in person.questions[0]


# --- over real transports -------------------------------------------------------------------------------------------


async def test_the_person_is_asked_over_stdio() -> None:
    """In the era that clients open with."""
    with Upstream() as upstream:
        money = {f"OPENROUTER_MCP_{name}_USD": value for name, value in MONEY.items()}
        settings = environment(**upstream.settings, **money)
        server = StdioServerParameters(command=SERVER[0], args=SERVER[1:], env=settings)
        person = Person(upstream.sandbox, YES, NO)
        async with Client(server, mode="legacy", elicitation_callback=person) as client:
            await assert_asked_and_answered(client, person, upstream.sandbox)


@pytest.mark.parametrize("era", ERAS)
async def test_the_person_is_asked_over_http(sandbox: Sandbox, era: str) -> None:
    """The app as `serve` builds it, but with the budget that `serve` takes away."""
    person = Person(sandbox, YES, NO)
    async with opened(sandbox, settings=replace(SETTINGS, policy=POLICY)) as app:
        with _listen("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            web = web_app(build(app), host="127.0.0.1", port=port)
            server = uvicorn.Server(uvicorn.Config(web, log_config=None, timeout_graceful_shutdown=1))
            async with anyio.create_task_group() as group:
                group.start_soon(server.serve, [listener])
                address = f"http://127.0.0.1:{port}/mcp"
                async with Client(address, mode=era, elicitation_callback=person) as client:
                    await assert_asked_and_answered(client, person, sandbox)
                server.should_exit = True


async def assert_asked_and_answered(client: Client, person: Person, sandbox: Sandbox) -> None:
    """A yes and then a no, and what came of them."""
    _, record, is_error = await ask(client, **PRICED)
    assert not is_error
    assert Decimal(record["cost_usd"]) == sandbox.bill > 0
    _, record, is_error = await ask(client, **PRICED)
    assert (is_error, record["code"]) == (True, "declined")
    assert len(sandbox.chats) == 1
    assert [shown(question) for question in person.questions] == [Decimal("0.082")] * 2
