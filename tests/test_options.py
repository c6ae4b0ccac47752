"""The rare options: what an agent writes, what leaves for OpenRouter, and what is refused before anything does."""

import functools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import bpe_openai
import pytest
from budgets import WORST, booked, budget
from budgets import served as with_budget
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mcp_types import TextResourceContents
from support import ERAS, SETTINGS, ask, connected

from openrouter_mcp import options
from openrouter_mcp.chat import ChatRequest, chat_body
from openrouter_mcp.errors import InvalidRequest
from openrouter_mcp.options import MaxPrice, Options, Provider
from openrouter_mcp.policy import Privacy
from openrouter_mcp.pricing import most_prompt_tokens
from openrouter_mcp.sandbox import Fault, Sandbox, faults

SCHEMA = Path("/work/shared/openrouter-openapi.yaml")
FREE = "globex/large:free"  # reasons and calls tools
OTHER = "hooli/thinker:free"  # so does this
PLAIN = "tyrell/polyglot:free"  # does neither
NOTHING = dict.fromkeys(("prompt", "completion", "request", "image", "audio"), "0")
NO_PLUGINS = [{"id": "web", "enabled": False}, {"id": "fusion", "enabled": False}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "default": None}}}
NAMED = {"type": "function", "function": {"name": "look"}}

# --- what reaches OpenRouter ------------------------------------------------------------------------------------------


def provider(**said: Any) -> dict[str, Any]:
    return {"provider": {"max_price": NOTHING} | said}


# What the agent writes, and how the body then differs from one without options.
SENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "temperature": ({"temperature": 0}, {"temperature": 0}),
    "top_p": ({"top_p": 0.9}, {"top_p": 0.9}),
    "top_k": ({"top_k": 40}, {"top_k": 40}),
    "min_p": ({"min_p": 0.05}, {"min_p": 0.05}),
    "top_a": ({"top_a": 1}, {"top_a": 1}),
    "frequency_penalty": ({"frequency_penalty": -2}, {"frequency_penalty": -2}),
    "presence_penalty": ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
    "repetition_penalty": ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
    "seed": ({"seed": -7}, {"seed": -7}),
    "stop": ({"stop": ["END", "\n"]}, {"stop": ["END", "\n"]}),
    "one stop": ({"stop": "END"}, {"stop": ["END"]}),
    "logit_bias": ({"logit_bias": {"50256": -100}}, {"logit_bias": {"50256": -100}}),
    "logprobs": ({"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
    "reasoning_effort": ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
    "no reasoning": ({"reasoning_effort": "none"}, {"reasoning": {"effort": "none"}}),
    "show_reasoning": ({"show_reasoning": True}, {}),
    "verbosity": ({"verbosity": "low"}, {"verbosity": "low"}),
    "fallbacks": ({"fallbacks": [OTHER]}, {"models": [OTHER]}),
    "provider.order": ({"provider": {"order": ["globex", "acme"]}}, provider(order=["globex", "acme"])),
    "provider.only": ({"provider": {"only": ["globex"]}}, provider(only=["globex"])),
    "provider.ignore": ({"provider": {"ignore": ["acme"]}}, provider(ignore=["acme"])),
    "provider.allow_fallbacks": ({"provider": {"allow_fallbacks": False}}, provider(allow_fallbacks=False)),
    "provider.require_parameters": ({"provider": {"require_parameters": True}}, provider(require_parameters=True)),
    "provider.data_collection": ({"provider": {"data_collection": "deny"}}, provider(data_collection="deny")),
    "provider.zdr": ({"provider": {"zdr": True}}, provider(zdr=True)),
    "provider.quantizations": ({"provider": {"quantizations": ["fp8"]}}, provider(quantizations=["fp8"])),
    "provider.sort": ({"provider": {"sort": "exacto"}}, provider(sort="exacto")),
    "provider.preferred_min_throughput": (
        {"provider": {"preferred_min_throughput": 50}},
        provider(preferred_min_throughput=50),
    ),
    "provider.preferred_max_latency": (
        {"provider": {"preferred_max_latency": 2.5}},
        provider(preferred_max_latency=2.5),
    ),
    "provider.max_price": ({"provider": {"max_price": {"prompt": 5, "completion": "1.5", "request": 1}}}, provider()),
    "compress": ({"compress": True}, {"plugins": [*NO_PLUGINS, {"id": "context-compression", "enabled": True}]}),
    "no compress": ({"compress": False}, {"plugins": [*NO_PLUGINS, {"id": "context-compression", "enabled": False}]}),
    "web_search": (
        {"web_search": 3},
        {"plugins": [{"id": "web", "enabled": True, "engine": "exa", "max_results": 3}, NO_PLUGINS[1]]},
    ),
    "cache": ({"cache": "1h"}, {"cache_control": {"type": "ephemeral", "ttl": "1h"}}),
    "session": ({"session": "review"}, {"session_id": "review"}),
    "tools": ({"tools": [TOOL]}, {"tools": [TOOL]}),
    "tool_choice": ({"tools": [TOOL], "tool_choice": "none"}, {"tools": [TOOL], "tool_choice": "none"}),
    "tool_choice by name": ({"tools": [TOOL], "tool_choice": NAMED}, {"tools": [TOOL], "tool_choice": NAMED}),
    "nothing": ({}, {}),
    "null": (dict.fromkeys(set(Options.model_fields) - {"show_reasoning", "fallbacks"}), {}),
    "numbers as text": ({"temperature": "0.5", "web_search": None}, {"temperature": 0.5}),
}
COMPARED = {name: row for name, row in SENT.items() if name != "fallbacks"}


async def bodies(sandbox: Sandbox, written: dict[str, Any], tool: str = "ask_model") -> list[dict[str, Any]]:
    """What reaches OpenRouter for these options."""
    models = {"model": FREE} if tool == "ask_model" else {"models": [FREE, OTHER]}
    async with connected(sandbox, settings=budget("1")) as client:
        await ask(client, tool, prompt="Hi", max_tokens=100, options=written, **models)
    return [chat.body for chat in sandbox.chats]


@pytest.mark.parametrize(("written", "changes"), SENT.values(), ids=SENT)
async def test_an_option_of_ask_model_reaches_openrouter_and_nothing_else_does(
    sandbox: Sandbox, written: dict[str, Any], changes: dict[str, Any]
) -> None:
    usual: dict[str, Any] = {"model": FREE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
    usual |= {"stream": True, "provider": {"max_price": NOTHING}, "plugins": NO_PLUGINS}
    assert await bodies(sandbox, written) == [usual | changes]


@pytest.mark.parametrize(("written", "changes"), COMPARED.values(), ids=COMPARED)
async def test_an_option_of_compare_models_reaches_each_model(
    sandbox: Sandbox, written: dict[str, Any], changes: dict[str, Any]
) -> None:
    sent = await bodies(sandbox, written, "compare_models")
    assert sorted(body["model"] for body in sent) == [FREE, OTHER]
    for body in sent:
        assert {name: body[name] for name in changes} == changes
        assert set(body) == {"model", "messages", "max_tokens", "stream", "provider", "plugins"} | set(changes)


@pytest.mark.parametrize(("written", "_"), SENT.values(), ids=SENT)
async def test_each_body_is_one_that_openrouters_own_description_accepts(
    sandbox: Sandbox, written: dict[str, Any], _: dict[str, Any]
) -> None:
    for body in await bodies(sandbox, written):
        assert_described(body)


def assert_described(body: dict[str, Any]) -> None:
    """`body` is a `ChatRequest` of OpenRouter's; skips where its description is not at hand."""
    if not SCHEMA.exists():
        pytest.skip(f"OpenRouter's description is no part of this repository: {SCHEMA} is not there")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    described = description()
    jsonschema.Draft202012Validator({"$ref": "#/components/schemas/ChatRequest"} | described).validate(body)
    known = described["components"]["schemas"]["ChatRequest"]["properties"]
    assert set(body) <= {*known, "verbosity"}  # which OpenRouter's guides describe, and this does not


@functools.cache
def description() -> dict[str, Any]:
    """OpenRouter's own description of its API."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    described: dict[str, Any] = yaml.load(SCHEMA.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return described


def test_the_table_has_every_option() -> None:
    rows = {name for written, _ in SENT.values() for name in written}
    assert set(Options.model_fields) - {"tool_results"} <= rows
    said = {name for written, _ in SENT.values() for name in written.get("provider") or {}}
    assert said == set(Provider.model_fields)


# --- bad input --------------------------------------------------------------------------------------------------------

ALL = "Known are temperature, top_p, "
WRONG: dict[str, tuple[Any, str]] = {
    "a number in words": ({"temperature": "hot"}, "options.temperature must be a number."),
    "a number in pieces": ({"temperature": {"a": [1]}}, "options.temperature must be a number."),
    "above the range": ({"temperature": 2.1}, "options.temperature must be 2.0 or less."),
    "below the range": ({"top_k": -1}, "options.top_k must be 0 or more."),
    "half a seed": ({"seed": 1.5}, "options.seed must be a whole number."),
    "an endless seed": ({"seed": 10**30}, "options.seed must be 9223372036854775807 or less."),
    "no number": ({"top_p": "nan"}, "options.top_p must be a finite number."),
    "a word that is none of them": ({"verbosity": "loud"}, "must be 'low', 'medium' or 'high'."),
    "neither true nor false": ({"provider": {"zdr": "perhaps"}}, "options.provider.zdr must be true or false."),
    "one for a list": ({"provider": {"only": "acme"}}, "options.provider.only must be a list."),
    "five stops": ({"stop": [*"abcde"]}, "options.stop must have 4 entries or fewer."),
    "an empty stop": ({"stop": ""}, "options.stop.0 must not be empty."),
    "a bias on a word": ({"logit_bias": {"the": 1}}, "options.logit_bias.the must match ^[0-9]{1,10}$."),
    "a heavy bias": ({"logit_bias": {"1": 101}}, "options.logit_bias.1 must be 100.0 or less."),
    "301 biases": ({"logit_bias": dict.fromkeys(map(str, range(301)), 1)}, "must have 300 entries or fewer."),
    "a price below nothing": ({"provider": {"max_price": {"prompt": -1}}}, "prompt must be 0 or more."),
    "a price of many digits": ({"provider": {"max_price": {"prompt": "1e-300"}}}, "prompt has too many digits."),
    "three fallbacks": ({"fallbacks": [FREE] * 3}, "options.fallbacks must have 2 entries or fewer."),
    "many results": ({"web_search": 11}, "options.web_search must be 10 or less."),
    "a long session": ({"session": "x" * 257}, "options.session must have 256 characters or fewer."),
    "a name with a blank": (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "name must match ^[a-zA-Z0-9_-]",
    ),
    "a tool that costs": ({"tools": [{"type": "openrouter:web_search"}]}, "options.tools.0.type must be 'function'."),
    "no tools at all": ({"tools": []}, "options.tools must have 1 or more entries."),
    "tools that are none": ({"tools": [7]}, "options.tools.0 must be an object."),
    "a choice that is none": ({"tools": [TOOL], "tool_choice": "any"}, "must be 'none', 'auto' or 'required'."),
    "a list": ([], "options must be an object."),
    "text": ("fast", "options must be an object."),
    "a number": (7, "options must be an object."),
    # unknown, at every level
    "a misspelt option": ({"temprature": 1}, "Unknown option 'temprature'. Did you mean temperature?"),
    "an argument of the tool": ({"max_tokens": 5}, f"Unknown option 'max_tokens'. {ALL}"),
    "OpenRouter's own spelling": ({"reasoning": {"effort": "low"}}, "Did you mean show_reasoning?"),
    "no name": ({"": 1}, f"Unknown option ''. {ALL}"),
    "a name of two lines": ({"a\n[b]": 1}, f"Unknown option 'a [b]'. {ALL}"),
    "a name without an end": ({"x" * 10**6: 1}, f"…'. {ALL}"),
    "in provider": ({"provider": {"sortt": "price"}}, "Unknown option 'provider.sortt'. Did you mean sort?"),
    "in max_price": ({"provider": {"max_price": {"promt": 1}}}, "'provider.max_price.promt'. Did you mean prompt?"),
    "an image's price": ({"provider": {"max_price": {"image": 1}}}, "Known are prompt, completion, request."),
    "in a tool": ({"tools": [NAMED | {"cache_control": {}}]}, "'tools.0.cache_control'. Known are type, function."),
    "in a function": (
        {"tools": [{"type": "function", "function": {"name": "f", "parametres": {}}}]},
        "Unknown option 'tools.0.function.parametres'. Did you mean parameters?",
    ),
    "in a choice": (
        {"tools": [TOOL], "tool_choice": NAMED | {"function": {"name": "look", "named": 1}}},
        "Unknown option 'tool_choice.function.named'. Did you mean name?",
    ),
    "in a result": (
        {"tool_results": [{"tool_call_id": "x", "content": "y", "contents": "z"}]},
        "Unknown option 'tool_results.0.contents'. Did you mean content?",
    ),
    "what only looks like ours": ({"Options": 1}, f"Unknown option 'Options'. {ALL}"),
    # together
    "top_logprobs alone": ({"top_logprobs": 3}, "top_logprobs needs logprobs: true."),
    "top_logprobs without": ({"logprobs": False, "top_logprobs": 3}, "top_logprobs needs logprobs: true."),
    "tool_choice alone": ({"tool_choice": "auto"}, "tool_choice needs tools."),
    "a choice of no tool": (
        {"tools": [NAMED], "tool_choice": NAMED | {"function": {"name": "jump"}}},
        "tool_choice names none of the tools: look.",
    ),
    "results of nothing": (
        {"tool_results": [{"tool_call_id": "x", "content": "y"}]},
        "options.tool_results need continue_from",
    ),
    "several at once": (
        {"temperature": 3, "top_p": 2, "seed": "x", "top_k": -1},
        "options.top_k must be 0 or more.",
    ),
}


@pytest.mark.parametrize("tool", ["ask_model", "compare_models"])
@pytest.mark.parametrize(("written", "words"), WRONG.values(), ids=WRONG)
async def test_a_wrong_option_is_named_in_one_line_and_nothing_is_sent(
    sandbox: Sandbox, tool: str, written: Any, words: str
) -> None:
    models = {"model": FREE} if tool == "ask_model" else {"models": [FREE, OTHER]}
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, tool, prompt="Hi", options=written, **models)
    if words.startswith("options.tool_results need") and tool == "compare_models":
        words = "options.fallbacks and options.tool_results are for ask_model"
    assert (is_error, record["code"]) == (True, "invalid_request")
    assert words in text
    assert "\n" not in text
    assert len(text) < 450
    assert not any(word in text for word in ("pydantic", "NamedTool", "[key]", "Input should", "String should"))
    assert sandbox.chats == []


@pytest.mark.parametrize("model", ["", "openrouter/free"], ids=["none", "the free router"])
async def test_fallbacks_are_for_a_model_that_is_named(sandbox: Sandbox, model: str) -> None:
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi", model=model, options={"fallbacks": [FREE]})
    assert record["code"] == "invalid_request"
    assert "options.fallbacks are for a named model" in text
    assert sandbox.chats == []


@pytest.mark.parametrize(
    ("written", "lacks"),
    [
        ({"reasoning_effort": "low"}, "reason (reasoning_effort)"),
        ({"tools": [TOOL]}, "call tools"),
        ({"tools": [TOOL], "reasoning_effort": "low"}, "call tools or reason (reasoning_effort)"),
    ],
    ids=["reasoning", "tools", "both"],
)
async def test_a_model_that_cannot_is_not_asked_and_ones_that_can_are_named(
    sandbox: Sandbox, written: dict[str, Any], lacks: str
) -> None:
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi", model=PLAIN, options=written)
        assert (record["code"], sandbox.chats) == ("invalid_request", [])
        assert f"{PLAIN!r} cannot {lacks}. Nothing was sent. {FREE} and " in text
        named = text.partition("Nothing was sent. ")[2].partition(" can.")[0].split(" and ")
        for model in named:
            _, _, is_error = await ask(client, prompt="Hi", model=model, options=written)
            assert not is_error
        fallbacks = {"fallbacks": [PLAIN]} | written
        text, record, _ = await ask(client, prompt="Hi", model=FREE, options=fallbacks)
        assert (record["code"], len(sandbox.chats)) == ("invalid_request", len(named))
        text, record, _ = await ask(client, "compare_models", prompt="Hi", models=[PLAIN, FREE], options=written)
        assert [row.get("code") for row in record["rows"]] == ["invalid_request", None]


async def test_our_own_choice_is_of_models_that_can(sandbox: Sandbox) -> None:
    for row in sandbox.catalog:
        if row["id"] == PLAIN:
            row["benchmarks"] = {"artificial_analysis": {"intelligence_index": 99.0}}
    async with connected(sandbox) as client:
        _, record, _ = await ask(client, prompt="Hi")
        assert record["model"] == PLAIN
        _, record, is_error = await ask(client, prompt="Hi", options={"tools": [TOOL], "reasoning_effort": "low"})
    assert not is_error
    assert PLAIN not in [sandbox.chats[-1].body["model"], *sandbox.chats[-1].body["models"]]


# --- whatever is written ----------------------------------------------------------------------------------------------

BODY = {"model", "messages", "max_tokens", "stream", "provider", "plugins"}
FIELDS = BODY | {
    *("temperature", "top_p", "top_k", "min_p", "top_a", "frequency_penalty", "presence_penalty"),
    *("repetition_penalty", "seed", "stop", "logit_bias", "logprobs", "top_logprobs", "reasoning", "verbosity"),
    *("cache_control", "session_id", "tools", "tool_choice"),
}
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from([TOOL, NAMED])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from([*Options.model_fields, *Provider.model_fields]), st.text(max_size=8)),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
AMOUNTS = st.one_of(st.integers(-1, 10**6), st.floats(), st.decimals(allow_nan=True).map(str), st.just("1e3"), JSON)
MAX_PRICES = st.dictionaries(st.sampled_from([*MaxPrice.model_fields, "image"]), AMOUNTS, max_size=3)
PROVIDERS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(Provider.model_fields, JSON)
    | {
        "data_collection": st.sampled_from(["allow", "deny", None]),
        "zdr": st.sampled_from([True, False, None]),
        "max_price": MAX_PRICES,
    },
)
PROPER: dict[str, st.SearchStrategy[Any]] = {
    name: st.just(row[0][name]) for name, row in SENT.items() if name in row[0]
}
WRITTEN = st.one_of(
    JSON,
    st.builds(
        dict.__or__,
        st.fixed_dictionaries({}, optional=PROPER),
        st.fixed_dictionaries({"provider": PROVIDERS}, optional={"web_search": st.integers(1, 10), "zdr": JSON}),
    ),
    st.builds(
        dict.__or__,
        st.fixed_dictionaries({}, optional=PROPER),
        st.dictionaries(st.sampled_from([*Options.model_fields]), JSON, max_size=2),
    ),
    st.fixed_dictionaries({}, optional=PROPER | {"provider": PROVIDERS}),
)
PRICES = {"prompt": "0.15", "completion": "0.6", "request": "0", "image": "0", "audio": "0"}


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": schema}
    return schema


def with_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}


@given(written=WRITTEN, floor=st.sampled_from(Privacy), limits=st.sampled_from([NOTHING, PRICES]))
@example(with_parameters({"default": float("nan")}), Privacy.ANY, NOTHING)
@example(with_parameters({"default": object()}), Privacy.ANY, NOTHING)
@example(with_parameters(deep(100)), Privacy.ANY, NOTHING)
@example({"temperature": float("nan")}, Privacy.ANY, NOTHING)
@example({"seed": 10**4000}, Privacy.ANY, NOTHING)
@example({"provider": {"zdr": False, "data_collection": "allow"}}, Privacy.ZERO_RETENTION, PRICES)
@example({"provider": {"max_price": {"prompt": "1e9", "completion": 0.01}}}, Privacy.ANY, PRICES)
def test_whatever_is_written_no_limit_of_ours_is_loosened(written: Any, floor: Privacy, limits: dict[str, str]) -> None:
    try:
        rare = options.read(written)
    except InvalidRequest as refused:
        said = str(refused)
    else:
        said = ""
    assert "\n" not in said
    assert len(said) < 1000
    if said:
        return
    request = ChatRequest("acme/tiny", "Hi", options=rare)
    body = json.loads(chat_body(request, max_price=limits, privacy=floor.floor), parse_constant=no_constant)
    assert BODY <= set(body) <= FIELDS
    assert set(body["provider"]) <= set(Provider.model_fields)
    sent = body["provider"]["max_price"]
    assert set(sent) == set(limits)
    assert all(0 <= Decimal(sent[name]) <= Decimal(limit) for name, limit in limits.items())
    assert floor.floor.items() <= body["provider"].items()
    plugins = {plugin["id"]: plugin["enabled"] for plugin in body["plugins"]}
    assert len(plugins) == len(body["plugins"])
    assert plugins.pop("fusion") is False
    assert plugins.pop("web") is (rare.web_search is not None)
    assert set(plugins) <= {"context-compression"}
    assert all(tool["type"] == "function" for tool in body.get("tools", []))


@settings(max_examples=30, deadline=None)
@given(written=WRITTEN)
async def test_whatever_is_written_costs_nothing_where_nothing_may_be_spent(written: Any) -> None:
    sandbox = Sandbox()
    sandbox.account.default_plugins = ["web", "fusion"]
    async with connected(sandbox) as client:
        for arguments in ({"model": FREE}, {"model": "acme/tiny"}, {}):
            text, record, is_error = await ask(client, prompt="Hi", options=written, **arguments)
            assert not text.startswith("internal: ")
            assert not is_error or record["code"] in {"invalid_request", "not_free", "unknown_model", "privacy",
                                                      "no_provider", "minute_quota"}  # fmt: skip
    assert sandbox.bill == 0
    assert all(set(chat.body) <= FIELDS | {"models"} for chat in sandbox.chats)


def test_a_bound_on_nesting_leaves_room_for_schemas_that_people_write() -> None:
    assert options.read(with_parameters(deep(40))).tools
    for levels in (100, 100_000):
        with pytest.raises(InvalidRequest, match="nested deeper than 64 levels"):
            options.read(with_parameters(deep(levels)))


# --- money ------------------------------------------------------------------------------------------------------------

PAID: dict[str, Any] = {"prompt": "Hi", "model": "acme/tiny", "max_tokens": 100}
NIL = Decimal(0)
SEARCH_USD = Decimal("0.02")  # the most for each result


async def test_a_fallback_that_costs_is_refused_where_nothing_may_be_spent(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi", model=FREE, options={"fallbacks": [OTHER, "acme/tiny"]})
        assert record["code"] == "not_free"
        assert "'acme/tiny' costs $0.15 in, $0.60 out per million tokens" in text
        assert "Use acme/tiny:free." in text
    async with connected(sandbox, settings=budget("1")) as client:
        _, record, _ = await ask(client, prompt="Hi", model=FREE, options={"fallbacks": ["acme/tiny"]}, max_cost_usd=0)
        assert record["code"] == "not_free"
    assert sandbox.chats == []


async def test_the_dearest_of_the_fallbacks_is_held_and_what_it_cost_is_settled(sandbox: Sandbox) -> None:
    async with with_budget(sandbox) as (app, client):
        sandbox.fail(faults.server_error(503), model=FREE)
        sandbox.fail(Fault(cost=0.00004))
        await ask(client, prompt="Hi", model=FREE, max_tokens=100, options={"fallbacks": ["acme/tiny"]})
        (chat,) = sandbox.chats
        assert chat.body["models"] == ["acme/tiny"]
        assert chat.body["provider"]["max_price"] == NOTHING | {"prompt": "0.15", "completion": "0.6"}
        assert await booked(app) == (Decimal("0.00004"), NIL)
        sandbox.fail(Fault(then="reset"))
        await ask(client, prompt="Hi", model=FREE, max_tokens=100, options={"fallbacks": ["acme/tiny"]})
        assert await booked(app) == (Decimal("0.00004"), WORST)


async def test_the_free_router_as_a_fallback_counts_as_a_free_request(sandbox: Sandbox) -> None:
    async with with_budget(sandbox) as (app, client):
        sandbox.fail(faults.server_error(503), model="acme/tiny")
        _, record, is_error = await ask(client, **PAID, options={"fallbacks": ["openrouter/free"]})
        assert not is_error
        assert record["model"].endswith(":free")
        assert "warning" not in record
        assert (await app.ledger.standing()).use.minute == 1
    assert sandbox.bill == 0


@pytest.mark.parametrize("arguments", [{}, {"model": FREE}, {"model": "acme/tiny"}], ids=["any", "free", "priced"])
async def test_a_search_is_refused_with_its_price_where_nothing_may_be_spent(
    sandbox: Sandbox, arguments: dict[str, Any]
) -> None:
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi", options={"web_search": 5}, **arguments)
        assert record["code"] == "not_free"
        if arguments != {"model": "acme/tiny"}:
            assert "searches the web, which costs up to $0.10 with any model" in text
            assert "Ask without options.web_search." in text
        text, record, _ = await ask(client, "compare_models", prompt="Hi", options={"web_search": 5})
        assert {row["code"] for row in record["rows"]} == {"not_free"}
    assert sandbox.chats == []


@pytest.mark.parametrize("tool", ["ask_model", "compare_models"])
async def test_a_search_by_a_model_that_nobody_named_is_refused_at_any_budget_and_says_why(
    sandbox: Sandbox, tool: str
) -> None:
    async with connected(sandbox, settings=budget("5")) as client:
        text, _, is_error = await ask(client, tool, prompt="Hi", options={"web_search": 5})
    assert is_error
    assert "A call that names no model is free" in text
    assert "max_cost_usd" not in text
    assert sandbox.chats == []


async def test_a_search_is_held_at_its_worst_and_settled_at_what_it_cost(sandbox: Sandbox) -> None:
    """At the worst all of the context is read, for what is found is read too."""
    worst = 32_768 * Decimal("0.00000015") + 100 * Decimal("0.0000006") + 3 * SEARCH_USD
    async with with_budget(sandbox) as (app, client):
        _, record, _ = await ask(client, **PAID, options={"web_search": 3})
        cost = Decimal(record["cost_usd"])
        assert cost > Decimal("0.02")
        assert await booked(app) == (cost, NIL)
        sandbox.fail(Fault(then="reset"))
        await ask(client, **PAID, options={"web_search": 3})
        assert await booked(app) == (cost, worst)
    async with connected(sandbox, settings=budget("1", str(worst - Decimal("0.001")))) as client:
        _, record, _ = await ask(client, **PAID, options={"web_search": 3})
    assert record["code"] == "over_budget"
    assert len(sandbox.chats) == 2


async def test_a_search_by_a_free_model_holds_the_fee_and_uses_up_a_free_request(sandbox: Sandbox) -> None:
    async with with_budget(sandbox) as (app, client):
        sandbox.fail(Fault(then="reset"))
        await ask(client, prompt="Hi", model=FREE, options={"web_search": 2})
        assert await booked(app) == (NIL, 2 * SEARCH_USD)
        assert (await app.ledger.standing()).use.minute == 1
        assert sandbox.chats[-1].body["provider"]["max_price"] == NOTHING


@pytest.mark.parametrize("context", [None, 0, -5])
async def test_a_search_by_a_model_that_does_not_say_how_much_it_reads_has_no_bound(
    sandbox: Sandbox, context: int | None
) -> None:
    next(row for row in sandbox.catalog if row["id"] == "acme/tiny")["context_length"] = context
    async with connected(sandbox, settings=budget("5")) as client:
        text, record, _ = await ask(client, **PAID, options={"web_search": 1})
    assert record["code"] == "cannot_verify_price"
    assert "does not say how much it reads" in text
    assert sandbox.chats == []


async def test_max_price_of_a_call_only_lowers_ours(sandbox: Sandbox) -> None:
    async with connected(sandbox, settings=budget("1")) as client:
        for theirs in ({"prompt": 5, "completion": "0.5", "request": 3}, {"prompt": "0.1"}, {"completion": "1e3"}):
            await ask(client, **PAID, options={"provider": {"max_price": theirs}})
    sent = [chat.body["provider"]["max_price"] for chat in sandbox.chats]
    assert [(one["prompt"], one["completion"], one["request"]) for one in sent] == [
        ("0.15", "0.5", "0"),
        ("0.1", "0.6", "0"),
        ("0.15", "0.6", "0"),
    ]


async def test_a_cached_prompt_is_held_at_the_price_of_writing_it(sandbox: Sandbox) -> None:
    pricing = next(row for row in sandbox.catalog if row["id"] == "initech/cache")["pricing"]
    pricing["input_cache_write_1h"] = "0.000006"
    call: dict[str, Any] = {"prompt": "Hi", "model": "initech/cache", "max_tokens": 100, "options": {"cache": "1h"}}
    async with with_budget(sandbox) as (app, client):
        sandbox.fail(Fault(then="reset"))
        await ask(client, **call)
        worst = most_prompt_tokens(["Hi"]) * Decimal("0.000006") + 100 * Decimal("0.00002")
        assert await booked(app) == (NIL, worst)
    assert sandbox.chats[-1].body["provider"]["max_price"]["prompt"] == "6"


async def test_a_cache_whose_price_is_not_listed_is_refused(sandbox: Sandbox) -> None:
    async with with_budget(sandbox) as (_, client):
        text, record, _ = await ask(client, prompt="Hi", model="initech/cache", options={"cache": "1h"})
        assert record["code"] == "invalid_request"
        assert '{"cache": "5m"}' in text
        assert sandbox.chats == []
        await ask(client, prompt="Hi", model="initech/cache", options={"cache": "5m"})
    assert len(sandbox.chats) == 1


async def test_an_option_that_is_null_is_left_out(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        rare = dict.fromkeys(Options.model_fields)
        _, record, _ = await ask(client, prompt="Hi", model="acme/tiny:free", options=rare)
    assert record["status"] == "complete"


async def test_what_tools_are_described_by_is_counted_as_read(sandbox: Sandbox) -> None:
    described = TOOL | {"function": {"name": "look", "description": "x" * 1000}}
    async with with_budget(sandbox) as (app, client):
        sandbox.fail(Fault(then="reset"))
        await ask(client, **PAID, options={"tools": [described]})
        _, held = await booked(app)
    assert held >= WORST + 1000 * Decimal("0.00000015")


async def test_what_a_provider_adds_to_explain_tools_is_counted_as_read(sandbox: Sandbox) -> None:
    async with with_budget(sandbox) as (app, client):
        sandbox.fail(Fault(then="reset"))
        await ask(client, **PAID, options={"tools": [NAMED]})
        _, held = await booked(app)
    assert held >= WORST + 530 * Decimal("0.00000015")  # as much as any model has been seen to add


async def test_what_tools_are_described_by_counts_towards_the_longest_prompt(sandbox: Sandbox) -> None:
    described = TOOL | {"function": {"name": "look", "description": "x" * 2**20}}
    async with connected(sandbox) as client:
        _, record, _ = await ask(client, prompt="Hi", model=FREE, options={"tools": [described]})
    assert record["code"] == "too_large"
    assert sandbox.chats == []


# --- suffixes ---------------------------------------------------------------------------------------------------------

INSTEAD: dict[str, dict[str, Any]] = {
    "nitro": {"provider": {"sort": "throughput"}},
    "floor": {"provider": {"sort": "price"}},
    "exacto": {"provider": {"sort": "exacto"}},
    "online": {"web_search": 5},
}


@pytest.mark.parametrize("suffix", INSTEAD)
async def test_a_routing_suffix_is_refused_and_names_the_option_that_does_the_same(
    sandbox: Sandbox, suffix: str
) -> None:
    for settings_, model in ((SETTINGS, "acme/tiny:free"), (budget("1"), "acme/tiny")):
        async with connected(sandbox, settings=settings_) as client:
            text, _, is_error = await ask(client, prompt="Hi", model=f"{model}:{suffix}")
            assert is_error
            written = json.loads(text.partition("options ")[2].partition(" does the same")[0])
            assert written == INSTEAD[suffix]
            assert sandbox.chats == []
            _, record, _ = await ask(client, prompt="Hi", model=model, options=written)
            if settings_ is SETTINGS and suffix == "online":
                assert record["code"] == "not_free"
            else:
                assert record["status"] == "complete"
        sandbox.clear()


# --- what an agent reads about them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_a_resource_documents_every_option(sandbox: Sandbox, era: str) -> None:
    async with connected(sandbox, era=era) as client:
        listed = (await client.list_resources()).resources
        assert [str(one.uri) for one in listed] == [
            "openrouter://models/free",
            "openrouter://usage",
            "openrouter://options",
        ]
        (content,) = (await client.read_resource("openrouter://options")).contents
    assert isinstance(content, TextResourceContents)
    rows = dict(line.split(" | ", 1) for line in content.text.splitlines() if " | " in line)
    names = [name for name in Options.model_fields if name != "provider"]
    names += [f"provider.{name}" for name in Provider.model_fields if name != "max_price"]
    names += [f"provider.max_price.{name}" for name in MaxPrice.model_fields]
    assert set(rows) == {"option", *names}
    assert "a number, 0 to 2" in rows["temperature"]
    assert "'low'" not in rows["verbosity"]
    assert all(len(row.split(" | ")) == 2 for row in rows.values())
    assert all(row.split(" | ")[1] for name, row in rows.items())
    assert sandbox.requests == []


async def test_each_tool_that_takes_options_says_where_they_are_documented(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        tools = (await client.list_tools()).tools
    takers = [tool for tool in tools if "options" in tool.input_schema["properties"]]
    assert [tool.name for tool in takers] == ["ask_model", "compare_models"]
    said = [tool.input_schema["properties"]["options"]["description"] for tool in takers]
    assert "openrouter://options" in said[0]
    assert said[1] == "As in ask_model."
    compact = json.dumps(
        [tool.model_dump(by_alias=True, mode="json", exclude_none=True) for tool in tools], separators=(",", ":")
    )
    assert len(bpe_openai.get_encoding("o200k_base").encode(compact)) < 1800
