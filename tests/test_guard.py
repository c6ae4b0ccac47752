"""Money: at zero budget nothing that could cost anything leaves, whatever an agent or the catalogue says."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import ask, connected, fail_lists, opened

from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.sandbox.models import TRAPS

REFUSED = {
    "acme/tiny": "not_free",
    "openrouter/auto": "not_free",
    "openrouter/auto-beta": "not_free",
    "openrouter/fusion": "not_free",
    "openrouter/pareto-code": "not_free",
    "openrouter/bodybuilder": "not_free",
    "openrouter/free:online": "not_free",
    "@preset/mine": "not_free",
    "acme/tiny:free@preset/mine": "not_free",
    "~acme/tiny-latest": "not_free",
    "acme/tiny:free:online": "not_free",
    "acme/tiny:online:free": "not_free",
    "acme/tiny:free:nitro": "not_free",
    "acme/tiny:floor": "not_free",
    "acme/tiny:free:free": "not_free",
    "stealth/heron-alpha": "not_free",
    "hooli/thinker:thinking": "not_free",
    "acme/tiny:batch": "not_free",
    "acme/nothing:free": "unknown_model",
    "ACME/tiny:free": "unknown_model",
    " acme/tiny:free": "unknown_model",
    "acme/tiny:free\n": "unknown_model",
    "acme/tiny\u200b:free": "unknown_model",
    "acme/t\u0456ny:free": "unknown_model",
    "acme%2Ftiny:free": "unknown_model",
    "acme/tiny:free?x=1": "unknown_model",
    "acme/../acme/tiny:free": "unknown_model",
    "acme/gone:free": "unknown_model",
} | {f"trap/{name}:free": "not_free" for name in TRAPS}


@pytest.mark.parametrize(("model", "code"), REFUSED.items())
async def test_what_is_not_plainly_free_is_refused_before_anything_is_sent(
    sandbox: Sandbox, model: str, code: str
) -> None:
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=model)
    assert is_error
    assert record["code"] == code
    assert text.startswith(f"{code}: ")
    assert sandbox.chats == []
    assert text.isprintable()  # what cannot be seen in the id is shown escaped


@pytest.mark.parametrize("first", [True, False])
async def test_a_model_listed_twice_is_as_dear_as_the_dearer(sandbox: Sandbox, *, first: bool) -> None:
    row = next(row for row in sandbox.catalog if row["id"] == "acme/tiny:free")
    priced = row | {"pricing": {"prompt": "0.000001", "completion": "0.000001"}}
    sandbox.catalog.insert(0 if first else len(sandbox.catalog), priced)
    async with connected(sandbox) as client:
        _, record, _ = await ask(client, prompt="Hi", model="acme/tiny:free")
    assert record["code"] == "not_free"
    assert sandbox.chats == []


@pytest.mark.parametrize(
    "model", ["acme/tiny\u200b:free", "acme/tiny/x:free", "../tiny:free", "acme/tiny :free", ":free"]
)
async def test_an_id_of_a_strange_form_is_refused_even_where_the_catalogue_lists_it(
    sandbox: Sandbox, model: str
) -> None:
    row = next(row for row in sandbox.catalog if row["id"] == "acme/tiny:free")
    sandbox.catalog.append(row | {"id": model})
    async with connected(sandbox) as client:
        _, record, is_error = await ask(client, prompt="Hi", model=model)
    assert is_error
    assert record["code"] == "unknown_model"
    assert sandbox.chats == []


async def test_a_refusal_for_money_names_the_price_and_the_free_twin(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        text, _, _ = await ask(client, prompt="Hi", model="acme/tiny")
        assert "costs $0.15 in, $0.60 out per million tokens" in text
        assert "Use acme/tiny:free." in text
        text, _, _ = await ask(client, prompt="Hi", model="openrouter/auto")
        assert "Use globex/large:free or hooli/thinker:free." in text


async def test_an_unknown_model_gets_the_nearest_real_ids(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        text, _, _ = await ask(client, prompt="Hi", model="acme/tinny:free")
    assert "Did you mean acme/tiny:free" in text


async def test_the_body_tells_openrouter_itself_to_refuse_what_costs(sandbox: Sandbox) -> None:
    sandbox.account.default_plugins = ["web", "fusion"]
    async with connected(sandbox) as client:
        await ask(client, prompt="Hi", model="acme/tiny:free")
        await ask(client, prompt="Hi")
    for chat in sandbox.chats:
        assert chat.body["provider"]["max_price"] == dict.fromkeys(
            ("prompt", "completion", "request", "image", "audio"), "0"
        )
        assert {plugin["id"]: plugin["enabled"] for plugin in chat.body["plugins"]} == {"web": False, "fusion": False}
        assert chat.body["stream"] is True
    assert sandbox.bill == 0


async def test_a_price_that_rises_after_the_check_is_stopped_by_openrouter(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        await ask(client, "list_free_models")
        for row in sandbox.catalog:
            if row["id"] == "acme/tiny:free":
                row["pricing"] = {"prompt": "0.000001", "completion": "0.000001"}
        text, record, is_error = await ask(client, prompt="Hi", model="acme/tiny:free")
    assert is_error
    assert record["code"] == "no_provider"
    assert "max_price" in text
    assert sandbox.bill == 0


@pytest.mark.parametrize(
    "fault",
    [
        faults.server_error(503),
        faults.html_error(),
        Fault(json={"data": []}),
        Fault(json={"data": "?"}),
        Fault(body=b"{"),
    ],
    ids=["503", "html", "empty list", "no list", "broken JSON"],
)
async def test_without_a_price_list_nothing_is_sent(sandbox: Sandbox, fault: Fault) -> None:
    fail_lists(sandbox, fault)
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi", model="acme/tiny:free")
        assert record["code"] == "cannot_verify_price"
        assert text.startswith("cannot_verify_price: The price list could not be read")
        assert sandbox.chats == []
        sandbox.clear()
        _, _, is_error = await ask(client, prompt="Hi", model="acme/tiny:free")
    assert not is_error  # and the server goes on


async def test_broken_rows_do_not_hide_the_good_ones(sandbox: Sandbox) -> None:
    sandbox.catalog[:0] = [{}, {"id": 7}, {"id": ""}, {"id": "x/y:free", "architecture": "?"}]
    async with connected(sandbox) as client:
        _, _, is_error = await ask(client, prompt="Hi", model="acme/tiny:free")
    assert not is_error


async def test_a_permit_is_good_for_one_request(sandbox: Sandbox) -> None:
    async with opened(sandbox) as app:
        request = ChatRequest(model="acme/tiny:free", prompt="Hi")
        issued = await app.guard.permit(request, app.guard.purse(), time_left=lambda: 0.0)
        assert [event async for event in app.client.chat(issued)]
        with pytest.raises(RuntimeError, match="one request"):
            await anext(app.client.chat(issued))
    assert len(sandbox.chats) == 1


# --- for any arguments and any catalogue ----------------------------------------------------------------------------

ALLOWED = {"model", "messages", "max_tokens", "stream", "provider", "plugins"}
IDS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(sorted(REFUSED)),
    st.builds(
        "{}/{}{}".format,
        st.sampled_from(["acme", "openrouter", "trap", "~acme"]),
        st.sampled_from(["tiny", "free", "auto", "large"]),
        st.sampled_from(["", ":free", ":free:online", ":nitro", ":online", ":free "]),
    ),
)
PRICES = st.one_of(
    st.sampled_from(["0", "0.0", "-1", "-0", "0e0", "", " 0", "1e-9", "0.000001", "0x0", "\u0660", None, 0, 0.0, True]),
    st.decimals(min_value=0, max_value=1, places=8).map(str),
)
PRICING = st.dictionaries(
    st.sampled_from(["prompt", "completion", "request", "image", "web_search", "internal_reasoning", "moonlight"]),
    PRICES,
    max_size=5,
)


def assert_cannot_cost(body: Mapping[str, Any]) -> None:
    """What must hold of every body that leaves."""
    assert ALLOWED <= set(body) <= ALLOWED | {"models"}
    assert all(model.endswith(":free") and model.count(":") == 1 for model in body.get("models", []))
    assert body["model"] == "openrouter/free" or (body["model"].endswith(":free") and body["model"].count(":") == 1)
    assert set(body["provider"]) == {"max_price"}
    assert set(body["provider"]["max_price"].values()) == {"0"}
    assert not any(plugin["enabled"] for plugin in body["plugins"])
    assert body["stream"] is True
    assert body["max_tokens"] >= 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(models=st.lists(IDS, min_size=2, max_size=5), pricing=PRICING, overrides=st.lists(PRICING, max_size=2))
async def test_for_any_ids_and_any_prices_what_leaves_is_free_and_the_bill_is_nothing(
    models: list[str], pricing: dict[str, Any], overrides: list[dict[str, Any]]
) -> None:
    sandbox = Sandbox()
    sandbox.account.per_minute = sandbox.account.per_day = 1000
    sandbox.account.default_plugins = ["web"]
    row = next(copy.deepcopy(row) for row in sandbox.catalog if row["id"] == "acme/tiny:free")
    sandbox.catalog.append(row | {"id": "acme/any:free", "pricing": pricing | {"overrides": overrides}})
    async with connected(sandbox) as client:
        await ask(client, prompt="Hi", model=models[0])
        await ask(client, prompt="Hi", model="acme/any:free")
        await ask(client, "compare_models", prompt="Hi", models=models)
    for chat in sandbox.chats:
        assert_cannot_cost(chat.body)
    assert sandbox.bill == 0
