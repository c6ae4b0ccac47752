"""What a refusal says, to the word: which model, why, which limit stood in the way, and what to ask instead."""

from decimal import Decimal
from typing import Any

import pytest
from budgets import TINY, budget, served
from support import SETTINGS, ask

from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.errors import OpenRouterMCPError, TooLarge
from openrouter_mcp.refusals import NotAllowed
from openrouter_mcp.sandbox import Sandbox
from openrouter_mcp.settings import Settings
from openrouter_mcp.vetting import MAX_PROMPT_BYTES, check_prompt

PRESET = "is a preset: what it would run and cost is not known beforehand"
ALIAS = "is an alias that OpenRouter may point elsewhere at any time"
SUFFIX = "carries a routing suffix, which can lead to a billed tier or a paid extra"
ROUTER = "is one of OpenRouter's routers, which picks models of any price"
# By the form of the id alone, or since the entry leads elsewhere: no budget changes it.
NEVER = {
    "@preset/mine": PRESET,
    "acme/tiny@preset/mine": PRESET,
    "~acme/tiny-latest": ALIAS,
    "acme/newest": ALIAS,
    "acme/tiny:free:free": SUFFIX,
    "acme/tiny:online": SUFFIX + '; options {"web_search": 5} does the same',
    "acme/tiny:nitro": SUFFIX + '; options {"provider": {"sort": "throughput"}} does the same',
    "acme/tiny:free:nitro": SUFFIX + '; options {"provider": {"sort": "throughput"}} does the same',
    "acme/tiny:floor": SUFFIX + '; options {"provider": {"sort": "price"}} does the same',
    "acme/tiny:exacto": SUFFIX + '; options {"provider": {"sort": "exacto"}} does the same',
    "openrouter/auto": ROUTER,
}
# Listed, and not free.
PRICED = {
    TINY: "costs $0.15 in, $0.60 out per million tokens, which is up to $0.0025 for this call, typically $0.00031",
    "nakatomi/bare": "costs $1 in, $2 out per million tokens, which is up to $0.0083 for this call, typically $0.0011",
    "nakatomi/open": "costs $1 in, $2 out per million tokens, which is up to $0.017 for this call, typically $0.0011",
    "stealth/heron-alpha": "is priced at zero today but is not a `:free` variant, so its price may change unannounced",
    "trap/request:free": "is listed with a price that is not plainly zero",
    "umbrella/painter": "has a price that cannot be counted beforehand",
}
FREE_ONLY = "This server's budget is $0 (free models only), so nothing was sent."
NO_BOUND = ", so its price has no bound, no budget can hold it, and nothing was sent. Name a model, such as"


async def refusals(sandbox: Sandbox, settings: Settings, *calls: dict[str, Any]) -> list[str]:
    """What each call is refused with, without what is left today."""
    row = next(row for row in sandbox.catalog if row["id"] == TINY)
    sandbox.catalog.append(row | {"id": "acme/newest", "alias_target": {"slug": "globex/large"}})
    said = []
    async with served(sandbox, settings) as (_, client):
        for call in calls:
            text, _, is_error = await ask(client, **{"prompt": "Hi"} | call)
            assert is_error, call
            said.append(text.rpartition(" (")[0])
    assert sandbox.chats == []
    return said


async def test_without_a_budget_a_refusal_names_the_reason_and_what_is_free(sandbox: Sandbox) -> None:
    reasons = NEVER | PRICED
    said = await refusals(sandbox, SETTINGS, *({"model": model} for model in reasons))
    free = dict.fromkeys(reasons, "globex/large:free or hooli/thinker:free") | {TINY: "acme/tiny:free"}
    assert said == [f"not_free: {model!r} {reasons[model]}. {FREE_ONLY} Use {free[model]}." for model in reasons]


@pytest.mark.parametrize(
    ("call_budget", "two"), [("1", "initech/cache or globex/large"), ("0.0003", "soylent/chat or acme/old")]
)
async def test_what_no_budget_bears_is_refused_with_two_that_this_one_does(
    sandbox: Sandbox, call_budget: str, two: str
) -> None:
    said = await refusals(sandbox, budget("1", call_budget), *({"model": model} for model in NEVER))
    assert said == [f"cannot_verify_price: {model!r} {NEVER[model]}{NO_BOUND} {two}." for model in NEVER]
    said = await refusals(Sandbox(), budget("1", call_budget), {"model": "umbrella/painter"})
    reason = "is listed with a price that cannot be counted beforehand"
    assert said == [f"cannot_verify_price: 'umbrella/painter' {reason}{NO_BOUND} {two}."]


async def test_a_model_that_does_not_say_how_much_it_reads_is_refused_what_has_no_size(sandbox: Sandbox) -> None:
    """Nobody knows what a search adds to the prompt."""
    call = {"model": "nakatomi/endless", "options": {"web_search": 1}}
    (said,) = await refusals(sandbox, budget("1"), call)
    assert said.startswith(f"cannot_verify_price: 'nakatomi/endless' does not say how much it reads{NO_BOUND} ")
    (said,) = await refusals(Sandbox(), SETTINGS, call)
    assert said.startswith("not_free: 'nakatomi/endless' has a price that cannot be counted beforehand. ")


async def test_whoever_the_lists_exclude_is_refused_with_two_that_they_do_not(sandbox: Sandbox) -> None:
    denied = ("globex/", "openrouter/free", TINY)
    models = [TINY, f"{TINY}:free", "globex/tiered"]
    said = await refusals(sandbox, budget("1", denied=denied), *({"model": model} for model in models))
    assert said == [
        f"not_allowed: This server's user decided which models may be asked, and {model!r} is not one of them. Nothing "
        "was sent. Use hooli/thinker:free or initech/coder:free."
        for model in models
    ]
    said = await refusals(Sandbox(), budget("1", denied=denied), {"model": "@preset/mine"})
    assert said == [f"cannot_verify_price: '@preset/mine' {PRESET}{NO_BOUND} initech/cache or hooli/thinker."]
    async with served(Sandbox(), budget("1", denied=denied)) as (app, _):
        with pytest.raises(NotAllowed, match="'openrouter/free' is not one of them"):
            await app.guard.vet(ChatRequest(model="openrouter/free", prompt="Hi"), app.guard.purse())


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


async def test_what_a_model_cannot_do_is_said_with_two_that_can(sandbox: Sandbox) -> None:
    calls: list[dict[str, Any]] = [{"schema": {}}, {"options": {"tools": TOOLS}}]
    for model, settings in (("soylent/chat:free", SETTINGS), ("soylent/chat", budget("1"))):
        assert await refusals(Sandbox(), settings, *({"model": model} | call for call in calls)) == [
            f"invalid_request: {model!r} cannot {what}. Nothing was sent. globex/large:free and hooli/thinker:free can."
            for what in ("write JSON on demand", "call tools")
        ]
    sandbox.catalog[:] = [row for row in sandbox.catalog if not row["id"].endswith(":free")]
    said = await refusals(sandbox, budget("1"), {"model": "soylent/chat"} | calls[0])
    can = "initech/cache and globex/large can."
    assert said == [f"invalid_request: 'soylent/chat' cannot write JSON on demand. Nothing was sent. {can}"]


async def test_a_search_costs_with_a_free_model_too(sandbox: Sandbox) -> None:
    search = {"options": {"web_search": 5}}
    free, priced = await refusals(sandbox, SETTINGS, {"model": f"{TINY}:free"} | search, {"model": TINY} | search)
    costs = "searches the web, which costs up to $0.10 with any model"
    assert free == f"not_free: 'acme/tiny:free' {costs}. {FREE_ONLY} Ask without options.web_search."
    assert "which is up to $0.0074 for this call, typically $0.0016. " in priced


async def test_a_cache_of_an_hour_needs_a_price_for_it(sandbox: Sandbox) -> None:
    cached: list[dict[str, Any]] = [{"model": "initech/cache", "options": {"cache": time}} for time in ("1h", "5m")]
    (said,) = await refusals(sandbox, budget("1"), cached[0])
    reason = "'initech/cache' lists no price for a cache of 1h"
    assert said == f'invalid_request: {reason}. Use options {{"cache": "5m"}}.'
    row = next(row for row in sandbox.catalog if row["id"] == "initech/cache")
    row["pricing"]["input_cache_write_1h"] = "0.000006"
    async with served(sandbox) as (_, client):
        for call in cached:
            _, _, is_error = await ask(client, prompt="Hi", **call)
            assert not is_error


async def test_what_cannot_be_sent_as_it_is_says_what_to_change(sandbox: Sandbox) -> None:
    free: dict[str, Any] = {"model": f"{TINY}:free"}
    said = await refusals(
        sandbox, SETTINGS, free | {"prompt": " "}, free | {"prompt": "\ufffd" * 400_000}, {"model": "x" * 201}
    )
    assert said == [
        "invalid_request: The prompt is empty. Send the question or task in `prompt`.",
        "too_large: The prompt has 1200000 bytes; the limit is 1048576. Send a shorter one, or parts.",
        "invalid_request: A model's id has 1 to 200 characters; list_free_models shows the ids.",
    ]


def test_a_prompt_has_a_mebibyte_at_the_most_and_an_answer_a_token_at_the_least() -> None:
    check_prompt(ChatRequest(model=TINY, prompt="x" * (MAX_PROMPT_BYTES - 3), system="ü\ud800", max_tokens=1))
    with pytest.raises(TooLarge):
        check_prompt(ChatRequest(model=TINY, prompt="x" * (MAX_PROMPT_BYTES - 2), system="ü\ud800"))
    with pytest.raises(OpenRouterMCPError, match=r"^invalid_request: max_tokens must be 1 or more\.$"):
        check_prompt(ChatRequest(model=TINY, prompt="Hi", max_tokens=0))


async def test_an_answer_is_as_long_as_every_model_writes_and_the_budget_bears(sandbox: Sandbox) -> None:
    calls = [(f"{TINY}:free", 4_096), ("nakatomi/open", 8_192), ("nakatomi/endless", 4_096), ("acme/old:free", 2_048)]
    async with served(sandbox) as (app, client):
        for model, most in calls:
            await ask(client, prompt="Hi", model=model)
            assert sandbox.chats[-1].body["max_tokens"] == most
        purse = app.guard.purse(Decimal(0))
        request = ChatRequest(model=f"{TINY}:free", fallbacks=("acme/old:free",), prompt="Hi", max_tokens=3_000)
        assert (await app.guard.vet(request, purse)).request.max_tokens == 2_048
