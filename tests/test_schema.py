"""An answer in the form that was asked for: checked here, mended once, marked where it is not; no schema does harm."""

import json
import math
import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from budgets import NOTHING, booked, budget
from budgets import served as rich
from calls import PATIENT, Call, some_turns
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from served import Served, says, served
from support import SETTINGS, ask, connected, until
from test_consent import Person, with_person

from openrouter_mcp.errors import InvalidRequest
from openrouter_mcp.pages import PAGE
from openrouter_mcp.sandbox import Fault, Sandbox, chat, faults
from openrouter_mcp.sandbox.answers import Answer, words
from openrouter_mcp.schemas import follow, not_checked, require_usable, response_format

KEEPS = "cyberdyne/json:free"  # to a schema
PAID = "cyberdyne/json"
AGE: dict[str, Any] = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
GOOD, BAD, WORSE = '{"age": 7}', '{"age": "seven"}', '{"age": null}'
ASKED: dict[str, Any] = {"prompt": "How old?", "model": KEEPS, "schema": AGE}
OPENAPI = Path("/work/shared/openrouter-openapi.yaml")
Script = str | Answer


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> "Saying":
    """Has the models of the sandbox say what a test wants."""
    return Saying(monkeypatch)


class Saying:
    """Answers in turn, the last one for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, *said: Script) -> None:
        left = list(said)

        def composed(_: object, __: object) -> Answer:
            one = left.pop(0) if len(left) > 1 else left[0]
            return one if isinstance(one, Answer) else Answer([], words(one), [], "stop")

        self._monkeypatch.setattr(chat, "compose", composed)


def bodies(sandbox: Sandbox) -> list[dict[str, Any]]:
    return [one.body for one in sandbox.chats]


# --- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [AGE, {}])
async def test_the_form_is_sent_to_providers_that_heed_it(sandbox: Sandbox, schema: dict[str, Any]) -> None:
    async with connected(sandbox) as client:
        await ask(client, prompt="Hi", model=KEEPS, schema=schema, options={"provider": {"sort": "price"}})
        await ask(client, prompt="Hi", model=KEEPS)
    with_form, without = bodies(sandbox)
    assert with_form["provider"]["require_parameters"] is True
    assert with_form["provider"]["sort"] == "price"
    assert with_form["provider"]["max_price"] == without["provider"]["max_price"]
    assert with_form["response_format"]["type"] == ("json_schema" if schema else "json_object")
    if schema:
        assert with_form["response_format"]["json_schema"]["schema"] == schema
    assert "response_format" not in without
    assert "require_parameters" not in without["provider"]


@pytest.fixture(scope="module")
def reader() -> Draft202012Validator:
    """OpenRouter's own description of what it takes."""
    if not OPENAPI.exists():
        pytest.skip(f"{OPENAPI} is not here")
    yaml: Any = pytest.importorskip("yaml", reason="no YAML reader is installed")
    components = yaml.safe_load(OPENAPI.read_text())["components"]
    return Draft202012Validator({"$ref": "#/components/schemas/ChatRequest", "components": components})


async def test_what_is_sent_is_what_openrouter_says_it_takes(
    sandbox: Sandbox, say: Saying, reader: Draft202012Validator
) -> None:
    say(BAD, GOOD)
    async with connected(sandbox) as client:
        await ask(client, **ASKED)
        await ask(client, prompt="Hi", model=KEEPS, schema={})
    assert len(sandbox.chats) == 3
    for body in bodies(sandbox):
        assert [error.message for error in reader.iter_errors(body)] == []


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (AGE, True),
        (AGE | {"required": []}, False),
        (AGE | {"additionalProperties": True}, False),
        ({"type": "array", "items": AGE}, True),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"const": {"properties": 3, "additionalProperties": False}}, False),
        ({"properties": {"properties": {}, "additionalProperties": False, "required": True}}, False),
    ],
)
def test_strictness_is_asked_for_where_every_object_is_closed(schema: dict[str, Any], strict: bool) -> None:
    require_usable(schema)
    assert response_format(schema)["json_schema"]["strict"] is strict


# --- whether it follows -----------------------------------------------------------------------------------------------


async def test_a_valid_answer_comes_bare_with_its_value_in_the_record(sandbox: Sandbox, say: Saying) -> None:
    say(GOOD)
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, **ASKED)
    assert not is_error
    assert text.startswith(GOOD)
    assert (record["valid"], record["parsed"], record["attempts"]) == (True, {"age": 7}, 1)
    assert "invalid" not in record
    assert len(sandbox.chats) == 1


async def test_an_invalid_answer_is_mended_once_by_the_same_model_and_counted(sandbox: Sandbox, say: Saying) -> None:
    say(BAD, GOOD)
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, **ASKED, system="Be brief.")
    assert text.startswith(GOOD)
    assert "NOT VALID" not in text
    assert (record["valid"], record["parsed"], record["attempts"]) == (True, {"age": 7}, 2)
    assert "48 of 50 free requests left" in text
    first, second = bodies(sandbox)
    assert second["messages"][:2] == first["messages"]
    assert [said["role"] for said in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][2]["content"] == BAD
    assert "$.age: 'seven' is not of type 'integer'" in second["messages"][3]["content"]
    same = ("model", "response_format", "provider", "max_tokens")
    assert {name: first[name] for name in same} == {name: second[name] for name in same}


async def test_what_is_invalid_twice_is_marked_first_and_is_no_error(sandbox: Sandbox, say: Saying) -> None:
    say(BAD, WORSE)
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, **ASKED)
    assert not is_error
    assert text.startswith("[NOT VALID for the schema: $.age: None is not of type 'integer']")
    assert WORSE in text
    assert (record["status"], record["valid"], record["attempts"]) == ("complete", False, 2)
    assert record["invalid"]
    assert "parsed" not in record
    assert len(sandbox.chats) == 2


async def test_only_what_is_valid_is_given_again_with_all_that_was_said_of_it(sandbox: Sandbox, say: Saying) -> None:
    say(BAD)
    schema = {"properties": {"age": {"type": "integer"}, "name": {"pattern": "^a"}}}
    async with served(sandbox, settings=replace(SETTINGS, repeat_s=3600.0)) as here:
        for requests in (2, 4):
            await here.ask(**ASKED | {"schema": schema})
            assert len(sandbox.chats) == requests
        say(GOOD)
        for _ in range(2):
            text, record, _ = await here.ask(**ASKED | {"schema": schema})
            assert len(sandbox.chats) == 5
            assert "not checked here: pattern" in text
            assert record["parsed"] == {"age": 7}
        assert "age_s" in record
        await here.ask(**ASKED | {"schema": {}})
        assert len(sandbox.chats) == 6


BARE = {
    "as it is": GOOD,
    "fenced": f"```json\n{GOOD}\n```",
    "fenced without a word": f"\n```\n\n{GOOD}\n \n```\n",
    "fenced, and blank lines past a page": f"```json\n{GOOD}\n```" + "\n" * PAGE,
}


@pytest.mark.parametrize("said", BARE.values(), ids=BARE)
async def test_json_is_left_bare(sandbox: Sandbox, say: Saying, said: str) -> None:
    say(said)
    async with served(sandbox) as here:
        text, record, is_error = await here.ask(**ASKED)
        assert not is_error
        assert text.startswith((GOOD, "```json\n" + GOOD))
        assert record["parsed"] == {"age": 7}
        again, kept, _ = await here.read(record["id"])
    assert again.partition("\n\n[")[0] == text.partition("\n\n[")[0]
    assert (kept["valid"], kept["parsed"]) == (True, {"age": 7})


NOT_JSON = {
    "prose before": f"Here you are: {GOOD}",
    "prose after": f"{GOOD} Voilà.",
    "two": f"{GOOD}\n{GOOD}",
    "nan": '{"age": NaN}',
    "infinity": '{"age": -Infinity}',
    "beyond any float": '{"age": 1e999}',
    "endless digits": '{"age": ' + "9" * 5000 + "}",
    "too deep": "[" * 5000,
    "deep and whole": '{"age":' * 300 + "1" + "}" * 300,
    "cut": '{"age": ',
    "a fence of nothing": "```" + "\n" * 3000 + "x",
}


@pytest.mark.parametrize("said", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize("schema", [AGE, {}], ids=["a schema", "any object"])
async def test_what_is_no_json_is_mended(sandbox: Sandbox, say: Saying, schema: dict[str, Any], said: str) -> None:
    assert follow(schema, said)[1]
    say(said, GOOD)
    async with connected(sandbox) as client:
        _, record, is_error = await ask(client, prompt="Hi", model=KEEPS, schema=schema)
    assert not is_error
    assert (record.get("parsed"), record["attempts"]) == ({"age": 7}, 2)


async def test_half_a_character_in_a_value_is_marked_as_such(sandbox: Sandbox, say: Saying) -> None:
    say('{"a\\udead": ["\\ud83d", "\\ud83d\\ude00"]}')
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=KEEPS, schema={})
    assert not is_error
    assert '"\\ud83d"' in text
    assert record["parsed"] == {"a\ufffd": ["\ufffd", "\U0001f600"]}


async def test_a_list_is_not_any_object(sandbox: Sandbox, say: Saying) -> None:
    say("[]", "7")
    async with connected(sandbox) as client:
        _, record, _ = await ask(client, prompt="Hi", model="acme/tiny:free", schema={})
    assert (record["invalid"], record["attempts"]) == ("it is no JSON object", 2)


# --- what is not mended -----------------------------------------------------------------------------------------------

LET_BE: dict[str, tuple[Script, str]] = {
    "cut off": (Answer([], ['{"age": '], [], "length"), "no JSON"),
    "over a page": ('{"age": "' + "seven " * 4000 + '"}', "is not of type 'integer'"),
}


@pytest.mark.parametrize(("said", "why"), LET_BE.values(), ids=LET_BE)
async def test_it_is_marked_and_not_mended(sandbox: Sandbox, say: Saying, said: Script, why: str) -> None:
    say(said, GOOD)
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, **ASKED)
    assert text.startswith("[NOT VALID")
    assert why in record["invalid"]
    assert (record["valid"], record["attempts"]) == (False, 1)
    assert len(sandbox.chats) == 1


async def test_a_long_valid_answer_is_valid_on_every_page_and_in_no_record(sandbox: Sandbox, say: Saying) -> None:
    said = json.dumps({"age": 7, "x": "word " * 5000})
    say(said)
    async with served(sandbox) as here:
        text, record, _ = await here.ask(prompt="Hi", model=KEEPS, schema={})
        more, second, _ = await here.read(record["id"], page=2)
    assert (record["valid"], record["pages"], second["valid"]) == (True, 2, True)
    assert "parsed" not in record
    assert "parsed" not in second
    assert text.partition("\n\n[")[0] + more.partition("\n\n[")[0] == said


CALL = [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
TOOLS = {"tools": [{"type": "function", "function": {"name": "look"}}]}


async def test_what_is_said_with_a_call_of_a_tool_is_not_the_answer_yet(sandbox: Sandbox, say: Saying) -> None:
    say(Answer([], ["Let me look."], CALL, "tool_calls"), GOOD)
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, **ASKED, options=TOOLS)
    assert len(sandbox.chats) == 1
    assert record["tool_calls"]
    assert "NOT VALID" not in text


@pytest.mark.parametrize(
    "second",
    [Answer([], [], CALL, "tool_calls"), Answer([], ['{"age": 7'], [], "length")],
    ids=["a call of a tool", "cut off"],
)
async def test_a_mending_that_is_no_whole_answer_does_not_replace_one(
    sandbox: Sandbox, say: Saying, second: Answer
) -> None:
    say(BAD, second)
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, **ASKED, options=TOOLS)
    assert text.startswith("[NOT VALID")
    assert BAD in text
    assert (record["status"], record["attempts"]) == ("complete", 2)


async def test_what_cannot_be_checked_is_marked_and_not_mended(sandbox: Sandbox, say: Saying) -> None:
    say(GOOD)
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=KEEPS, schema={"allOf": [{"$ref": "#"}]})
    assert not is_error
    assert text.startswith("[NOT VALID for the schema: it could not be checked")
    assert "parsed" not in record
    assert len(sandbox.chats) == 1


# --- where mending fails ----------------------------------------------------------------------------------------------

FAILS: dict[str, tuple[Fault, int]] = {
    "overloaded": (faults.server_error(503), 3),
    "busy": (faults.pool_busy(retry_after=60.0), 2),
    "no free request left": (faults.day_limit(), 2),
    "nothing said": (Fault(answer="none"), 3),
    "the connection cut": (Fault(reset=True), 3),
}


@pytest.mark.parametrize(("fault", "requests"), FAILS.values(), ids=FAILS)
async def test_where_mending_fails_the_first_answer_stays(
    sandbox: Sandbox, say: Saying, fault: Fault, requests: int
) -> None:
    say(BAD)
    sandbox.fail(Fault())
    sandbox.fail(fault, times=None)
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, **ASKED)
    assert not is_error
    assert text.startswith("[NOT VALID")
    assert BAD in text
    assert (record["status"], record["valid"]) == ("complete", False)
    assert Decimal(record["cost_usd"]) == 0
    assert len(sandbox.chats) == record["attempts"] == requests


async def test_nothing_is_mended_once_the_guard_has_closed(sandbox: Sandbox, say: Saying) -> None:
    say(BAD, GOOD)
    sandbox.fail(Fault(cost=0.01))
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, **ASKED)
    assert not is_error
    assert text.startswith("[warning: ")
    assert "NOT VALID" in text
    assert (record["attempts"], record["cost_usd"]) == (1, "0.01")
    assert len(sandbox.chats) == 1


async def test_a_mending_that_closes_the_guard_says_so_though_it_came_to_nothing(sandbox: Sandbox, say: Saying) -> None:
    say(BAD)
    sandbox.fail(Fault())
    sandbox.fail(Fault(cost=0.01, answer="none"))
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, **ASKED)
        _, later, _ = await ask(client, **ASKED)
    assert text.startswith("[warning: ")
    assert BAD in text
    assert Decimal(record["cost_usd"]) == Decimal("0.01")
    assert later["code"] == "guard_closed"


# --- money ------------------------------------------------------------------------------------------------------------

PRICED = ASKED | {"model": PAID, "max_tokens": 1000}


async def test_mending_is_paid_for_like_any_other_request(sandbox: Sandbox, say: Saying) -> None:
    say(BAD, GOOD)
    async with rich(sandbox) as (app, client):
        _, record, _ = await ask(client, **PRICED)
        assert await booked(app) == (sandbox.bill, NOTHING)
    assert len(sandbox.chats) == 2
    assert Decimal(record["cost_usd"]) == sandbox.bill > 0
    assert all(Decimal(body["provider"]["max_price"]["prompt"]) > 0 for body in bodies(sandbox))


async def test_mending_costs_no_more_than_the_call_may(sandbox: Sandbox, say: Saying) -> None:
    say(BAD, GOOD)
    sandbox.fail(Fault(cost=0.0008))
    async with rich(sandbox) as (app, client):
        text, record, is_error = await ask(client, **PRICED, max_cost_usd=0.0011)
        assert await booked(app) == (Decimal("0.0008"), NOTHING)
    assert not is_error
    assert text.startswith("[NOT VALID")
    assert (record["cost_usd"], record["attempts"]) == ("0.0008", 1)
    assert len(sandbox.chats) == 1


@pytest.mark.parametrize(
    ("confirm_above", "asked", "requests"),
    [("0.0005", 1, 1), ("0.001", 0, 1), ("0.01", 0, 2)],
    ids=["agreed to the first", "nothing to agree to for the first", "nothing to agree to for both"],
)
async def test_mending_costs_no_more_than_the_person_agreed_to(
    sandbox: Sandbox, say: Saying, confirm_above: str, asked: int, requests: int
) -> None:
    say(BAD, GOOD)
    sandbox.fail(Fault(cost=0.0008))
    person = Person(sandbox)
    async with with_person(sandbox, person, confirm_above=Decimal(confirm_above)) as (client, _):
        _, record, is_error = await ask(client, **PRICED)
    assert not is_error
    assert len(person.questions) == asked
    assert len(sandbox.chats) == record["attempts"] == requests
    assert record["valid"] is (requests == 2)


async def test_a_mending_that_was_lost_stays_reserved_and_its_cost_unknown(sandbox: Sandbox, say: Saying) -> None:
    say(BAD)
    sandbox.fail(Fault(cost=0.0002))
    sandbox.fail(Fault(reset=True))
    async with rich(sandbox) as (app, client):
        text, record, _ = await ask(client, **PRICED)
        spent, held = await booked(app)
    assert (spent, record["cost_usd"], record["attempts"]) == (Decimal("0.0002"), None, 2)
    assert held > 0
    assert "cost unknown, " in text
    assert BAD in text


async def test_a_first_answer_whose_cost_is_not_known_keeps_the_sum_unknown(sandbox: Sandbox, say: Saying) -> None:
    say(GOOD)
    sandbox.fail(says(BAD))
    async with rich(sandbox) as (app, client):
        text, record, _ = await ask(client, **PRICED)
        spent, held = await booked(app)
    assert record["valid"]
    assert (spent, record["cost_usd"]) == (sandbox.bill, None)
    assert held > 0
    assert "cost unknown, " in text


async def test_a_choice_of_ours_is_mended_by_whoever_wrote_it_for_nothing(sandbox: Sandbox, say: Saying) -> None:
    say(BAD, GOOD)
    sandbox.fail(faults.server_error(503), model="globex/large:free")
    async with connected(sandbox, settings=budget("1")) as client:
        _, record, _ = await ask(client, prompt="How old?", schema=AGE)
    first, second = bodies(sandbox)
    assert len([first["model"], *first["models"]]) == 3
    assert second["model"] == record["model"] == first["models"][0]
    assert "models" not in second
    assert second["provider"]["max_price"] == first["provider"]["max_price"]
    assert set(second["provider"]["max_price"].values()) == {"0"}
    assert sandbox.bill == 0


async def test_a_fallback_that_answered_is_asked_to_mend_and_nobody_else(sandbox: Sandbox, say: Saying) -> None:
    say(BAD, GOOD)
    sandbox.fail(faults.server_error(503), model=KEEPS)
    async with connected(sandbox) as client:
        _, record, _ = await ask(client, **ASKED, options={"fallbacks": ["initech/coder:free"]})
    assert record["valid"]
    assert bodies(sandbox)[1]["model"] == "initech/coder:free"
    assert "models" not in bodies(sandbox)[1]


# --- cancels and conversations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [KEEPS, PAID])
async def test_a_cancel_while_it_is_mended_keeps_the_first_answer(sandbox: Sandbox, say: Saying, model: str) -> None:
    say(BAD)
    sandbox.fail(Fault())
    sandbox.fail(Fault(then="stall", after_tokens=1))
    async with served(sandbox, settings=budget("1"), timeouts=PATIENT) as here:
        async with anyio.create_task_group() as group:
            call = Call(group, here.client, "ask_model", **ASKED | {"model": model})
            await until(lambda: len(sandbox.chats) == 2 and sandbox.open_streams == 1)
            await some_turns()
            (id_,) = here.app.writing.running("")
            call.cancel()
        await until(lambda: not here.app.writing.running(""))
        text, record, _ = await here.read(id_)
        spent, held = await booked(here.app)
    assert text.startswith("[NOT VALID")
    assert BAD in text
    assert (record["status"], record["valid"], record["attempts"]) == ("cancelled", False, 2)
    if model == PAID:
        assert spent > 0
        assert held > 0
        assert record["cost_usd"] is None


async def test_mending_in_a_conversation_is_no_turn_of_it(sandbox: Sandbox, say: Saying) -> None:
    say("Hello.", BAD, GOOD, "Bye.")
    async with connected(sandbox) as client:
        _, first, _ = await ask(client, prompt="Hi", model=KEEPS)
        _, second, _ = await ask(client, prompt="How old?", continue_from=first["id"], schema=AGE)
        await ask(client, prompt="Thanks", continue_from=second["id"])
    said = [[one["content"] for one in body["messages"]] for body in bodies(sandbox)]
    assert said[2][:-1] == ["Hi", "Hello.", "How old?", BAD]
    assert said[3] == ["Hi", "Hello.", "How old?", GOOD, "Thanks"]


async def test_mending_after_results_of_tools_tells_them_once(sandbox: Sandbox, say: Saying) -> None:
    say(Answer([], [], CALL, "tool_calls"), BAD, GOOD, "Bye.")
    results = {**TOOLS, "tool_results": [{"tool_call_id": "call_1", "content": "7"}]}
    async with connected(sandbox) as client:
        _, first, _ = await ask(client, prompt="Hi", model=KEEPS, options=TOOLS)
        _, second, _ = await ask(client, prompt="", continue_from=first["id"], schema=AGE, options=results)
        await ask(client, prompt="Thanks", continue_from=second["id"])
    assert second["parsed"] == {"age": 7}
    roles = [[one["role"] for one in body["messages"]] for body in bodies(sandbox)]
    assert roles[2] == ["user", "assistant", "tool", "assistant", "user"]
    assert roles[3] == ["user", "assistant", "tool", "assistant", "user"]
    assert bodies(sandbox)[3]["messages"][3]["content"] == GOOD


# --- several ----------------------------------------------------------------------------------------------------------


async def kept_as_told(here: Served, row: dict[str, Any]) -> None:
    """Whether reading an answer says of its form what was told of it."""
    text, record, _ = await here.read(row["id"])
    told = ("valid", "invalid", "parsed", "attempts", "cost_usd")
    assert {name: record.get(name) for name in told} == {name: row.get(name) for name in told}
    assert text.startswith("[NOT VALID") is not row["valid"]


async def test_each_row_of_a_comparison_is_in_form_for_itself(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def composed(row: dict[str, Any], body: dict[str, Any]) -> Answer:
        mends = len(body["messages"]) > 1
        said = {"globex/large:free": GOOD, "initech/coder:free": BAD, KEEPS: GOOD if mends else BAD}[row["id"]]
        return Answer([], words(said), [], "stop")

    monkeypatch.setattr(chat, "compose", composed)
    models = ["globex/large:free", "initech/coder:free", KEEPS, "soylent/chat:free"]
    async with served(sandbox) as here:
        text, record, _ = await here.ask("compare_models", prompt="How old?", models=models, schema=AGE)
        rows = record["rows"]
        for row in rows[:3]:
            await kept_as_told(here, row)
    assert [row.get("valid") for row in rows] == [True, False, True, None]
    assert [row.get("parsed") for row in rows] == [{"age": 7}, None, {"age": 7}, None]
    assert [row["attempts"] for row in rows] == [1, 2, 2, 0]
    assert text.count("NOT VALID") == 1
    assert rows[3]["code"]
    assert len(sandbox.chats) == 5


async def test_each_row_of_a_batch_is_in_form_for_itself(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def composed(_: dict[str, Any], body: dict[str, Any]) -> Answer:
        return Answer([], words(GOOD if "good" in body["messages"][0]["content"] else BAD), [], "stop")

    monkeypatch.setattr(chat, "compose", composed)
    async with served(sandbox) as here:
        text, record, _ = await here.ask("ask_many", prompts=["good", "bad", "good"], model=KEEPS, schema=AGE)
        again, kept, _ = await here.read(record["id"])
        for row in record["rows"]:
            await kept_as_told(here, row)
    assert [row["valid"] for row in record["rows"]] == [True, False, True]
    assert [row.get("parsed") for row in record["rows"]] == [{"age": 7}, None, {"age": 7}]
    assert kept["rows"] == record["rows"]
    assert text.count("NOT VALID") == again.count("NOT VALID") == 1
    assert len(sandbox.chats) == 3


# --- who can ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("schema", "model"), [(AGE, "acme/tiny:free"), ({}, "tyrell/polyglot:free")])
@pytest.mark.parametrize("tool", ["ask_model", "ask_many"])
async def test_a_model_that_cannot_is_refused_and_two_that_can_are_named(
    sandbox: Sandbox, schema: dict[str, Any], model: str, tool: str
) -> None:
    asked: dict[str, Any] = {"prompts": ["Hi"]} if tool == "ask_many" else {"prompt": "Hi"}
    async with connected(sandbox) as client:
        text, _, is_error = await ask(client, tool, **asked, model=model, schema=schema)
        assert is_error
        named = {*re.findall(r"\w+/\w+:free", text)} - {model}
        assert sandbox.chats == []
        for other in named:
            _, _, is_error = await ask(client, tool, **asked, model=other, schema=schema)
            assert not is_error
    assert len(named) == 2


@pytest.mark.parametrize(("schema", "needs"), [(AGE, "structured_outputs"), ({}, "response_format")])
async def test_models_of_our_choice_can(sandbox: Sandbox, schema: dict[str, Any], needs: str) -> None:
    able = {row["id"] for row in sandbox.catalog if needs in row["supported_parameters"]}
    async with connected(sandbox) as client:
        await ask(client, prompt="Hi", schema=schema)
        await ask(client, "compare_models", prompt="Hi", schema=schema)
        await ask(client, "ask_many", prompts=["Hi"], schema=schema)
    asked = {model for body in bodies(sandbox) for model in [body["model"], *body.get("models", [])]}
    assert len(asked) >= 2
    assert asked <= able


# --- schemas that are refused -----------------------------------------------------------------------------------------


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "elsewhere": ({"$ref": "https://example.com/schema.json"}, "refers to 'https://example.com/schema.json'"),
    "elsewhere, deep within": ({"anyOf": [{"items": {"$ref": "file:///etc/passwd"}}]}, "refers to 'file:"),
    "elsewhere, dynamically": ({"$dynamicRef": "http://localhost/#meta"}, "refers to 'http:"),
    "nowhere": ({"$ref": "#/definitions/none"}, "no schema in it at that place"),
    "an anchor of nobody": ({"$ref": "#none"}, "no schema in it at that place"),
    "what is no schema": ({"type": "object", "$ref": "#/type"}, "no schema in it at that place"),
    "an odd pointer": ({"allOf": [{}], "$ref": "#/allOf/first"}, "no schema in it at that place"),
    "no schema": ({"type": "text"}, "is no JSON Schema: type: 'text'"),
    "no schema within": ({"properties": {"age": 7}}, "is no JSON Schema: properties.age: 7"),
    "too deep": (nested(60), "over 40 levels"),
    "too large": ({"enum": [*range(100_000)]}, "over 65536 bytes"),
    "too large in parts": ({"anyOf": [{"not": {}}] * 2000}, "1500 parts"),
}


@pytest.mark.parametrize(("schema", "why"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("tool", ["ask_model", "compare_models", "ask_many"])
async def test_a_schema_that_cannot_be_used_is_refused_before_anything_is_sent(
    sandbox: Sandbox, tool: str, schema: dict[str, Any], why: str
) -> None:
    asked: dict[str, Any] = {"prompts": ["Hi"]} if tool == "ask_many" else {"prompt": "Hi"}
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, tool, **asked, schema=schema)
    assert is_error
    assert record["code"] == "invalid_request"
    assert why in text
    assert len(text) < 500
    assert sandbox.chats == []


@pytest.mark.parametrize(
    "schema", [nested(5000), {"const": math.nan}, {"maximum": math.inf}], ids=["bottomless", "nan", "infinity"]
)
def test_what_cannot_be_written_as_json_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        require_usable(schema)


# --- schemas that do harm ---------------------------------------------------------------------------------------------

SLOW = "^(a+)+$"
LONG = "a" * 40 + "!"
DRAFTS = [
    "http://json-schema.org/draft-07/schema#",
    "http://json-schema.org/draft-04/schema#",
    "https://json-schema.org/draft/2020-12/schema",
    "https://example.com/mine",
]


def dependent(levels: int) -> dict[str, Any]:
    """Looked at twice on every level, by a keyword that comes before the one that would count."""
    both = [{name: {"$ref": f"#/$defs/a{level}"} for name in "xy"} for level in range(levels + 1)]
    parts = {f"a{level}": {"dependentSchemas": each} for level, each in enumerate(both[1:])}
    return {"unevaluatedProperties": False, "dependentSchemas": both[0], "$defs": parts | {f"a{levels}": {}}}


def within_each_other(keyword: str, levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"if": schema, keyword: False}
    return schema


def bomb(keyword: str, levels: int = 30) -> dict[str, Any]:
    parts = {f"a{level}": {keyword: [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)}
    return {"$defs": {**parts, f"a{levels}": {"type": "object"}}, "$ref": "#/$defs/a0"}


HARMFUL: dict[str, tuple[dict[str, Any], object]] = {
    "a pattern": ({"properties": {"x": {"pattern": SLOW}}}, {"x": LONG}),
    "patterns of names": ({"patternProperties": {SLOW: {}}, "additionalProperties": False}, {LONG: 1}),
    "what patterns leave": ({"patternProperties": {SLOW: {}}, "additionalProperties": {"type": "object"}}, {LONG: 1}),
    "what patterns leave unevaluated": ({"patternProperties": {SLOW: {}}, "unevaluatedProperties": False}, {LONG: 1}),
    "left unevaluated elsewhere": (
        {
            "allOf": [{"$ref": "#/$defs/p"}],
            "unevaluatedProperties": False,
            "$defs": {"p": {"patternProperties": {SLOW: {}}}},
        },
        {LONG: 1},
    ),
    "a pattern for names": ({"propertyNames": {"pattern": SLOW}}, {LONG: 1}),
    "names that become a keyword": (
        {"properties": {"patternProperties": {SLOW: True}}, "additionalProperties": {"$ref": "#/properties"}},
        {"z": {LONG: 1}},
    ),
    "slow to compile": ({"pattern": "(?i)" + r"[\u0000-\uffff]" * 2000}, "x"),
    "too deep to compile": ({"pattern": "(" * 5000 + ")" * 5000}, "x"),
    "no pattern at all": ({"pattern": "("}, "x"),
    **{
        f"a dialect of its own, {draft}": ({"properties": {"x": {"$schema": draft, "pattern": SLOW}}}, {"x": LONG})
        for draft in DRAFTS
    },
    "a dialect and itself": ({"$schema": DRAFTS[2], "pattern": SLOW, "properties": {"x": {"$ref": "#"}}}, {"x": LONG}),
    "all of all": (bomb("allOf"), {}),
    "any of any": (bomb("anyOf"), 7),
    "one of one": (bomb("oneOf"), {}),
    "itself": ({"$ref": "#"}, {}),
    "itself by another": ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, {}),
    "itself, dynamically": ({"$dynamicAnchor": "a", "$dynamicRef": "#a"}, {}),
    "properties left by itself": ({"unevaluatedProperties": False, "allOf": [{"$ref": "#"}]}, {"x": 1}),
    "dependent on dependent": (dependent(30), {"x": 1, "y": 1}),
    "unevaluated properties of unevaluated": (within_each_other("unevaluatedProperties", 35), {"a": 1}),
    "unevaluated items of unevaluated": (within_each_other("unevaluatedItems", 35), [1]),
    "as deep as may be": (nested(39), {"a": [1]}),
    "distinct objects": ({"items": {"type": "object"}, "uniqueItems": True}, [{"a": each} for each in range(20_000)]),
    "distinct lists": ({"uniqueItems": True}, [[each, str(each)] for each in range(20_000)]),
    "a long enum, often": ({"items": {"enum": [*range(9000)]}}, [8999] * 50_000),
    "many requirements, often": (
        {"items": {"dependentRequired": {f"a{each}": ["b"] for each in range(2000)}}},
        [{} for _ in range(50_000)],
    ),
    "many properties, often": ({"items": {"properties": {f"a{each}": {} for each in range(1400)}}}, [{}] * 50_000),
    "a share of endless digits": ({"multipleOf": 0.5}, 10**400),
    "a share too small": ({"multipleOf": 5e-324}, 1e300),
    "half a character": ({"properties": {"\ud800": {"const": "\udfff"}}, "title": "\ud83d"}, {"\ud800": "\ud801"}),
    "an odd keyword by reference": ({"foo": {"type": "bogus", "minimum": "x"}, "$ref": "#/foo"}, {}),
    "an odd number by reference": ({"foo": {"multipleOf": 0}, "$ref": "#/foo"}, 7),
    "names of its own": ({"$id": "urn:x", "$anchor": "a", "items": {"$id": "urn:y", "$ref": "#"}}, [[[]]]),
    "the name of the schema of schemas": ({"$id": DRAFTS[2], "items": {"$ref": "#"}}, [[7]]),
}


def usable(schema: dict[str, Any]) -> bool:
    try:
        require_usable(schema)
    except InvalidRequest:
        return False
    return True


@contextmanager
def a_second() -> Iterator[None]:
    """Fails what takes more of this process's time, also in the midst of a pattern."""

    def too_slow(*_: object) -> None:
        pytest.fail("it took too long")

    before = signal.signal(signal.SIGVTALRM, too_slow)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2.0)  # some machines are slower than others
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize(("schema", "value"), HARMFUL.values(), ids=HARMFUL)
def test_no_schema_takes_long(schema: dict[str, Any], value: object) -> None:
    text = json.dumps(value)
    with a_second():
        if not usable(schema):
            return
        response_format(schema)
        not_checked(schema)
        said, problem = follow(schema, text)
    assert said == text
    assert len(problem) < 600


@pytest.mark.parametrize("text", ["```" + "\n" * 20_000 + "x", "```json\n" + " \n" * 20_000, "[" * 100_000, "{" * 9999])
def test_no_answer_takes_long(text: str) -> None:
    with a_second():
        assert follow(AGE, text)[1]


async def test_a_harmful_schema_is_answered_through_every_tool(sandbox: Sandbox, say: Saying) -> None:
    say(json.dumps({"x": 1, "y": 1}))
    async with connected(sandbox) as client:
        for tool, asked in (("ask_model", {"prompt": "Hi"}), ("ask_many", {"prompts": ["Hi"]})):
            text, _, is_error = await ask(client, tool, **asked, model=KEEPS, schema=dependent(30))
            assert not is_error
            assert "it could not be checked" in text


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/foo", "foo": {"allOf": [{"$id": "http://127.0.0.1:9/x", "$ref": "#/bar"}]}},
        {"$ref": "#/foo", "foo": {"allOf": [{"$schema": DRAFTS[1], "id": "http://127.0.0.1:9/x", "$ref": "#/b"}]}},
        {"$id": "http://127.0.0.1:9/x", "properties": {"a": {"$id": "/y", "$ref": "#/none"}}},
    ],
)
def test_nothing_is_fetched_for_a_schema(monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any]) -> None:
    fetched: list[object] = []
    monkeypatch.setattr(urllib.request, "urlopen", fetched.append)
    if not usable(schema):
        return
    follow(schema, '{"a": 1}')
    assert fetched == []


# --- what is checked, and what is not ---------------------------------------------------------------------------------

TOLD_APART: dict[str, tuple[dict[str, Any], object, bool]] = {
    "a property named $ref": ({"properties": {"$ref": {"type": "integer"}}}, {"$ref": "https://x"}, False),
    "a property named pattern": ({"properties": {"pattern": {"type": "integer"}}}, {"pattern": "x"}, False),
    "a property named patternProperties": (
        {"properties": {"patternProperties": {"type": "object"}}, "additionalProperties": False},
        {"z": 1},
        False,
    ),
    "a property named $schema": ({"properties": {"$schema": {"type": "string"}}}, {"$schema": 7}, False),
    "closed beside patterns": (
        {"properties": {"a": {"patternProperties": {"^x": {}}}}, "additionalProperties": False},
        {"b": 1},
        False,
    ),
    "false within": ({"properties": {"a": False}}, {"a": 1}, False),
    "true within": ({"properties": {"a": True}}, {"a": 1}, True),
    "one and true": ({"enum": [1, "a"]}, True, False),
    "one and one": ({"enum": [1.0]}, 1, True),
    "nought and false": ({"uniqueItems": True}, [0, False, [0], [False], {"a": 0}, {"a": False}], True),
    "equal objects": ({"uniqueItems": True}, [{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False),
    "an empty list": ({"enum": []}, [], False),
    "a tree": (
        {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}},
        [[[], [[]]], 7],
        False,
    ),
}


@pytest.mark.parametrize(("schema", "value", "valid"), TOLD_APART.values(), ids=TOLD_APART)
def test_a_value_is_told_from_another(schema: dict[str, Any], value: object, valid: bool) -> None:
    require_usable(schema)
    assert (follow(schema, json.dumps(value))[1] == "") is valid


def test_five_thousand_plain_rows_are_no_more_than_can_be_checked() -> None:
    row = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
    text = json.dumps([{"a": each} for each in range(5000)])
    assert follow({"type": "array", "items": row}, text) == (text, "")


@pytest.mark.parametrize(
    ("schema", "marked"),
    [
        ({"pattern": "^a$"}, ["pattern"]),
        ({"items": {"patternProperties": {"a": {"pattern": "b"}}}}, ["pattern", "patternProperties"]),
        ({"properties": {"pattern": {"type": "string"}}}, []),
        (AGE, []),
    ],
)
async def test_what_is_not_evaluated_is_said(
    sandbox: Sandbox, say: Saying, schema: dict[str, Any], marked: list[str]
) -> None:
    say("7" if schema is not AGE else GOOD)
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi", model=KEEPS, schema=schema)
    assert record["valid"]
    assert not_checked(schema) == marked
    assert (f"[note: not checked here: {', '.join(marked)}]" in text) is bool(marked)
    assert bodies(sandbox)[0]["response_format"]["json_schema"]["schema"] == schema


NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 1.5, "", "a", "bb"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])


def _keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    counts = st.integers(0, 3)
    several = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES,
            "enum": st.lists(VALUES, max_size=4),
            "const": VALUES,
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "required": st.lists(NAMES, unique=True, max_size=2),
            "additionalProperties": inner,
            "unevaluatedProperties": inner,
            "propertyNames": inner,
            "dependentSchemas": st.dictionaries(NAMES, inner, max_size=2),
            "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, unique=True, max_size=2), max_size=2),
            "items": inner,
            "prefixItems": several,
            "contains": inner,
            "minContains": counts,
            "unevaluatedItems": inner,
            "uniqueItems": st.booleans(),
            "minItems": counts,
            "maxProperties": counts,
            "minimum": st.integers(-2, 2),
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "maxLength": counts,
            "allOf": several,
            "anyOf": several,
            "oneOf": several,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
        },
    )


SCHEMAS = st.recursive(st.booleans() | _keywords(st.booleans()), _keywords, max_leaves=6).filter(
    lambda schema: isinstance(schema, dict) and bool(schema)
)


@given(SCHEMAS, VALUES)
def test_without_patterns_it_is_what_the_standard_says(schema: dict[str, Any], value: object) -> None:
    require_usable(schema)
    said, problem = follow(schema, json.dumps(value))
    assert said == json.dumps(value)
    assert (problem == "") is Draft202012Validator(schema).is_valid(value)


ODD_NAMES = (
    st.sampled_from(["$ref", "$id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$schema", "$defs", "allOf", "items"])
    | st.sampled_from(["properties", "required", "pattern", "patternProperties", "additionalProperties", "foo"])
    | st.sampled_from(["unevaluatedItems", "unevaluatedProperties", "multipleOf", "dependentSchemas", "enum"])
)
ODD_TEXTS = st.sampled_from(["#", "#/foo", "#a", "#/$defs/a", "#/%25", "#/allOf/0", "urn:a", "http://[", "a", *DRAFTS])
ODD = st.recursive(
    VALUES | ODD_TEXTS,
    lambda inner: st.dictionaries(ODD_NAMES, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(ODD_NAMES, ODD, max_size=5), VALUES)
def test_whatever_the_schema_it_is_refused_or_the_answer_is_judged(schema: dict[str, Any], value: object) -> None:
    if not usable(schema):
        return
    response_format(schema)
    not_checked(schema)
    follow(schema, json.dumps(value))


async def test_what_the_sandbox_makes_of_a_plain_schema_is_valid(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        _, record, _ = await ask(client, **ASKED)
    assert record["valid"]
    assert len(sandbox.chats) == 1


async def test_a_refusal_is_marked_and_not_asked_to_be_mended(sandbox: Sandbox) -> None:
    refusal = {"message": {"content": None, "refusal": "I will not."}, "finish_reason": "stop"}
    sandbox.fail(Fault(json={"choices": [refusal]}))
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi", model="globex/large:free", schema={"type": "object"})
    assert len(sandbox.chats) == 1
    assert record["refused"] is True
    assert record["valid"] is False
    assert "I will not." in text
