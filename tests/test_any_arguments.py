"""Money, for any arguments, catalogue and budget: what leaves is bounded, and the bill is what the book says."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp_types import TextContent
from support import SETTINGS, opened

from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Sandbox, routing
from openrouter_mcp.sandbox.models import TRAPS
from openrouter_mcp.sandbox.server import Received
from openrouter_mcp.server import build

ALLOWED = {"model", "messages", "max_tokens", "stream", "provider", "plugins"}
PRICE_LIMITS = {"prompt", "completion", "request", "image", "audio"}
PLAIN = re.compile(r"[0-9]+(\.[0-9]+)?")
ROUNDING = Decimal("1e-12")  # OpenRouter, and the sandbox, tell costs as binary fractions

# --- catalogues -------------------------------------------------------------------------------------------------------

HOSTILE: st.SearchStrategy[Any] = st.sampled_from(
    ["-1", "-0", "0e0", "1e-9", "1e9", "1e400", "", " 0", "0 ", "+0", "0x0", ".0", "0.", "0,0", "\u0660", "NaN",
     "Infinity", None, 0, 0.0, 1, True, [], {}, "9" * 21, "0." + "0" * 31]
)  # fmt: skip
HONEST = st.one_of(
    st.sampled_from(["0", "0", "0", "0.0", "0.000001", "0.00000015", "0.01", "12", "9" * 20]),
    st.decimals(min_value=0, max_value=Decimal("0.0001"), places=9).map(str),
)
COUNTED = ["prompt", "completion", "request", "image", "audio", "internal_reasoning", "web_search", "input_cache_write"]
ODD = ["moonlight", "Prompt", "", "image_token", "input_cache_write_1h", "min_prompt_tokens", "utc_start", "training"]
CONDITIONS = st.fixed_dictionaries({}, optional={"min_prompt_tokens": st.integers(0, 200), "discount": st.just(0.5)})
ANY = "acme/any"


def priced(values: st.SearchStrategy[Any], names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), values, max_size=4)


def listed(values: st.SearchStrategy[Any], names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """A whole `pricing`, mostly with what every entry has."""
    both = st.fixed_dictionaries({"prompt": values, "completion": values})
    override = st.builds(dict.__or__, priced(values, names), CONDITIONS)
    overrides = st.lists(override, max_size=2).map(lambda some: {"overrides": some} if some else {})
    return st.builds(
        lambda *parts: {k: v for part in parts for k, v in part.items()}, both, priced(values, names), overrides
    )


PRICING = st.one_of(
    listed(HONEST, COUNTED),
    listed(HONEST, COUNTED),
    listed(st.one_of(HOSTILE, HONEST), [*COUNTED, *ODD]),
    priced(st.one_of(HOSTILE, HONEST), [*COUNTED, *ODD, "overrides"]),
    st.builds(lambda prices, wrong: prices | {"overrides": wrong}, listed(HONEST, COUNTED), HOSTILE),
    st.sampled_from([*TRAPS.values()]),
)
CHEAP = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["0", "0.0000001", "0.000002"]), "completion": st.sampled_from(["0.000001", "0.00001"])},
    optional={"internal_reasoning": st.just("0.00002"), "request": st.sampled_from(["0.0001", "0.01"])},
)

# --- arguments --------------------------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(min_size=1, max_size=30),
    st.sampled_from(["Hi", "\ud83d", "\udc00 half", "\x00", "\ufeff", "", " ", "Write 300 words", "long " * 300]),
)
MODELS = st.one_of(
    st.sampled_from([ANY, f"{ANY}:free", "acme/tiny", "acme/tiny:free", "globex/tiered", "hooli/thinker"]),
    st.sampled_from(["", "openrouter/free", "openrouter/auto", "~acme/tiny-latest", "@preset/mine", "\ud83d"]),
    st.sampled_from([f"{ANY}:free:online", f"{ANY}:nitro", f"{ANY}:free ", "ACME/any", f"{ANY}\u200b"]),
    st.text(max_size=30),
)
PROPER: dict[str, st.SearchStrategy[Any]] = {
    "system": TEXTS,
    "max_tokens": st.integers(1, 10_000),
    "max_cost_usd": st.one_of(st.integers(0, 10**6).map(lambda millionths: millionths / 10**6), st.just("0.5")),
}
IMPROPER: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": st.sampled_from([0, -1, 10**6, 10**40, "10", "1e3", 1.5, True, None]),
    "max_cost_usd": st.sampled_from([-1, "1e400", 1e308, 1e-300, float("inf"), float("nan"), "free", None]),
    "provider": st.just({"max_price": {"prompt": "100"}}),
    "plugins": st.just([{"id": "web"}]),
    "stream": st.just(False),
}


def call_of(
    tool: str, always: dict[str, st.SearchStrategy[Any]], sometimes: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(tool), st.fixed_dictionaries({"prompt": TEXTS, **always}, optional=sometimes))


SENSIBLE = st.one_of(
    call_of("ask_model", {"model": st.sampled_from([ANY, f"{ANY}:free", "acme/tiny", "globex/tiered"])}, PROPER),
    call_of("ask_model", {}, PROPER),
    call_of(
        "compare_models", {"models": st.just([ANY, "hooli/thinker", "acme/tiny:free"])}, {"max_tokens": st.just(600)}
    ),
)
CALLS = st.one_of(
    SENSIBLE,
    call_of("ask_model", {"model": MODELS}, PROPER),
    call_of("compare_models", {"models": st.lists(MODELS, min_size=2, max_size=3, unique=True)}, PROPER),
    call_of("ask_model", {}, PROPER | IMPROPER | {"model": MODELS}),
    call_of("compare_models", {}, PROPER | IMPROPER | {"models": st.lists(MODELS, max_size=4)}),
)
DEFAULTS = st.sampled_from(["", ANY, f"{ANY}:free"])


def policies(*daily: str) -> st.SearchStrategy[Policy]:
    amounts = st.sampled_from([Decimal(amount) for amount in daily])
    return st.builds(
        lambda day, call, model: Policy(day, min(day, call), default_model=model), amounts, amounts, DEFAULTS
    )


@dataclass(frozen=True)
class World:
    """What there is: the catalogue's prices for a model and for its `:free` variant, their output limit, a policy; and
    what an agent asks for."""

    pricing: dict[str, Any]
    free_pricing: dict[str, Any]
    output_limit: int | None
    policy: Policy
    calls: list[tuple[str, dict[str, Any]]]


# Where anything may be wrong, and where calls do cost and the budget soon ends: by chance alone little is ever sent.
WORLDS = st.one_of(
    st.builds(
        World,
        pricing=PRICING,
        free_pricing=PRICING,
        output_limit=st.sampled_from([None, 0, -1, 1, 100, 4096, 10**9]),
        policy=st.one_of(st.builds(Policy, default_model=DEFAULTS), policies("0.000001", "0.2", "1000000")),
        calls=st.lists(CALLS, min_size=1, max_size=3),
    ),
    st.builds(
        World,
        pricing=CHEAP,
        free_pricing=st.just({"prompt": "0", "completion": "0"}),
        output_limit=st.sampled_from([None, 600, 4096]),
        policy=policies("0.01", "0.03", "0.1"),
        calls=st.lists(SENSIBLE, min_size=3, max_size=6),
    ),
)


def assert_bounded(chat: Received, most: Decimal) -> Decimal:
    """What must hold of every body that leaves: the most it was bounded to, in USD, which is at most `most`."""
    body = chat.body
    assert ALLOWED <= set(body) <= ALLOWED | {"models"}
    assert set(body["provider"]) == {"max_price"}
    limits: Mapping[str, str] = body["provider"]["max_price"]
    assert set(limits) == PRICE_LIMITS
    assert all(PLAIN.fullmatch(limit) for limit in limits.values())  # strings, to begin with
    assert {(plugin["id"], plugin["enabled"]) for plugin in body["plugins"]} == {("web", False), ("fusion", False)}
    assert body["stream"] is True
    assert type(body["max_tokens"]) is int
    assert body["max_tokens"] >= 1
    assert len(body.get("models", [])) <= 2
    assert all(set(message) == {"role", "content"} for message in body["messages"])
    chat.raw.decode().encode()  # text that can be text
    tokens = routing.prompt_tokens(body)
    prompt, completion, request = (Decimal(limits[name]) for name in ("prompt", "completion", "request"))
    bound = (prompt * tokens + completion * body["max_tokens"]) / 1_000_000 + request
    assert bound <= most * (1 + ROUNDING)
    return bound


async def call(client: Client, tool: str, arguments: dict[str, Any]) -> None:
    """Whatever is asked, there is an answer or one of our errors, and never a fault of the server."""
    result = await client.call_tool(tool, arguments)
    (block,) = result.content
    assert isinstance(block, TextContent)
    assert not block.text.startswith("internal: ")


PRICED, NOTHING = {"prompt": "0.000001", "completion": "0.000001"}, {"prompt": "0", "completion": "0"}


def asked(*calls: tuple[str, dict[str, Any]]) -> World:
    """A world where only the calls are strange."""
    return World(PRICED, NOTHING, None, Policy(), list(calls))


@settings(max_examples=45, deadline=None)
@given(world=WORLDS)
@example(world=asked(("ask_model", {"prompt": "Hi", "model": ANY, "max_tokens": 10**40})))
@example(world=asked(("compare_models", {"prompt": "Hi", "models": ["\ud83d", "\ud83d"]})))
@example(
    world=replace(
        asked(("ask_model", {"prompt": "Hi", "model": ANY, "max_tokens": 30})),  # fewer than it thinks
        pricing=PRICED | {"internal_reasoning": "0.00009"},
        policy=Policy(Decimal(1), Decimal(1)),
    )
)
@example(world=replace(asked(("ask_model", {"prompt": "Hi"})), free_pricing=NOTHING | {"utc_start": "0.5"}))
async def test_whatever_is_asked_what_leaves_is_bounded_and_the_bill_is_what_the_book_says(world: World) -> None:
    sandbox = Sandbox()
    sandbox.account.per_minute = sandbox.account.per_day = 1000
    sandbox.account.bought = Decimal(10**9)
    sandbox.account.default_plugins = ["web", "fusion"]
    row = copy.deepcopy(next(row for row in sandbox.catalog if row["id"] == "hooli/thinker:free"))  # it thinks
    row["top_provider"]["max_completion_tokens"] = world.output_limit
    sandbox.catalog.append(row | {"id": ANY, "pricing": world.pricing})
    sandbox.catalog.append(row | {"id": f"{ANY}:free", "pricing": world.free_pricing})
    policy = world.policy
    async with opened(sandbox, settings=replace(SETTINGS, policy=policy)) as app, Client(build(app)) as client:
        for tool, arguments in world.calls:
            await call(client, tool, arguments)
        budget = await app.guard.budget()
    bounds = [assert_bounded(chat, policy.call_budget) for chat in sandbox.chats]
    event("money was spent" if sandbox.bill else "something was sent" if bounds else "nothing was sent")
    assert sandbox.bill <= policy.daily_budget  # which is nothing, for one
    assert abs(budget.spent.cost - sandbox.bill) <= sandbox.bill * ROUNDING
    assert budget.spent.held == 0
    assert budget.closures == []
