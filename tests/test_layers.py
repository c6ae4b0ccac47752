"""Money: each of the guard's four layers stops a request that costs by itself, and no path goes round them."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from served import says
from support import SETTINGS, ask, connected

from openrouter_mcp import audit, choice, options, vetting
from openrouter_mcp.policy import Policy
from openrouter_mcp.pricing import Prices
from openrouter_mcp.purse import Vetted
from openrouter_mcp.records import Model
from openrouter_mcp.sandbox import Sandbox, faults

FREE_ONLY, BUDGETED = Policy(), Policy(daily_budget=Decimal(5), call_budget=Decimal(1))

# --- the layers, and how to do without them ---------------------------------------------------------------------------


def _without_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the id, it may be asked."""

    def listed(model: str, _: object, around: Any) -> list[Model]:
        return [around.known[model]] if model in around.known else []

    monkeypatch.setattr(vetting, "_listed", listed)


def _without_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is taken for free, and for within the budget."""
    monkeypatch.setattr(
        vetting,
        "_priced",
        lambda request, entries, _: Vetted(request, tuple(entries), Prices(), Decimal(0), Decimal(0)),
    )
    monkeypatch.setattr(vetting, "_within", lambda vetted, *_: vetted)


def _without_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenRouter is told neither a limit nor to leave its paid plugins off."""
    monkeypatch.setattr(Prices, "max_price", lambda _: {})
    monkeypatch.setattr(options, "plugins", lambda _: [])


def _without_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at what it cost, or at who answered."""
    monkeypatch.setattr(audit, "overcharged", lambda *_: "")
    monkeypatch.setattr(audit, "outsider", lambda *_: "")


OFF = {"names": _without_names, "prices": _without_prices, "wire": _without_wire, "audit": _without_audit}

FREE_WITH_PLUGINS = "acme/tiny:free"  # of an account that switches a paid plugin on for every request
# Models that cost where nothing holds them, and the layers that each hold them alone.
COSTLY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("acme/tiny", "globex/tiered", "openrouter/auto", "~acme/tiny-latest"), tuple(OFF)),
    **dict.fromkeys(("acme/tiny:free:online", "@preset/mine", "acme/tiny:nitro"), ("names", "audit")),
    **dict.fromkeys(("trap/completion:free", "trap/null:free", "trap/overrides:free"), ("prices", "wire", "audit")),
    **dict.fromkeys(("trap/unknown:free", "trap/small-exponent:free"), ("prices", "audit")),
    FREE_WITH_PLUGINS: ("wire", "audit"),
}
PROMPT = "Which of these is the dearest? " * 4  # long enough for the price that comes with longer prompts


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """OpenRouter, with the account's own plugin where that is what costs."""
    sandbox = Sandbox()
    if request.node.callspec.params["model"] == FREE_WITH_PLUGINS:
        sandbox.account.default_plugins = ["web"]
    return sandbox


def without(monkeypatch: pytest.MonkeyPatch, *layers: str) -> None:
    for layer in layers:
        OFF[layer](monkeypatch)


@pytest.mark.parametrize("model", COSTLY)
async def test_with_no_layer_at_all_the_request_is_billed(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """So that the tests below can fail."""
    without(monkeypatch, *OFF)
    async with connected(sandbox) as client:
        text, _, is_error = await ask(client, prompt=PROMPT, model=model)
        bill = sandbox.bill
        await ask(client, prompt=PROMPT, model=model)
    assert not is_error
    assert not text.startswith("[warning")
    assert 0 < bill < sandbox.bill


@pytest.mark.parametrize(
    ("model", "layer"), [(model, layer) for model, layers in COSTLY.items() for layer in layers if layer != "audit"]
)
async def test_one_layer_alone_keeps_the_bill_at_nothing(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, model: str, layer: str
) -> None:
    without(monkeypatch, *(other for other in OFF if other != layer))
    async with connected(sandbox) as client:
        await ask(client, prompt=PROMPT, model=model)
        await ask(client, "compare_models", prompt=PROMPT, models=[model, "globex/large:free"])
        await ask(client, "ask_many", prompts=[PROMPT, PROMPT * 2], model=model)
    assert sandbox.bill == 0
    if layer != "wire":  # which stops it at OpenRouter's door
        assert model not in [chat.body["model"] for chat in sandbox.chats]


@pytest.mark.parametrize("model", COSTLY)
async def test_the_last_layer_alone_lets_no_second_request_leave_any_process(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    without(monkeypatch, "names", "prices", "wire")
    shared = replace(SETTINGS, state_dir=tmp_path)
    async with connected(sandbox, settings=shared) as client, connected(sandbox, settings=shared) as sibling:
        text, record, is_error = await ask(client, prompt=PROMPT, model=model)
        assert not is_error
        assert text.startswith("[warning: ")
        assert "No real model has read this." in text  # it is paid for, so it is delivered
        assert record["warning"]
        bill = sandbox.bill
        assert bill > 0
        for other in (client, sibling):
            for asked in (model, "globex/large:free", ""):
                _, record, is_error = await ask(other, prompt=PROMPT, model=asked)
                assert (is_error, record["code"]) == (True, "guard_closed")
    async with connected(sandbox, settings=shared) as later:
        _, record, _ = await ask(later, "compare_models", prompt=PROMPT)
        assert record["code"] == "guard_closed"
    assert len(sandbox.chats) == 1
    assert sandbox.bill == bill


@pytest.mark.parametrize("model", ["openrouter/auto", "openrouter/new", "~acme/tiny-latest", "acme/tiny:nitro"])
async def test_what_leads_elsewhere_is_refused_at_any_budget_whatever_price_it_is_listed_with(
    sandbox: Sandbox, model: str
) -> None:
    row = next(row for row in sandbox.catalog if row["id"] == "acme/tiny")
    sandbox.catalog[:] = [row for row in sandbox.catalog if row["id"] != model]
    sandbox.catalog.append(row | {"id": model})
    async with connected(sandbox, settings=replace(SETTINGS, policy=BUDGETED)) as client:
        text, record, _ = await ask(client, prompt=PROMPT, model=model)
    assert record["code"] == "cannot_verify_price"
    assert "Name a model, such as initech/cache or globex/large." in text
    assert sandbox.chats == []


async def test_a_choice_of_ours_that_errs_costs_nothing_at_any_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox()
    monkeypatch.setattr(choice, "_can_be_asked", lambda model: ":" not in model.id)
    async with connected(sandbox, settings=replace(SETTINGS, policy=BUDGETED)) as client:
        calls: list[tuple[str, dict[str, Any]]] = [
            ("ask_model", {}),
            ("compare_models", {}),
            ("compare_models", {"judge": "globex/large"}),  # what is named is the judge alone
        ]
        for tool, arguments in calls:
            _, record, is_error = await ask(client, tool, prompt=PROMPT, **arguments)
            assert (is_error, record["code"]) == (True, "not_free")
    assert sandbox.chats == []


# --- every path to OpenRouter's models --------------------------------------------------------------------------------

Walk = Callable[[Client, Sandbox, str], Awaitable[None]]
TOOLS = [{"type": "function", "function": {"name": "look"}}]


def tempting(sandbox: Sandbox, model: str) -> None:
    """Let `model` be what anybody would choose who did not look at the price."""
    for row in sandbox.catalog:
        if row["id"] == model:
            row["benchmarks"] = {"artificial_analysis": {"intelligence_index": 99.0}}
            row["context_length"] = 10_000_000


async def named(client: Client, _: Sandbox, model: str) -> None:
    await ask(client, prompt="Hi", model=model)


async def named_for_nothing(client: Client, _: Sandbox, model: str) -> None:
    await ask(client, prompt="Hi", model=model, max_cost_usd=0)


async def unnamed(client: Client, sandbox: Sandbox, model: str) -> None:
    tempting(sandbox, model)
    await ask(client, prompt="Hi")


async def unnamed_for_nothing(client: Client, sandbox: Sandbox, model: str) -> None:
    tempting(sandbox, model)
    await ask(client, prompt="Hi", max_cost_usd=0)


async def compared(client: Client, _: Sandbox, model: str) -> None:
    await ask(client, "compare_models", prompt="Hi", models=[model, "globex/large:free"])


async def compared_for_nothing(client: Client, _: Sandbox, model: str) -> None:
    await ask(client, "compare_models", prompt="Hi", models=[model, "globex/large:free"], max_cost_usd=0)


async def compared_unnamed(client: Client, sandbox: Sandbox, model: str) -> None:
    tempting(sandbox, model)
    await ask(client, "compare_models", prompt="Hi")


async def judged(client: Client, _: Sandbox, model: str) -> None:
    models = ["acme/tiny:free", "globex/large:free"]
    await ask(client, "compare_models", prompt="Hi", models=models, judge=model)


async def judged_for_nothing(client: Client, _: Sandbox, model: str) -> None:
    models = ["acme/tiny:free", "globex/large:free"]
    await ask(client, "compare_models", prompt="Hi", models=models, judge=model, max_cost_usd=0)


async def judged_unnamed(client: Client, sandbox: Sandbox, model: str) -> None:
    """What the judge may cost is no leave to choose models that cost."""
    tempting(sandbox, model)
    await ask(client, "compare_models", prompt="Hi", judge="cyberdyne/json:free")


async def asked_many(client: Client, _: Sandbox, model: str) -> None:
    await ask(client, "ask_many", prompts=["Hi", "Ho"], model=model)


async def asked_many_for_nothing(client: Client, _: Sandbox, model: str) -> None:
    await ask(client, "ask_many", prompts=["Hi", "Ho"], model=model, max_cost_usd=0)


async def asked_many_unnamed(client: Client, sandbox: Sandbox, model: str) -> None:
    tempting(sandbox, model)
    await ask(client, "ask_many", prompts=["Hi", "Ho"])


async def asked_many_unnamed_for_nothing(client: Client, sandbox: Sandbox, model: str) -> None:
    tempting(sandbox, model)
    await ask(client, "ask_many", prompts=["Hi", "Ho"], max_cost_usd=0)


async def second_try(client: Client, sandbox: Sandbox, model: str) -> None:
    """Whoever is asked first fails, and another model is looked for."""
    tempting(sandbox, model)
    sandbox.fail(faults.server_error(503))
    await ask(client, prompt="Hi", model="openrouter/free")


async def second_try_after_a_rise(client: Client, sandbox: Sandbox, model: str) -> None:
    """The first try fails, and by the second the catalogue says that everything costs."""
    await ask(client, "list_free_models")
    for row in sandbox.catalog:
        row["pricing"] = {"prompt": "0.000001", "completion": "0.000001"}
    sandbox.fail(faults.server_error(503))
    await ask(client, "compare_models", prompt="Hi", models=["acme/tiny:free", model])


async def fallbacks(client: Client, sandbox: Sandbox, model: str) -> None:
    """OpenRouter goes on to the next of the models it was sent, which have all become dear since they were vetted."""
    tempting(sandbox, model)
    await ask(client, "list_free_models")
    for row in sandbox.catalog:
        if row["id"] != "globex/large:free":
            row["pricing"] = {"prompt": "0.000001", "completion": "0.000001"}
    sandbox.fail(faults.server_error(503), times=None, model="globex/large:free")
    await ask(client, prompt="Hi")


async def fallbacks_named(client: Client, _: Sandbox, model: str) -> None:
    await ask(client, prompt="Hi", model="globex/large:free", options={"fallbacks": ["acme/tiny:free", model]})


async def fallbacks_named_for_nothing(client: Client, _: Sandbox, model: str) -> None:
    rare = {"fallbacks": [model]}
    await ask(client, prompt="Hi", model="globex/large:free", options=rare, max_cost_usd=0)


async def compared_with_options(client: Client, _: Sandbox, model: str) -> None:
    rare = {"tools": TOOLS, "provider": {"max_price": {"prompt": 1000, "completion": 1000}}, "cache": "1h"}
    await ask(client, "compare_models", prompt="Hi", models=[model, "globex/large:free"], options=rare)


async def tool_results(client: Client, _: Sandbox, model: str) -> None:
    """A free model calls a tool, and another is to read what came of it."""
    rare = {"tools": TOOLS, "tool_choice": "required"}
    record = (await ask(client, prompt="Hi", model="globex/large:free", options=rare))[1]
    made = [{"tool_call_id": call["id"], "content": "Nothing."} for call in record["tool_calls"]]
    go_on: dict[str, Any] = {
        "prompt": "",
        "continue_from": record["id"],
        "options": {"tools": TOOLS, "tool_results": made},
    }
    await ask(client, **go_on | {"model": model})
    await ask(client, **go_on | {"options": go_on["options"] | {"fallbacks": [model]}})
    await ask(client, **go_on)


async def mended(client: Client, sandbox: Sandbox, model: str) -> None:
    """The answer does not follow its schema, and by the time that it is mended another model is the best by far."""
    sandbox.fail(says("no JSON"))
    await ask(client, "list_free_models")
    tempting(sandbox, model)
    await ask(client, prompt="Hi", schema={"type": "object"})


# Whoever adds a way to ask a model adds its row: the way, what the server may spend, whether the model is its default
# too, and how many requests leave: free ones, so that the row shows that it got as far as sending.
PATHS: dict[str, tuple[Walk, Policy, bool, int]] = {
    "ask_model, named": (named, FREE_ONLY, False, 0),
    "ask_model, named, max_cost_usd 0": (named_for_nothing, BUDGETED, False, 0),
    "ask_model, unnamed": (unnamed, BUDGETED, False, 1),
    "ask_model, by default": (unnamed, FREE_ONLY, True, 1),
    "ask_model, by default, max_cost_usd 0": (unnamed_for_nothing, BUDGETED, True, 1),
    "compare_models, named": (compared, FREE_ONLY, False, 1),
    "compare_models, named, max_cost_usd 0": (compared_for_nothing, BUDGETED, False, 1),
    "compare_models, unnamed": (compared_unnamed, BUDGETED, False, 3),
    "compare_models, judge": (judged, FREE_ONLY, False, 2),
    "compare_models, judge, max_cost_usd 0": (judged_for_nothing, BUDGETED, False, 2),
    "compare_models, unnamed, judge": (judged_unnamed, BUDGETED, False, 4),
    "ask_many, named": (asked_many, FREE_ONLY, False, 0),
    "ask_many, named, max_cost_usd 0": (asked_many_for_nothing, BUDGETED, False, 0),
    "ask_many, unnamed": (asked_many_unnamed, BUDGETED, False, 2),
    "ask_many, by default": (asked_many_unnamed, FREE_ONLY, True, 2),
    "ask_many, by default, max_cost_usd 0": (asked_many_unnamed_for_nothing, BUDGETED, True, 2),
    "a second try": (second_try, BUDGETED, False, 2),
    "a second try after a rise": (second_try_after_a_rise, FREE_ONLY, False, 1),
    "fallbacks": (fallbacks, FREE_ONLY, False, 2),
    "options.fallbacks": (fallbacks_named, FREE_ONLY, False, 0),
    "options.fallbacks, max_cost_usd 0": (fallbacks_named_for_nothing, BUDGETED, False, 0),
    "compare_models, options": (compared_with_options, FREE_ONLY, False, 1),
    "options.tool_results": (tool_results, FREE_ONLY, False, 2),
    "mending": (mended, BUDGETED, False, 2),
}
NOT_FREE = (
    "acme/tiny",
    "openrouter/auto",
    "@preset/mine",
    "acme/tiny:free:online",
    "stealth/heron-alpha",
    "trap/overrides:free",
    "trap/request:free",
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", NOT_FREE)
async def test_no_path_sends_what_is_not_free(sandbox: Sandbox, path: str, model: str) -> None:
    walk, policy, is_default, requests = PATHS[path]
    settings = replace(SETTINGS, policy=replace(policy, default_model=model if is_default else ""))
    async with connected(sandbox, settings=settings) as client:
        await walk(client, sandbox, model)
    assert len(sandbox.chats) == (0 if is_default and model.endswith(":free") else requests)  # asked for, and refused
    for chat in sandbox.chats:
        asked = [chat.body["model"], *chat.body.get("models", [])]
        assert model not in asked
        assert all(id_.endswith(":free") for id_ in asked)
        assert set(chat.body["provider"]["max_price"].values()) == {"0"}
    assert sandbox.bill == 0
