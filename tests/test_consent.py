"""Above the limit the person is asked, not the agent: before anything is sent, in both eras; each yes counts once."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import anyio
import pytest
from mcp import Client, ClientSession
from mcp_types import (
    ClientCapabilities,
    ElicitationCapability,
    ElicitRequestParams,
    ElicitResult,
    ErrorData,
    UrlElicitationCapability,
)
from support import ERAS, SETTINGS, Time, ask, fail_lists, opened

from openrouter_mcp.app import App
from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Sandbox, faults
from openrouter_mcp.server import build

POLICY = Policy(daily_budget=Decimal(1), call_budget=Decimal("0.5"), confirm_above=Decimal("0.05"))
PRICED: dict[str, Any] = {"prompt": "Why?", "model": "globex/large"}
WORST = Decimal("0.08197")  # of PRICED: 20 tokens in at $2.50 and 8,192 out at $10 a million; shown as $0.082
SEVERAL: dict[str, Any] = {"prompt": "Why?", "models": ["globex/large", "initech/coder", "acme/tiny:free"]}
YES = ElicitResult(action="accept", content={"spend": True})
NO = ElicitResult(action="accept", content={"spend": False})
DECLINE, CANCEL = ElicitResult(action="decline"), ElicitResult(action="cancel")
RUBBISH = {
    "another field": ElicitResult(action="accept", content={"yes": True}),
    "no yes or no": ElicitResult(action="accept", content={"spend": "perhaps"}),
    "a number": ElicitResult(action="accept", content={"spend": 7}),
    "a list": ElicitResult(action="accept", content={"spend": ["true"]}),
    "nothing in it": ElicitResult(action="accept", content={}),
    "nothing": ElicitResult(action="accept"),
}
NOT_A_YES = {"no": NO, "declined": DECLINE, "cancelled": CANCEL} | RUBBISH


class Person:
    """The client's user, who gives `replies` in turn, the last one for ever; `meanwhile` happens before each."""

    def __init__(
        self,
        sandbox: Sandbox,
        *replies: ElicitResult | ErrorData,
        meanwhile: Callable[[], Awaitable[object]] = anyio.lowlevel.checkpoint,
    ) -> None:
        self.questions: list[str] = []
        self.sent_before = 0  # requests that had left by the time of a question
        self._sandbox = sandbox
        self._replies = replies or (YES,)
        self._meanwhile = meanwhile

    async def __call__(self, context: object, params: ElicitRequestParams) -> ElicitResult | ErrorData:  # noqa: ARG002
        self.questions.append(params.message)
        self.sent_before += len(self._sandbox.chats)
        await self._meanwhile()
        return self._replies[min(len(self.questions), len(self._replies)) - 1]


@asynccontextmanager
async def with_person(
    sandbox: Sandbox,
    person: Person | None,
    *,
    era: str = "auto",
    at: Time | None = None,
    key: bool = True,
    **policy: Any,
) -> AsyncGenerator[tuple[Client, App]]:
    """A client whose user is `person`, of a server with the budgets of POLICY, or what `policy` says instead."""
    settings = replace(SETTINGS, policy=replace(POLICY, **policy), key=SETTINGS.key if key else None)
    async with (
        opened(sandbox, settings=settings, at=at) as app,
        Client(build(app), mode=era, elicitation_callback=person) as client,
    ):
        yield client, app


async def assert_nothing_left(sandbox: Sandbox, client: Client) -> None:
    """Nothing was sent, and nothing is held of the day's budget."""
    assert sandbox.chats == []
    _, record, _ = await ask(client, "check_credits")
    assert record["budget_left_usd"] == "1"


def most(body: dict[str, Any]) -> Decimal:
    """The most that a request can cost, by what it tells OpenRouter itself."""
    price = {name: Decimal(value) / 1_000_000 for name, value in body["provider"]["max_price"].items()}
    tokens = sum(len(message["content"].encode()) + 16 for message in body["messages"])
    return price["prompt"] * tokens + price["completion"] * int(body["max_tokens"]) + price["request"] * 1_000_000


def shown(question: str) -> Decimal:
    """The worst case in a question."""
    found = re.search(r"can cost up to \$([0-9.]+[0-9])", question)
    assert found
    return Decimal(found[1])


# --- the question ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_the_person_sees_model_worst_case_and_purpose_before_anything_is_sent(sandbox: Sandbox, era: str) -> None:
    person = Person(sandbox)
    async with with_person(sandbox, person, era=era) as (client, _):
        _, record, is_error = await ask(client, **PRICED)
    assert not is_error
    (question,) = person.questions
    assert "globex/large" in question
    assert "up to $0.082" in question
    assert "Why?" in question.partition("$0.082")[2]
    assert person.sent_before == 0
    (chat,) = sandbox.chats
    assert most(chat.body) == WORST
    assert Decimal(record["cost_usd"]) == sandbox.bill > 0


@pytest.mark.parametrize(("limit", "asked"), [(WORST, 0), (WORST - Decimal("1e-9"), 1), (Decimal(0), 1), (None, 0)])
async def test_the_person_is_asked_above_the_limit_and_not_at_it(
    sandbox: Sandbox, limit: Decimal | None, asked: int
) -> None:
    person = Person(sandbox)
    async with with_person(sandbox, person, confirm_above=limit) as (client, _):
        _, _, is_error = await ask(client, **PRICED)
    assert not is_error
    assert len(person.questions) == asked
    assert len(sandbox.chats) == 1


@pytest.mark.parametrize("era", ERAS)
async def test_a_comparison_asks_once_for_the_sum(sandbox: Sandbox, era: str) -> None:
    person = Person(sandbox)
    async with with_person(sandbox, person, era=era) as (client, _):
        _, record, is_error = await ask(client, "compare_models", **SEVERAL)
    assert not is_error
    assert [row["status"] for row in record["rows"]] == ["complete"] * 3
    (question,) = person.questions
    assert "globex/large $0.082" in question
    assert "initech/coder $0.027" in question
    assert "up to $0.11 " in question
    assert person.sent_before == 0
    assert sum(most(chat.body) for chat in sandbox.chats) <= shown(question)


async def test_a_default_model_that_costs_is_asked_about_too(sandbox: Sandbox) -> None:
    person = Person(sandbox, NO)
    async with with_person(sandbox, person, default_model="globex/large") as (client, _):
        _, record, _ = await ask(client, prompt="Why?")
        assert record["code"] == "declined"
        await assert_nothing_left(sandbox, client)
    assert "globex/large" in person.questions[0]


async def test_the_agents_words_come_last_in_the_question_on_one_short_line(sandbox: Sandbox) -> None:
    person = Person(sandbox, NO)
    prompt = "Hi\r\n\n\x1b[2J\u202eIt costs nothing.\u200b\U000e0041 " + "x" * 5000
    async with with_person(sandbox, person) as (client, _):
        await ask(client, prompt=prompt, model="globex/large")
    (question,) = person.questions
    assert question.startswith("Asking 'globex/large' can cost up to $")
    assert question.index("up to $") < question.index("costs nothing")
    assert question.isprintable()
    assert len(question) < 400


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("ask_model", {"model": "globex/large:free"}),
        ("ask_model", {"model": "openrouter/free"}),
        ("ask_model", {}),
        ("ask_model", {"model": "globex/large", "max_cost_usd": 0.01}),
        ("ask_model", {"model": "globex/large", "max_cost_usd": "0.05"}),
        ("compare_models", {}),
        ("compare_models", {"models": ["acme/tiny:free", "globex/large:free"]}),
        ("compare_models", {"models": ["acme/tiny", "globex/large"], "max_cost_usd": 0.04}),
        ("list_free_models", {}),
        ("check_credits", {}),
    ],
    ids=str,
)
async def test_what_is_free_or_capped_or_names_no_model_asks_nobody(
    sandbox: Sandbox, tool: str, arguments: dict[str, Any]
) -> None:
    person = Person(sandbox)
    prompt = {"prompt": "Why?"} if tool in ("ask_model", "compare_models") else {}
    async with with_person(sandbox, person) as (client, _):
        _, _, is_error = await ask(client, tool, **prompt, **arguments)
    assert not is_error
    assert person.questions == []
    assert sum(most(chat.body) for chat in sandbox.chats) <= Decimal("0.05")


@pytest.mark.parametrize("arguments", [{}, {"model": "openrouter/free"}], ids=["", "router"])
async def test_the_free_router_needs_no_catalogue_where_the_person_wants_to_be_asked(
    sandbox: Sandbox, arguments: dict[str, str]
) -> None:
    fail_lists(sandbox, faults.server_error(503))
    person = Person(sandbox)
    async with with_person(sandbox, person) as (client, _):
        _, _, is_error = await ask(client, prompt="Why?", **arguments)
    assert not is_error
    assert person.questions == []


async def close_guard(app: App) -> None:
    await app.ledger.spending.close("something cost what it should not")


async def spend_the_day(app: App) -> None:
    assert await app.ledger.spending.hold([("acme/tiny", Decimal(1))], Decimal(1))


@pytest.mark.parametrize(
    ("code", "arguments", "prepare", "options"),
    [
        ("guard_closed", PRICED, close_guard, {}),
        ("guard_closed", SEVERAL, close_guard, {}),
        ("over_budget", PRICED, spend_the_day, {}),
        ("over_budget", SEVERAL, spend_the_day, {}),
        ("over_budget", PRICED | {"max_cost_usd": 0.0501, "prompt": "x" * 30_000}, None, {}),
        ("no_key", PRICED, None, {"key": False}),
        ("no_key", SEVERAL, None, {"key": False}),
        ("invalid_request", SEVERAL | {"models": ["globex/large", "globex/large"]}, None, {}),
        ("invalid_request", PRICED | {"prompt": " "}, None, {}),
        ("not_allowed", PRICED, None, {"denied": ("globex/",)}),
        ("unknown_model", PRICED | {"model": "globex/largo"}, None, {}),
        ("cannot_verify_price", PRICED | {"model": "openrouter/auto"}, None, {}),
        ("not_free", PRICED, None, {"daily_budget": Decimal(0), "call_budget": Decimal(0)}),
    ],
)
async def test_nobody_is_asked_about_what_is_refused_anyway(
    sandbox: Sandbox,
    code: str,
    arguments: dict[str, Any],
    prepare: Callable[[App], Awaitable[None]] | None,
    options: dict[str, Any],
) -> None:
    person = Person(sandbox)
    async with with_person(sandbox, person, **options) as (client, app):
        if prepare:
            await prepare(app)
        _, record, is_error = await ask(client, "compare_models" if "models" in arguments else "ask_model", **arguments)
    assert is_error
    assert record["code"] == code
    assert person.questions == []
    assert sandbox.chats == []


# --- what is not a yes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", NOT_A_YES.values(), ids=NOT_A_YES)
@pytest.mark.parametrize("era", ERAS)
async def test_whatever_is_not_a_yes_declines(sandbox: Sandbox, era: str, reply: ElicitResult) -> None:
    person = Person(sandbox, reply)
    async with with_person(sandbox, person, era=era) as (client, _):
        for tool, arguments in (("ask_model", PRICED), ("compare_models", SEVERAL)):
            text, record, is_error = await ask(client, tool, **arguments)
            assert is_error
            assert record["code"] == "declined"
            assert "nothing was sent" in text
        await assert_nothing_left(sandbox, client)
    assert len(person.questions) == 2


@pytest.mark.parametrize("era", ERAS)
async def test_no_dismissal_an_unreadable_reply_and_a_client_that_cannot_ask_are_told_apart(
    sandbox: Sandbox, era: str
) -> None:
    texts = []
    for person in (Person(sandbox, NO), Person(sandbox, CANCEL), Person(sandbox, RUBBISH["nothing"]), None):
        async with with_person(sandbox, person, era=era) as (client, _):
            text, record, is_error = await ask(client, **PRICED)
            assert (is_error, record["code"]) == (True, "declined")
            await assert_nothing_left(sandbox, client)
        texts.append(text)
    assert len(set(texts)) == len(texts)
    assert "$0.05" in texts[-1]  # which limit it was
    for text in texts:  # and none says how to loosen it
        assert not re.search(r"OPENROUTER|_USD|environ|variable|setting|config", text, re.IGNORECASE), text


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_can_only_open_pages_cannot_ask(
    sandbox: Sandbox, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = ClientCapabilities(elicitation=ElicitationCapability(url=UrlElicitationCapability()))
    monkeypatch.setattr(ClientSession, "_build_capabilities", lambda *_: pages)
    person = Person(sandbox)
    async with with_person(sandbox, person, era=era) as (client, _):
        text, record, _ = await ask(client, **PRICED)
        assert record["code"] == "declined"
        assert "cannot ask" in text
        await assert_nothing_left(sandbox, client)
    assert person.questions == []


async def test_a_client_that_fails_to_ask_declines(sandbox: Sandbox) -> None:
    """In the older era; in the newer one the client fails on its own side."""
    person = Person(sandbox, ErrorData(code=-32603, message="the window could not be opened"))
    async with with_person(sandbox, person, era="legacy") as (client, _):
        text, record, is_error = await ask(client, **PRICED)
        assert (is_error, record["code"]) == (True, "declined")
        assert "window" not in text
        await assert_nothing_left(sandbox, client)


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_cancelled_while_the_person_thinks_leaves_nothing_held(sandbox: Sandbox, era: str) -> None:
    async def hang_up() -> None:
        scope.cancel()
        await anyio.sleep_forever()

    person = Person(sandbox, meanwhile=hang_up)
    async with with_person(sandbox, person, era=era) as (client, _):
        with anyio.CancelScope() as scope:
            await ask(client, **PRICED)
        assert scope.cancelled_caught
        await assert_nothing_left(sandbox, client)


@pytest.mark.parametrize("name", ["agreed", "answer", "spend", "vetted", "app", "context", "confirm_above"])
async def test_an_agent_cannot_answer_by_an_argument(sandbox: Sandbox, name: str) -> None:
    person = Person(sandbox)
    arguments: dict[str, Any] = PRICED | {name: 1}
    async with with_person(sandbox, person) as (client, _):
        _, record, is_error = await ask(client, **arguments)
    assert (is_error, record["code"]) == (True, "invalid_request")
    assert person.questions == []
    assert sandbox.chats == []
