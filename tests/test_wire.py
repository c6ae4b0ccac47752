"""OpenRouter's JSON, healthy and broken."""

import json
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrouter_mcp import records
from openrouter_mcp.chat import ChatRequest, chat_body
from openrouter_mcp.errors import BadReply, Blocked, NoProvider, TooLarge, Upstream
from openrouter_mcp.reading import Lines
from openrouter_mcp.sandbox.models import catalogue
from openrouter_mcp.text import encodable
from openrouter_mcp.wire import Call, Event, Usage, read_event, read_json

# --- lines ----------------------------------------------------------------------------------------------------------

STREAMS = st.lists(
    st.sampled_from([b"data: {}", b": OPENROUTER PROCESSING", b"\n", b"\n", b"\r\n", b"\r", b"\xe2\x82\xac"])
    | st.binary(max_size=4)
).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(stream=STREAMS, cuts=st.lists(st.integers(0, 60)))
def test_any_split_of_a_stream_gives_the_same_lines(stream: bytes, cuts: list[int]) -> None:
    lines = Lines()
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    found = [line for start, end in pairwise(edges) for line in lines.feed(stream[start:end])]
    *complete, rest = stream.split(b"\n")
    assert found == [line.rstrip(b"\r") for line in complete]
    assert lines.end() == rest


def test_a_line_ends_with_or_without_a_carriage_return() -> None:
    lines = Lines()
    assert lines.feed(b"data: 1\r") == []
    assert lines.feed(b"\ndata: 2\n\r\nda") == [b"data: 1", b"data: 2", b""]
    assert lines.end() == b"da"


def test_a_line_may_reach_the_limit_but_not_pass_it() -> None:
    lines = Lines(limit=10)
    assert lines.feed(b"x" * 10) == []
    assert lines.feed(b"\n") == [b"x" * 10]
    assert lines.feed(b"x" * 10) == []
    with pytest.raises(TooLarge):
        lines.feed(b"x")


@pytest.mark.parametrize("piece", [b"x" * 11 + b"\n", b"\n" + b"x" * 11, b"\n" + b"x" * 11 + b"\n"], ids=str)
def test_a_line_over_the_limit_is_refused_however_it_is_cut(piece: bytes) -> None:
    with pytest.raises(TooLarge):
        Lines(limit=10).feed(piece)


# --- events ---------------------------------------------------------------------------------------------------------


def delta(**fields: object) -> dict[str, object]:
    return {"id": "gen-1", "model": "acme/tiny", "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


GARBAGE: list[object] = [
    None, 5, "x", [], {}, {"choices": None}, {"choices": {}}, {"choices": [None]}, {"choices": [[]]},
    {"choices": [{"delta": "x"}]}, {"choices": [{"delta": {"content": 5}}]}, {"usage": [], "id": 5, "model": {}},
    {"error": None}, {"error": {}},
]  # fmt: skip
NAMED = Event(model="acme/tiny", generation_id="gen-1")


@pytest.mark.parametrize(
    ("data", "event"),
    [
        pytest.param(delta(content="Hi"), Event(text="Hi", model="acme/tiny", generation_id="gen-1"), id="text"),
        pytest.param(delta(content=None), NAMED, id="null content"),
        pytest.param(delta(role="assistant", content=""), NAMED, id="empty content"),
        pytest.param(delta(content=[{"type": "text", "text": "a"}, {"type": "image_url"}, 5, None, {"text": "b"}]),
                     Event(text="ab", model="acme/tiny", generation_id="gen-1"), id="content in parts"),
        pytest.param(delta(content="", reasoning="Hm", reasoning_details=[{"type": "reasoning.text", "text": "Hm"}]),
                     Event(reasoning="Hm", model="acme/tiny", generation_id="gen-1"), id="reasoning"),
        pytest.param({"choices": [{"delta": {}, "finish_reason": "stop"}]}, Event(finish_reason="stop"), id="finish"),
        pytest.param({"choices": [{"delta": {"content": ""}, "finish_reason": "length"}], "provider": "Acme Cloud"},
                     Event(finish_reason="length", provider="Acme Cloud"), id="finish, provider"),
        pytest.param({"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]},
                     Event(text="Hi", finish_reason="stop"), id="whole reply"),
        pytest.param({"choices": [], "usage": {"prompt_tokens": 194, "completion_tokens": 2, "total_tokens": 196,
                                               "completion_tokens_details": {"reasoning_tokens": 1}}},
                     Event(usage=Usage(prompt_tokens=194, completion_tokens=2, reasoning_tokens=1)), id="usage chunk"),
        pytest.param({"choices": [], "usage": {"prompt_tokens": "9", "completion_tokens": -1, "cost": None,
                                               "completion_tokens_details": None}},
                     Event(usage=Usage()), id="odd usage"),
        pytest.param({"choices": [], "debug": {"echo_upstream_body": {}}}, Event(), id="debug chunk"),
        pytest.param({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}, Event(calls=((0, Call()),)),
                     id="tool call"),
        *(pytest.param(odd, Event(), id=f"garbage {odd!r}") for odd in GARBAGE),
    ],
)  # fmt: skip
def test_an_event_says_what_it_carries(data: object, event: Event) -> None:
    assert read_event(data) == event


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param({"error": {"code": "server_error", "message": "Disconnected"},
                      "choices": [{"delta": {"content": ""}, "finish_reason": "error"}]}, Upstream, id="string code"),
        pytest.param({"error": {"code": 404, "message": "No endpoints"}}, NoProvider, id="instead of an answer"),
        pytest.param({"choices": [{"message": {"content": "partial"}, "finish_reason": "error",
                                   "error": {"code": 502, "message": "Disconnected"}}]}, Upstream, id="in the choice"),
        pytest.param({"choices": [{"delta": {}, "error": {"code": 403, "message": "Flagged"}}]}, Blocked, id="refusal"),
    ],
)  # fmt: skip
def test_an_error_inside_a_good_reply_is_found(data: dict[str, Any], error: type[Exception]) -> None:
    assert type(read_event(data).failure) is error


def test_text_beside_an_error_is_kept() -> None:
    event = read_event({"choices": [{"message": {"content": "partial"}, "error": {"code": 502}}]})
    assert (event.text, type(event.failure)) == ("partial", Upstream)


@pytest.mark.parametrize(
    ("number", "cost"),
    [
        ("0", Decimal(0)),
        ("0.0", Decimal(0)),
        ("0.00095", Decimal("0.00095")),
        ("0.1000000000000000055", Decimal("0.1000000000000000055")),
        ("1e-7", Decimal("0.0000001")),
        ("3", Decimal(3)),
        *((odd, None) for odd in ("-0.5", "null", "true", "false", "NaN", "Infinity", "-Infinity", "1e999", "-1e999",
                                  '"0"', '"0.5"', "[]", "{}")),
    ],
)  # fmt: skip
def test_a_cost_is_exact_or_not_known(number: str, cost: Decimal | None) -> None:
    usage = read_event(read_json(b'{"choices":[],"usage":{"cost":%s}}' % number.encode())).usage
    assert usage is not None
    assert usage.cost == cost
    assert usage.unclear == (cost is None and number != "null")


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e99999999999999999999", "1e-99999999999999999999", "1e-999999"],
                         ids=lambda number: number[:24])  # fmt: skip
def test_a_cost_beyond_reason_is_not_known(number: str) -> None:
    usage = read_event(read_json(b'{"choices":[],"usage":{"cost":%s}}' % number.encode())).usage
    assert usage is not None
    assert usage.cost is None


def test_a_token_count_of_true_is_no_count() -> None:
    assert read_event({"usage": {"prompt_tokens": True}}).usage == Usage()
    assert type(getattr(read_event({"usage": {"prompt_tokens": True}}).usage, "prompt_tokens", 0)) is int


TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.decimals(allow_nan=False) | TEXT
JSON = st.recursive(
    SCALARS, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3), max_leaves=6
)


def likely(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with some of the keys that are read, or anything."""
    return st.fixed_dictionaries({}, optional=known) | JSON


MESSAGES = likely(content=st.lists(likely(text=JSON), max_size=3) | JSON, reasoning=JSON)
ERRORS = likely(code=JSON, message=JSON, metadata=JSON)
CHUNKS = likely(
    choices=st.lists(likely(delta=MESSAGES, message=MESSAGES, finish_reason=JSON, error=ERRORS), max_size=2) | JSON,
    usage=likely(prompt_tokens=JSON, completion_tokens=JSON, cost=JSON, completion_tokens_details=JSON),
    error=ERRORS, model=JSON, provider=JSON, id=JSON,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(CHUNKS)
def test_no_event_is_too_odd_to_read(chunk: object) -> None:
    event = read_event(chunk)
    for text in (event.text, event.reasoning, event.finish_reason, event.model, event.provider, event.generation_id):
        assert isinstance(text, str)
    cost = event.usage and event.usage.cost
    assert cost is None or (isinstance(cost, Decimal) and cost.is_finite())


@pytest.mark.parametrize("data", [b"", b"<html>", b"{", b"\xff\xfe", b"[" * 200_000, b"9" * 5000], ids=lambda d: d[:8])
def test_what_is_not_json_is_a_bad_reply(data: bytes) -> None:
    with pytest.raises(BadReply):
        read_json(data)


def test_keep_alive_newlines_before_a_body_do_no_harm() -> None:
    assert read_json(b'\n\n  \n{"a": 0.10}') == {"a": Decimal("0.10")}


# --- what we send ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(model=TEXT, prompt=TEXT, system=TEXT, max_tokens=st.integers(1, 10**6))
def test_the_body_holds_exactly_the_allowed_fields(model: str, prompt: str, system: str, max_tokens: int) -> None:
    request = ChatRequest(model, prompt, system=system, max_tokens=max_tokens)
    body = json.loads(chat_body(request, max_price={"prompt": "0"}))
    instruction = [{"role": "system", "content": encodable(system)}] if system else []
    assert body == {
        "model": model,
        "messages": [*instruction, {"role": "user", "content": encodable(prompt)}],
        "max_tokens": max_tokens,
        "stream": True,
        "provider": {"max_price": {"prompt": "0"}},
        "plugins": [{"id": "web", "enabled": False}, {"id": "fusion", "enabled": False}],
    }


# --- the catalogue and the account ----------------------------------------------------------------------------------

GOOD = {"id": "acme/tiny:free", "pricing": {"prompt": "0", "completion": "0"}}
BROKEN: list[object] = [
    None, 5, "acme/tiny", [], {}, {"id": ""}, {"id": 5}, {"id": None}, {"id": "a/\ud800"},
]  # fmt: skip


def test_a_broken_row_of_the_catalogue_is_left_out() -> None:
    assert [model.id for model in records.read_models({"data": [*BROKEN, GOOD, *BROKEN]})] == ["acme/tiny:free"]


def test_an_odd_field_counts_as_left_out() -> None:
    odd: dict[str, object] = {
        "name": None, "created": "x", "context_length": "many", "architecture": None, "pricing": "free",
        "top_provider": [], "supported_parameters": None, "expiration_date": 7, "benchmarks": "good",
    }  # fmt: skip
    assert records.read_models({"data": [{"id": "a/b", **odd}]}) == [records.Model(id="a/b")]


def test_every_row_of_the_real_shape_is_read() -> None:
    rows = json.loads(json.dumps(catalogue(date(2026, 11, 20))))
    models = records.read_models({"data": rows, "total_count": len(rows), "links": {"next": None}})
    assert [model.id for model in models] == [row["id"] for row in rows]
    assert [model.pricing for model in models] == [row["pricing"] for row in rows]
    assert {model.id: model.family for model in models}["acme/tiny:free"] == "acme"


@pytest.mark.parametrize(
    "data", [None, 5, "x", [], [GOOD], {}, {"data": None}, {"data": []}, {"data": {}}, {"data": BROKEN}], ids=repr
)
def test_a_list_without_a_readable_model_is_a_bad_reply(data: object) -> None:
    with pytest.raises(BadReply):
        records.read_models(data)


OLD_KEY = {"label": "sk-or-v1-au7...890", "limit": 100, "limit_remaining": Decimal("74.5"), "limit_reset": "monthly",
           "usage": Decimal("25.5"), "usage_daily": Decimal("0.1"), "usage_monthly": Decimal("25.5"),
           "is_free_tier": False, "rate_limit": {"requests": -1, "interval": "10s"}}  # fmt: skip


def test_a_key_is_read_without_the_newer_fields() -> None:
    key = records.read_key({"data": OLD_KEY})
    assert (key.limit, key.limit_remaining, key.usage_daily) == (Decimal(100), Decimal("74.5"), Decimal("0.1"))
    assert (key.limit_reset, key.free_model_daily_requests, key.expires_at) == ("monthly", None, None)


def test_a_key_tells_the_days_free_requests_where_openrouter_does() -> None:
    requests = {"used": 12, "limit": 50, "remaining": 38}
    key = records.read_key({"data": {**OLD_KEY, "limit": None, "free_model_daily_requests": requests, "budgets": []}})
    assert key.limit is None
    assert key.free_model_daily_requests == records.FreeRequests(**requests)


@pytest.mark.parametrize("data", [None, 5, [], {}, {"data": None}, {"data": []}], ids=repr)
def test_an_unreadable_key_is_a_bad_reply(data: object) -> None:
    with pytest.raises(BadReply):
        records.read_key(data)


@pytest.mark.parametrize("data", [None, {}, {"data": None}, {"data": {"total_credits": 5}},
                                  {"data": {"total_credits": "x", "total_usage": 0}},
                                  {"data": {"total_credits": 0, "total_usage": 0}},
                                  {"data": {"total_credits": Decimal("0.0"), "total_usage": 0}}], ids=repr)  # fmt: skip
def test_credits_of_nothing_at_all_are_not_known(data: object) -> None:
    assert records.read_credits(data) is None


@pytest.mark.parametrize(("bought", "used"), [("100.5", "25.75"), ("0", "0.01"), ("5", "0"), ("5", "7.5")])
def test_credits_are_exact(bought: str, used: str) -> None:
    data = read_json(f'{{"data":{{"total_credits":{bought},"total_usage":{used}}}}}'.encode())
    assert records.read_credits(data) == records.Credits(total_credits=Decimal(bought), total_usage=Decimal(used))


@pytest.mark.parametrize(
    "odd", [{"usage_daily": "lots"}, {"free_model_daily_requests": {"used": 1}}, {"expires_at": 5}], ids=repr
)
def test_an_odd_fact_about_the_key_hides_no_other(odd: dict[str, object]) -> None:
    key = records.read_key({"data": {**OLD_KEY, **odd}})
    assert key.limit_remaining == records.read_key({"data": OLD_KEY}).limit_remaining
    assert getattr(key, next(iter(odd))) is None
