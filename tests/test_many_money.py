"""Batches that cost money: the worst case of all is held before the first is sent, and nothing stays held for ever."""

from decimal import Decimal
from typing import Any

import pytest
from budgets import NOTHING, TINY, booked, budget, noon, served
from calls import PATIENT, Clock, some_turns
from many import AT_ONCE, Picky, asked, ended, outcomes, tasks
from mcp_types import ElicitResult
from support import Time, ask, until
from test_consent import CANCEL, DECLINE, NO, YES, Person, most, shown, with_person

from openrouter_mcp.sandbox import Fault, faults
from openrouter_mcp.settings import Settings
from openrouter_mcp.text import usd

NINE: dict[str, Any] = {"prompts": tasks(9), "model": TINY, "max_tokens": 100}
EACH = Decimal("0.00006345")  # of NINE: 23 tokens in at $0.15 and 100 out at $0.60 a million
STALLS = Fault(then="stall", after_tokens=2)


@pytest.fixture
def at() -> Time:
    return noon()


@pytest.fixture
def sandbox(at: Time) -> Picky:
    """OpenRouter on the server's clock."""
    return Picky(at)


async def test_the_worst_case_of_all_is_held_before_the_first_is_sent_and_settled_after(
    sandbox: Picky, at: Time
) -> None:
    seen = []
    sandbox.fail(Fault(delay_headers_s=1))
    async with served(sandbox, at=at) as (app, client):

        async def look(_: float) -> None:
            seen.append(await booked(app))

        sandbox.sleep = look
        text, record, _ = await ask(client, "ask_many", **NINE)
        assert outcomes(record) == ["complete"] * 9
        assert seen == [(NOTHING, 9 * EACH)]
        assert await booked(app) == (sandbox.bill, NOTHING)
        assert sum(Decimal(row["cost_usd"]) for row in record["rows"]) == sandbox.bill > 0
        assert f"[{usd(sandbox.bill)} in all, " in text
    assert sorted(asked(sandbox)) == tasks(9)
    assert sum(most(chat.body) for chat in sandbox.chats) == 9 * EACH


async def test_identical_prompts_and_kept_answers_are_paid_for_once(sandbox: Picky, at: Time) -> None:
    async with served(sandbox, budget("1"), at=at) as (app, client):
        await ask(client, "ask_many", **NINE | {"prompts": ["Task 1."] * 50})
        assert await booked(app) == (sandbox.bill, NOTHING)
    assert len(sandbox.chats) == 1


@pytest.mark.parametrize(
    ("settings", "limit", "name"),
    [
        (budget("0.0005"), {}, "0.0005"),
        (budget("1", "0.0005"), {}, "budget for a call is $0.0005"),
        (budget("1"), {"max_cost_usd": 0.0005}, "max_cost_usd is $0.0005"),
    ],
    ids=["the day's", "a call's", "its own"],
)
async def test_what_the_budget_does_not_bear_in_all_is_refused_as_a_whole(
    sandbox: Picky, at: Time, settings: Settings, limit: dict[str, Any], name: str
) -> None:
    async with served(sandbox, settings, at=at) as (app, client):
        text, record, is_error = await ask(client, "ask_many", **NINE, **limit)
        assert (is_error, record["code"]) == (True, "over_budget")
        assert "9 times can cost up to $0.00058" in text
        assert name in text
        assert await booked(app) == (NOTHING, NOTHING)
        assert (await ask(client, "read_answer"))[1]["rows"] == []
        _, _, is_error = await ask(client, "ask_many", **NINE | {"prompts": tasks(7)}, **limit)
        assert not is_error
    assert len(sandbox.chats) == 7


async def test_a_share_of_the_budget_shortens_every_answer_alike(sandbox: Picky, at: Time) -> None:
    async with served(sandbox, at=at) as (app, client):
        _, record, _ = await ask(client, "ask_many", **NINE | {"max_tokens": 4096}, max_cost_usd=0.005)
        assert outcomes(record) == ["complete"] * 9
        assert await booked(app) == (sandbox.bill, NOTHING)
    (limit,) = {chat.body["max_tokens"] for chat in sandbox.chats}
    assert 900 < limit < 930
    assert sum(most(chat.body) for chat in sandbox.chats) <= Decimal("0.005")


async def test_two_batches_cannot_both_have_the_last_of_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    at = Clock(monkeypatch)
    sandbox = Picky(at)
    sandbox.spoiled = dict.fromkeys(tasks(9), STALLS)
    async with served(sandbox, budget("0.001"), at=at, waits=AT_ONCE, timeouts=PATIENT) as (_, client):
        _, first, _ = await ask(client, "ask_many", **NINE)
        _, record, is_error = await ask(client, "ask_many", **NINE)
        assert (is_error, record["code"]) == (True, "over_budget")
        await ask(client, "read_answer", id=first["id"], cancel=True)


async def test_priced_prompts_need_no_free_request_and_do_not_wait_for_one(sandbox: Picky, at: Time) -> None:
    sandbox.account.per_day = 0
    async with served(sandbox, at=at) as (_, client):
        _, record, is_error = await ask(client, "ask_many", **NINE | {"prompts": tasks(40)})
        assert not is_error
        assert record["answered"] == 40
        assert at.waits == []


async def test_without_a_model_nothing_is_spent(sandbox: Picky, at: Time) -> None:
    async with served(sandbox, at=at) as (app, client):
        _, record, _ = await ask(client, "ask_many", prompts=tasks(3))
        assert record["answered"] == 3
        assert await booked(app) == (NOTHING, NOTHING)
    assert all(chat.body["model"].endswith(":free") for chat in sandbox.chats)


# --- stopped and failed -----------------------------------------------------------------------------------------------


async def test_a_stopped_batch_gives_back_what_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    at = Clock(monkeypatch)
    at.now = noon().now
    sandbox = Picky(at)
    sandbox.spoiled = dict.fromkeys(tasks(9), STALLS)
    async with served(sandbox, at=at, waits=AT_ONCE, timeouts=PATIENT) as (app, client):
        _, record, _ = await ask(client, "ask_many", **NINE)
        await until(lambda: sandbox.open_streams == 5)
        assert await booked(app) == (NOTHING, 9 * EACH)
        text, record, _ = await ask(client, "read_answer", id=record["id"], cancel=True)
        assert outcomes(record) == ["cancelled"] * 9
        assert "the cost of 5 is not known yet" in text
        assert await booked(app) == (NOTHING, 5 * EACH)  # of those, until OpenRouter tells
        at.jump(10)
        _, record, _ = await ask(client, prompt="Hi", model=TINY, max_tokens=100)
        await ended(client, record["id"])
        assert await booked(app) == (sandbox.bill, NOTHING)
    assert len(sandbox.chats) == 6


async def test_a_batch_stopped_before_anything_is_sent_costs_nothing(sandbox: Picky, at: Time) -> None:
    async with served(sandbox, at=at, waits=AT_ONCE) as (app, client):
        _, record, _ = await ask(client, "ask_many", **NINE)
        await app.batches.stop(record["id"])
        sent = len(sandbox.chats)
        await some_turns()
        assert len(sandbox.chats) == sent < 9
        _, record, _ = await ask(client, "read_answer", id=record["id"])
        assert record["status"] == "cancelled"
        assert (await booked(app))[1] <= sent * EACH


REFUSED = (Fault(status=400, json={"error": {"code": 400, "message": "no"}}), "invalid_request", NOTHING)
LOST = (Fault(reset=True), "may_have_been_billed", EACH)


@pytest.mark.parametrize(("fault", "code", "held"), [REFUSED, LOST], ids=["refused", "lost"])
async def test_what_a_failure_may_have_cost_stays_held_and_nothing_else(
    sandbox: Picky, at: Time, fault: Fault, *, code: str, held: Decimal
) -> None:
    sandbox.spoiled["Task 4."] = fault
    async with served(sandbox, at=at) as (app, client):
        text, record, _ = await ask(client, "ask_many", **NINE)
        assert outcomes(record) == ["complete"] * 3 + [code] + ["complete"] * 5
        assert await booked(app) == (sandbox.bill, held)
        assert ("the cost of 1 is not known yet" in text) == (held > 0)
    assert len(sandbox.chats) == 9


async def test_a_priced_prompt_that_meets_a_busy_model_is_asked_again_within_the_budget(
    sandbox: Picky, at: Time
) -> None:
    sandbox.fail(faults.pool_busy(), times=3)
    async with served(sandbox, budget(f"{EACH}"), at=at) as (app, client):
        _, record, _ = await ask(client, "ask_many", **NINE | {"prompts": tasks(1)})
        _, record, _ = await ended(client, record["id"])
        assert outcomes(record) == ["complete"]
        assert await booked(app) == (sandbox.bill, NOTHING)
    assert len(sandbox.chats) == 4


async def test_an_answer_dearer_than_was_held_ends_the_batch_and_frees_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = Clock(monkeypatch)
    sandbox = Picky(at)
    sandbox.spoiled = {"Task 1.": Fault(cost=0.5)} | dict.fromkeys(tasks(4, first=2), Fault(delay_headers_s=1))
    async with served(sandbox, at=at, waits=AT_ONCE, timeouts=PATIENT) as (app, client):

        async def until_it_is_known(_: float) -> None:
            await until(lambda: sandbox.bill > 0)
            await some_turns()

        sandbox.sleep = until_it_is_known
        _, record, _ = await ask(client, "ask_many", **NINE)
        text, record, is_error = await ended(client, record["id"])
        assert not is_error
        sent = len(sandbox.chats)
        assert sent <= 5
        assert outcomes(record) == ["complete"] * sent + ["guard_closed"] * (9 - sent)
        assert "[warning: " in text
        assert record["rows"][0]["warning"]
        assert await booked(app) == (sandbox.bill, NOTHING)


# --- the person -------------------------------------------------------------------------------------------------------

DEAR: dict[str, Any] = {"prompts": tasks(5), "model": "globex/large"}


async def test_the_person_is_asked_once_for_the_total(sandbox: Picky, at: Time) -> None:
    person = Person(sandbox)
    async with with_person(sandbox, person, at=at) as (client, app):
        _, record, is_error = await ask(client, "ask_many", **DEAR | {"prompts": [*tasks(5), "Task 1."]})
        assert not is_error
        assert record["answered"] == 6
        (question,) = person.questions
        assert "globex/large' 5 times can cost up to $0.41" in question
        assert "Task 1." in question
        assert person.sent_before == 0
        assert sum(most(chat.body) for chat in sandbox.chats) <= shown(question)
        assert await booked(app) == (sandbox.bill, NOTHING)


@pytest.mark.parametrize("reply", [NO, DECLINE, CANCEL], ids=["no", "declined", "closed"])
async def test_without_a_yes_nothing_is_begun(sandbox: Picky, at: Time, reply: ElicitResult) -> None:
    async with with_person(sandbox, Person(sandbox, reply), at=at) as (client, app):
        _, record, is_error = await ask(client, "ask_many", **DEAR)
        assert (is_error, record["code"]) == (True, "declined")
        assert await booked(app) == (NOTHING, NOTHING)
        assert (await ask(client, "read_answer"))[1]["rows"] == []
    assert sandbox.chats == []


async def test_a_client_that_cannot_ask_its_person_is_refused(sandbox: Picky, at: Time) -> None:
    async with with_person(sandbox, None, at=at) as (client, _):
        text, record, _ = await ask(client, "ask_many", **DEAR)
        assert record["code"] == "declined"
        assert "5 times can cost up to $0.41" in text
    assert sandbox.chats == []


async def test_nobody_is_asked_about_what_is_below_the_limit_free_or_refused_anyway(sandbox: Picky, at: Time) -> None:
    person = Person(sandbox, YES)
    async with with_person(sandbox, person, at=at) as (client, _):
        for more, code in (
            ({"max_tokens": 900}, None),
            ({"model": "globex/large:free"}, None),
            ({"model": ""}, None),
            ({"max_cost_usd": 0.04}, None),
            ({"prompts": tasks(100)}, "over_budget"),
            ({"model": "globex/larger"}, "unknown_model"),
        ):
            _, record, _ = await ask(client, "ask_many", **DEAR | more)
            assert record.get("code") == code, more
    assert person.questions == []
