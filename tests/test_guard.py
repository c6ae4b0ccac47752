"""Money: at zero budget nothing that could cost anything leaves, whatever an agent or the catalogue says."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from budgets import NOTHING, WORST, booked, budget, noon
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import Time, ask, connected, fail_lists, in_ascii, opened

from openrouter_mcp.app import App
from openrouter_mcp.audit import End
from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.errors import MinuteQuota, Outcome, UnknownModel
from openrouter_mcp.guard import Held
from openrouter_mcp.purse import Purse
from openrouter_mcp.refusals import Declined, GuardClosed, OverBudget
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.sandbox.models import TRAPS
from openrouter_mcp.wire import Usage

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


@pytest.mark.parametrize(("model", "code"), REFUSED.items(), ids=in_ascii)
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
    "model", ["acme/tiny\u200b:free", "acme/tiny/x:free", "../tiny:free", "acme/tiny :free", ":free"], ids=in_ascii
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
        with pytest.raises(RuntimeError, match=r"^a permit is good for one request$"):
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


# --- what was held for a request --------------------------------------------------------------------------------------

PRICED, FREE, ZERO = "acme/tiny", "acme/tiny:free", "stealth/heron-alpha"
NO_TIME: dict[str, Any] = {"time_left": lambda: 0.0}


def asking(model: str) -> ChatRequest:
    return ChatRequest(model=model, prompt="Hi", max_tokens=100)


async def used_today(app: App) -> int:
    return (await app.ledger.standing()).use.today


async def hold(app: App, purse: Purse, model: str) -> Held:
    (held,) = await app.guard.reserve([await app.guard.vet(asking(model), purse)], purse, longest_wait=0.0)
    return held


def change(sandbox: Sandbox, model: str, at: Time, **pricing: str) -> None:
    """The model has another price from now on, or is gone, and the list that is known is too old."""
    row = next(row for row in sandbox.catalog if row["id"] == model)
    if pricing:
        row["pricing"] = pricing
    else:
        sandbox.catalog.remove(row)
    at.now += 600


@pytest.mark.parametrize("model", [PRICED, FREE])
async def test_what_is_held_for_a_request_that_may_not_be_sent_any_more_is_given_back(
    sandbox: Sandbox, model: str
) -> None:
    at = noon()
    async with opened(sandbox, settings=budget("1"), at=at) as app:
        purse = app.guard.purse()
        held = await hold(app, purse, model)
        change(sandbox, model, at)
        with pytest.raises(UnknownModel):
            await app.guard.permit(asking(model), purse, held=held, **NO_TIME)
        assert (purse.held, await booked(app)) == (NOTHING, (NOTHING, NOTHING))
        assert await used_today(app) == 0
    assert sandbox.chats == []


async def test_what_became_dearer_than_was_held_is_refused_with_two_that_are_not(sandbox: Sandbox) -> None:
    at = noon()
    async with opened(sandbox, settings=budget("1"), at=at) as app:
        purse = app.guard.purse()
        held = await hold(app, purse, PRICED)
        change(sandbox, PRICED, at, prompt="0.001", completion="0.001")
        with pytest.raises(OverBudget, match=r"for this call; .* is left\. .* or use "):
            await app.guard.permit(asking(PRICED), purse, held=held, **NO_TIME)
        assert (purse.held, await booked(app)) == (NOTHING, (NOTHING, NOTHING))


async def test_a_free_request_held_for_what_now_costs_is_given_back_and_money_is_held(sandbox: Sandbox) -> None:
    at = noon()
    async with opened(sandbox, settings=budget("1"), at=at) as app:
        purse = app.guard.purse()
        held = await hold(app, purse, ZERO)
        assert held.slot
        assert await used_today(app) == 1
        change(sandbox, ZERO, at, prompt="0.000001", completion="0.000001")
        issued = await app.guard.permit(asking(ZERO), purse, held=held, **NO_TIME)
        assert issued.held.charge
        assert issued.held.slot is None
        assert (purse.held, await booked(app)) == (issued.vetted.worst, (NOTHING, issued.vetted.worst))
        assert await used_today(app) == 0


async def test_what_is_held_serves_a_request_that_needs_just_that(sandbox: Sandbox) -> None:
    async with opened(sandbox, settings=budget("1")) as app:
        purse = app.guard.purse()
        vetted = {model: await app.guard.vet(asking(model), purse) for model in (PRICED, FREE)}
        held = {model: await hold(app, purse, model) for model in (PRICED, FREE)}
        both = Held(purse, slot=held[FREE].slot, charge=held[PRICED].charge)
    for model in (PRICED, FREE):
        assert [other for other in held if held[other].serves(vetted[model])] == [model]
        assert not both.serves(vetted[model])
        assert not Held(purse).serves(vetted[model])


async def test_a_question_holds_money_for_itself_and_for_no_batch(sandbox: Sandbox) -> None:
    async with opened(sandbox, settings=budget("1")) as app:
        held = await hold(app, app.guard.purse(), PRICED)
        assert held.charge
        assert not await app.ledger.promises.draw(held.charge)


async def test_what_a_request_did_not_cost_is_left_for_the_next_of_its_call(sandbox: Sandbox) -> None:
    cost = Decimal("0.00001")
    async with opened(sandbox, settings=budget("1")) as app:
        purse = app.guard.purse()
        sent, unsent = [await app.guard.permit(asking(PRICED), purse, **NO_TIME) for _ in range(2)]
        sent.spend()
        assert await app.guard.settle(unsent, End()) == ""
        assert await app.guard.settle(sent, End(Usage(cost=cost), PRICED)) == ""
        assert (purse.held, await booked(app)) == (cost, (cost, NOTHING))
        asked = (await app.ledger.month()).today
        assert {model: (one.asked, one.cost) for model, one in asked.items()} == {PRICED: (1, cost)}


@pytest.mark.parametrize(("begun", "kept"), [(True, WORST), (False, NOTHING)])
async def test_what_failed_after_it_had_begun_may_have_cost_all_that_is_held(
    sandbox: Sandbox, *, begun: bool, kept: Decimal
) -> None:
    async with opened(sandbox, settings=budget("1")) as app:
        purse = app.guard.purse()
        sent = await app.guard.permit(asking(PRICED), purse, **NO_TIME)
        sent.spend()
        assert await app.guard.settle(sent, End(outcome=Outcome.FAILED, begun=begun)) == ""
        assert (purse.held, await booked(app)) == (kept, (NOTHING, kept))


@pytest.mark.parametrize(("generation", "named"), [("gen-7", "gen-7"), ("", "unknown")])
async def test_what_closes_the_guard_is_noted_with_its_generation(
    sandbox: Sandbox, generation: str, named: str
) -> None:
    async with opened(sandbox, settings=budget("1")) as app:
        for end, wrong in (
            (End(Usage(cost=2 * WORST), PRICED, generation), "cost $0.0001254, and $0.0000627 was the most"),
            (End(Usage(cost=NOTHING), "globex/large", generation), "globex/large answered, which costs more"),
            (End(Usage(cost=NOTHING), "acme/unheard-of", generation), ""),
        ):
            sent = await app.guard.permit(asking(PRICED), app.guard.purse(), **NO_TIME)
            sent.spend()
            warning = await app.guard.settle(sent, end)
            closures = await app.ledger.spending.closures()
            await app.ledger.spending.acknowledge(closures, [])
            assert wrong in warning
            assert [closure.reason.endswith(f" (generation {named})") for closure in closures] == [True] * bool(wrong)
        assert warning.startswith("it was answered by 'acme/unheard-of', which is not listed")


async def test_a_budget_of_a_call_as_large_as_the_days_is_named_first(sandbox: Sandbox) -> None:
    async with opened(sandbox, settings=budget("0.0003")) as app:
        with pytest.raises(OverBudget, match="this server's budget for a call is"):
            await app.guard.vet(ChatRequest(model=PRICED, prompt="Hi"), app.guard.purse())


async def test_what_the_person_agreed_to_is_for_all_requests_of_a_call_together(sandbox: Sandbox) -> None:
    async with opened(sandbox, settings=budget("1", confirm_above=2 * WORST)) as app:
        purse = app.guard.purse()
        for held in (WORST, 2 * WORST):
            await hold(app, purse, PRICED)
            assert (purse.held, await booked(app)) == (held, (NOTHING, held))
        with pytest.raises(Declined) as declined:
            await hold(app, purse, PRICED)
        assert declined.value.text == (
            "Asking 'acme/tiny' can cost up to $0.000063, typically $0.000061; "
            "the person is to be asked first above $0.0001254. Nothing was sent."
        )
        assert (purse.held, await booked(app)) == (2 * WORST, (NOTHING, 2 * WORST))


async def test_the_limit_of_a_call_is_for_all_its_requests_together(sandbox: Sandbox) -> None:
    async with opened(sandbox, settings=budget("1", str(2 * WORST))) as app:
        purse = app.guard.purse()
        vetted = await app.guard.vet(asking(PRICED), purse)
        await app.guard.reserve([vetted, vetted], purse, longest_wait=0.0)
        with pytest.raises(OverBudget) as over:
            await app.guard.reserve([vetted], purse, longest_wait=0.0)
        assert over.value.text.endswith("is $0.0001254, of which $0 is left. Nothing was sent. Ask for less.")
        assert (purse.held, await booked(app)) == (2 * WORST, (NOTHING, 2 * WORST))


async def test_what_the_day_does_not_bear_is_not_held_of_the_call_either(sandbox: Sandbox) -> None:
    async with opened(sandbox, settings=budget("1")) as app, opened(sandbox, settings=budget("0.0001", "1")) as poor:
        vetted = await app.guard.vet(asking(PRICED), app.guard.purse())
        purse = poor.guard.purse()
        with pytest.raises(OverBudget, match=r"^over_budget: Asking 'acme/tiny' 2 times .* The day ends"):
            await poor.guard.reserve([vetted, vetted], purse, longest_wait=0.0)
        assert (purse.held, await booked(poor)) == (NOTHING, (NOTHING, NOTHING))


async def test_where_nothing_is_left_of_the_day_its_end_is_named(sandbox: Sandbox) -> None:
    async with opened(sandbox, settings=budget(str(WORST))) as app:
        await hold(app, app.guard.purse(), PRICED)
        with pytest.raises(OverBudget, match=r"of which \$0 is left\. Nothing was sent\. The day ends at 00:00 UTC; "):
            await hold(app, app.guard.purse(), PRICED)


async def test_the_spare_requests_of_a_minute_are_for_who_spares_none(sandbox: Sandbox) -> None:
    async with opened(sandbox) as app:
        purse = app.guard.purse()
        vetted = await app.guard.vet(asking(FREE), purse)
        await app.guard.reserve([vetted] * 18, purse, longest_wait=0.0, spare=2)
        with pytest.raises(MinuteQuota):
            await app.guard.reserve([vetted], purse, longest_wait=0.0, spare=2)
        with pytest.raises(MinuteQuota):
            await app.guard.permit(asking(FREE), purse, **NO_TIME, spare=2)
        await app.guard.reserve([vetted], purse, longest_wait=0.0)
        (last,) = await app.guard.reserve([vetted], purse, longest_wait=0.0)
        await app.guard.give_back(last)
        await app.guard.permit(asking(FREE), purse, **NO_TIME)
        with pytest.raises(MinuteQuota):
            await app.guard.permit(asking(FREE), purse, **NO_TIME)


async def test_a_free_request_is_of_the_share_of_whose_purse_it_is(sandbox: Sandbox) -> None:
    async with opened(sandbox) as app:
        purse = app.guard.purse(caller=Caller("alice", per_minute=1))
        await hold(app, purse, FREE)
        with pytest.raises(MinuteQuota, match="alice's own share"):
            await hold(app, purse, FREE)
        await hold(app, app.guard.purse(), FREE)


async def test_the_last_of_the_day_is_what_a_call_may_cost(sandbox: Sandbox) -> None:
    async with opened(sandbox, settings=budget(str(9 * WORST))) as app:
        purse = app.guard.purse()
        await hold(app, purse, PRICED)
        await hold(app, app.guard.purse(), PRICED)
        vetted = await app.guard.vet(replace(asking(PRICED), max_tokens=4_000), purse)
        assert vetted.shortened
        assert 7 * WORST - Decimal("0.0000006") < vetted.worst <= 7 * WORST


# --- what is left -----------------------------------------------------------------------------------------------------


async def test_what_is_left_is_ones_own_or_the_accounts_whichever_is_less(sandbox: Sandbox) -> None:
    rich, poor = (Caller(name, daily_budget=n * WORST) for name, n in (("rich", 99), ("poor", 3)))
    async with opened(sandbox, settings=budget(str(9 * WORST), str(8 * WORST))) as app:
        own = await app.guard.budget(poor)
        assert (own.daily, own.call, own.left, own.spent.whose) == (3 * WORST, 8 * WORST, 3 * WORST, "poor")
        for caller in (poor, rich):
            await hold(app, app.guard.purse(caller=caller), PRICED)
        own = await app.guard.budget(poor)
        assert (own.left, own.spent.held, own.spent.whose) == (2 * WORST, WORST, "poor")
        for _ in range(6):
            await hold(app, app.guard.purse(caller=rich), PRICED)
        for caller in (poor, rich, NOBODY):
            ours = await app.guard.budget(caller)
            assert (ours.daily, ours.call, ours.left, ours.spent.whose) == (9 * WORST, 8 * WORST, WORST, None)


async def test_a_callers_own_budget_beyond_the_accounts_is_the_accounts(sandbox: Sandbox) -> None:
    rich = Caller("rich", daily_budget=99 * WORST)
    async with opened(sandbox, settings=budget(str(9 * WORST))) as app:
        await hold(app, app.guard.purse(), PRICED)
        assert (await app.guard.budget(rich)).left == 8 * WORST
        assert (await app.guard.budget(rich)).daily == 9 * WORST


async def test_a_closed_guard_reserves_nothing_and_says_why(sandbox: Sandbox) -> None:
    async with opened(sandbox, settings=budget("1")) as app:
        purse = app.guard.purse()
        vetted = [await app.guard.vet(asking(model), purse) for model in (PRICED, FREE)]
        await app.guard.require_open()
        await app.ledger.spending.close("a call cost too much")
        for one in vetted:
            with pytest.raises(GuardClosed, match="nothing is sent: a call cost too much"):
                await app.guard.reserve([one], purse, longest_wait=0.0)
        for caller in (NOBODY, Caller("poor", daily_budget=WORST)):
            assert [closure.reason for closure in (await app.guard.budget(caller)).closures] == ["a call cost too much"]
        assert (purse.held, await booked(app), await used_today(app)) == (NOTHING, (NOTHING, NOTHING), 0)


async def test_what_others_hold_is_missing_where_a_batch_asks_whether_the_day_bears_it(sandbox: Sandbox) -> None:
    poor = Caller("poor", daily_budget=2 * WORST)
    async with opened(sandbox, settings=budget(str(3 * WORST))) as app:
        vetted = await app.guard.vet(asking(PRICED), app.guard.purse())
        await app.guard.require_left([vetted] * 3)
        await app.guard.require_left([vetted] * 2, poor)
        await app.guard.require_left([])
        with pytest.raises(OverBudget, match="poor's own budget of the day"):
            await app.guard.require_left([vetted] * 3, poor)
        await hold(app, app.guard.purse(), PRICED)
        with pytest.raises(OverBudget, match=r"^over_budget: Asking 'acme/tiny' 3 times can cost up to .*; the budget"):
            await app.guard.require_left([vetted] * 3)
