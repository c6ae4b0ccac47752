"""Money with a budget, as an agent meets it: who is asked, within which limits, and what each refusal says."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from budgets import CALL, NOTHING, THREE, TINY, WORST, booked, budget, noon, served
from support import SETTINGS, ask, opened, until

from openrouter_mcp.callers import Caller
from openrouter_mcp.purse import Purse
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings, load

FREE_PRICE = dict.fromkeys(("prompt", "completion", "request", "image", "audio"), "0")


# --- within the budget ----------------------------------------------------------------------------------------------


async def test_a_priced_model_within_the_budget_is_asked_and_its_cost_is_booked(sandbox: Sandbox) -> None:
    async with served(sandbox) as (app, client):
        text, record, is_error = await ask(client, prompt="Hi", model=TINY)
        assert not is_error
        assert await booked(app) == (sandbox.bill, NOTHING)
        assert Decimal(record["cost_usd"]) == sandbox.bill > 0
        assert text.endswith(f", ${sandbox.bill:f}, ${1 - sandbox.bill:f} of the day's $1 left; id {record['id']}]")
        shown, account, _ = await ask(client, "check_credits")
    assert f"Spent today by model: {TINY} ${sandbox.bill:f}." in shown
    assert {model: Decimal(cost) for model, cost in account["spent_today_usd"].items()} == {TINY: sandbox.bill}
    assert sandbox.chats[0].body["provider"]["max_price"] == FREE_PRICE | {"prompt": "0.15", "completion": "0.6"}


SHORT = "Write 5000 words."


A_CENT_A_DAY = replace(SETTINGS, policy=load({"OPENROUTER_MCP_DAILY_BUDGET_USD": "0.01"}).policy)


@pytest.mark.parametrize(("settings", "more"), [(A_CENT_A_DAY, {}), (budget("1"), {"max_cost_usd": 0.001})])
async def test_a_paid_answer_is_as_long_as_the_calls_budget_bears_and_says_so(
    sandbox: Sandbox, settings: Settings, more: dict[str, Any]
) -> None:
    """The budget of a call is a tenth of the day's unless set; `max_cost_usd` lowers it."""
    async with served(sandbox, settings) as (app, client):
        text, record, _ = await ask(client, prompt=SHORT, model=TINY, **more)
        most = sandbox.chats[0].body["max_tokens"]
        tokens_in = len(SHORT) + 16
        assert 0 <= Decimal("0.001") - tokens_in * Decimal("1.5e-7") - most * Decimal("6e-7") < Decimal("6e-7")
        assert f"[incomplete: cut off at max_tokens ({most}, all that its budget bears); ask" in text
        assert record["status"] == "partial"
        assert await booked(app) == (sandbox.bill, NOTHING)


@pytest.mark.parametrize("max_cost", [None, 0.001, "1", 10**20])
async def test_max_cost_usd_above_the_budget_of_a_call_changes_nothing(sandbox: Sandbox, max_cost: object) -> None:
    more: dict[str, Any] = {} if max_cost is None else {"max_cost_usd": max_cost}
    async with served(sandbox, budget("1", "0.001")) as (_, client):
        await ask(client, prompt="Hi", model=TINY, **more)
    assert sandbox.chats[0].body["max_tokens"] == 1662


@pytest.mark.parametrize("bad", [-1, "-1", "NaN", "Infinity", "1e400", "1e-400", "free", True, [1]])
async def test_a_max_cost_usd_that_is_no_amount_is_refused(sandbox: Sandbox, bad: object) -> None:
    async with served(sandbox) as (_, client):
        for tool, more in (("ask_model", {"model": TINY}), ("compare_models", {"models": [TINY, "acme/old"]})):
            text, record, is_error = await ask(client, tool, prompt="Hi", max_cost_usd=bad, **more)
            assert is_error
            assert record["code"] == "invalid_request"
            assert text.startswith("invalid_request: max_cost_usd ")
    assert sandbox.chats == []


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
async def test_a_number_beyond_all_numbers_is_refused_too(sandbox: Sandbox, bad: float) -> None:
    """What a JSON parser makes of 1e400; our own client would not send it."""
    async with opened(sandbox, settings=budget("1")) as app:
        result = await build(app).call_tool("ask_model", {"prompt": "Hi", "model": TINY, "max_cost_usd": bad})
    assert "max_cost_usd must be a finite number" in result.model_dump_json()
    assert sandbox.chats == []


async def test_an_answer_of_less_than_512_tokens_is_not_bought_unless_asked_for(sandbox: Sandbox) -> None:
    async with served(sandbox, budget("1", "0.0003")) as (app, client):
        text, record, _ = await ask(client, prompt="Hi", model=TINY)
        assert record["code"] == "over_budget"
        assert f"'{TINY}' can cost up to $0.0025, typically $0.00031 for this call" in text
        assert "this server's budget for a call is $0.0003, of which $0.0003 is left. Nothing was sent." in text
        assert await booked(app) == (NOTHING, NOTHING)
        assert sandbox.chats == []
        _, _, is_error = await ask(client, **CALL)
    assert not is_error


# --- nothing to spend -----------------------------------------------------------------------------------------------

# model, code where nothing may be spent, code where a dollar may, words
NOT_FREE = {
    TINY: ("not_free", "$0.15 in, $0.60 out per million tokens, which is up to $0.0025 for this call, typically $0.00"),
    "openrouter/auto": ("not_free", "routers"),
    "trap/request:free": ("not_free", "not plainly zero"),
    "acme/tiny:nitro": ("not_free", "routing suffix"),
    "stealth/heron-alpha": ("not_free", "not a `:free` variant"),
    "acme/nothing": ("unknown_model", "No model"),
}


@pytest.mark.parametrize(("model", "code", "words"), [(model, *said) for model, said in NOT_FREE.items()])
async def test_no_budget_and_no_max_cost_are_the_same_guard(
    sandbox: Sandbox, model: str, code: str, words: str
) -> None:
    said = []
    servers: list[tuple[Settings, dict[str, Any], str]] = [
        (SETTINGS, {}, "This server's budget is $0 (free models only), so nothing was sent."),
        (budget("1"), {"max_cost_usd": 0}, "This call's max_cost_usd is $0, so nothing was sent."),
        (budget("1", "0"), {}, "This server's budget for a call is $0, so nothing was sent."),
    ]
    for settings, more, limit in servers:
        async with served(sandbox, settings) as (_, client):
            text, record, is_error = await ask(client, prompt="Hi", model=model, **more)
        assert is_error
        assert record["code"] == code
        assert words in text
        if code == "not_free":
            assert limit in text
            assert " Use " in text
        said.append(text.replace(limit, ""))
    assert len(set(said)) == 1
    assert sandbox.chats == []


UNBOUNDED = [
    "openrouter/auto", "openrouter/fusion", "openrouter/pareto-code", "@preset/mine", "acme/tiny@preset/mine",
    "~acme/tiny-latest", "acme/tiny:online", "acme/tiny:free:nitro", "umbrella/painter",
]  # fmt: skip


@pytest.mark.parametrize(("daily", "call"), [("10000000", "1000000"), ("0.01", "0.001")])
async def test_what_has_no_bounded_price_is_refused_at_any_budget_and_two_that_have_one_are_named(
    sandbox: Sandbox, daily: str, call: str
) -> None:
    row = next(row for row in sandbox.catalog if row["id"] == TINY)
    sandbox.catalog.append(row | {"id": "acme/newest", "alias_target": {"slug": "globex/large"}})
    async with served(sandbox, budget(daily, call)) as (_, client):
        for model in (*UNBOUNDED, "acme/newest"):
            text, record, is_error = await ask(client, prompt="Hi", model=model)
            assert is_error
            assert record["code"] == "cannot_verify_price"
            assert text.startswith(f"cannot_verify_price: {model!r} ")
            assert "so its price has no bound, no budget can hold it, and nothing was sent." in text
            _, _, named = text.partition(" Name a model, such as ")
            one, _, other, *_ = named.replace(". ", " ").split()
        assert sandbox.chats == []
        for model in (one, other):
            _, _, is_error = await ask(client, prompt="Hi", model=model)
            assert not is_error


# --- the purse of a call --------------------------------------------------------------------------------------------

LESS, LEAST = Decimal("0.45"), Decimal("0.35")
A_CALL, OWN = "this server's budget for a call is $0.55", "the own budget of alice for a day is $"
OURS = "this server's budget is $0 (free models only)"
# the day's budget, the caller's own, max_cost_usd, the limit, its name; a call's budget is $0.55
LIMITS = {
    "a call's": ("1", None, None, Decimal("0.55"), A_CALL),
    "none": ("0", None, None, NOTHING, OURS),
    "none in any way": ("0", NOTHING, NOTHING, NOTHING, OURS),
    "their own": ("1", LESS, None, LESS, f"{OWN}0.45"),
    "their own, as large": ("1", Decimal("0.55"), None, Decimal("0.55"), A_CALL),
    "their own, larger": ("1", Decimal("0.65"), None, Decimal("0.55"), A_CALL),
    "their own, nothing": ("1", NOTHING, None, NOTHING, f"{OWN}0 (free models only)"),
    "the call's": ("1", None, LEAST, LEAST, "this call's max_cost_usd is $0.35"),
    "the call's, nothing": ("1", None, NOTHING, NOTHING, "this call's max_cost_usd is $0"),
    "the call's, as large": ("1", None, Decimal("0.55"), Decimal("0.55"), A_CALL),
    "the call's of both": ("1", LESS, LEAST, LEAST, "this call's max_cost_usd is $0.35"),
    "their own of both": ("1", LESS, LESS, LESS, f"{OWN}0.45"),
}


@pytest.mark.parametrize("case", LIMITS)
async def test_a_call_may_cost_the_least_of_the_limits_and_that_one_is_named(sandbox: Sandbox, case: str) -> None:
    daily, own, max_cost, limit, name = LIMITS[case]
    alice = Caller("alice", daily_budget=own)
    async with opened(sandbox, settings=budget(daily, "0.55")) as app:
        purse = app.guard.purse(max_cost, caller=alice)
    assert purse == Purse(limit, name, agreed=None, held=NOTHING, caller=alice)


@pytest.mark.parametrize(("confirm", "agreed", "unasked"), [(None, 1, None), (LEAST, 0, LEAST), (LEAST, 1, 1)])
async def test_the_person_is_asked_above_their_limit_or_what_they_agreed_to(
    sandbox: Sandbox, confirm: Decimal | None, agreed: int, unasked: Decimal | int | None
) -> None:
    async with opened(sandbox, settings=budget("1", confirm_above=confirm)) as app:
        assert app.guard.purse(agreed=Decimal(agreed)).agreed == unasked
        assert app.guard.purse().agreed == confirm


@pytest.mark.parametrize(("daily", "name"), [("1", "a call that names no model is free"), ("0", OURS)])
async def test_a_call_that_names_no_model_has_an_empty_purse(sandbox: Sandbox, daily: str, name: str) -> None:
    alice = Caller("alice")
    async with opened(sandbox, settings=budget(daily)) as app:
        assert app.guard.nothing(alice) == Purse(NOTHING, name, caller=alice)


@pytest.mark.parametrize("default", [TINY, f"{TINY}:free"])
async def test_the_users_default_model_is_for_calls_that_can_pay_for_it(sandbox: Sandbox, default: str) -> None:
    rich, poor = Caller("alice"), Caller("bob", daily_budget=NOTHING)
    free_only = default if default.endswith(":free") else ""
    async with opened(sandbox, settings=budget("1", default_model=default)) as app:
        chosen = [app.guard.default_model(*call) for call in ((None, rich), (NOTHING, rich), (None, poor))]
    assert chosen == [default, free_only, free_only]


# --- the budget of the day ------------------------------------------------------------------------------------------


async def test_a_day_that_is_used_up_is_said_with_what_is_held_and_the_next_is_new(sandbox: Sandbox) -> None:
    at = noon()
    sandbox.fail(Fault(reset=True))
    async with served(sandbox, budget("0.0001"), at=at) as (app, client):
        await ask(client, **CALL)
        text, record, is_error = await ask(client, **CALL)
        assert is_error
        assert record["code"] == "over_budget"
        assert f"'{TINY}' can cost up to $0.000063, typically" in text
        assert (
            "the budget of the day is $0.0001 ($0.0000627 is held for calls whose cost is not known yet), of " in text
        )
        assert "of which $0.0000373 is left. Nothing was sent." in text
        assert len(sandbox.chats) == 1
        _, _, is_error = await ask(client, **CALL | {"model": "acme/tiny:free"})
        assert not is_error
        at.now += 43_200
        _, _, is_error = await ask(client, **CALL)
        assert not is_error
        assert await booked(app) == (sandbox.bill, NOTHING)


# --- comparisons ----------------------------------------------------------------------------------------------------


async def test_free_and_priced_models_are_compared_and_the_whole_worst_case_is_held_first(sandbox: Sandbox) -> None:
    held: list[Decimal] = []
    async with served(sandbox) as (app, client):

        async def note(_: float) -> None:
            held.append((await app.guard.budget()).spent.in_all)
            await until(lambda: len(held) == 3)  # before any of them is answered

        sandbox.sleep, sandbox.delay_s = note, 1.0
        text, record, _ = await ask(client, "compare_models", prompt="Hi", models=THREE, max_tokens=100)
        assert await booked(app) == (sandbox.bill, NOTHING)
    assert held == [WORST + 18 * Decimal("8e-7") + 100 * Decimal("3.2e-6")] * 3  # when each was asked
    assert [row["status"] for row in record["rows"]] == ["complete"] * 3
    assert [Decimal(row["cost_usd"]) > 0 for row in record["rows"]] == [True, False, True]
    assert text.endswith(f"${1 - sandbox.bill:f} of the day's $1 left]")


async def test_a_comparison_that_does_not_fit_says_what_it_would_cost_and_sends_nothing(sandbox: Sandbox) -> None:
    async with served(sandbox, budget("1", "0.0005")) as (app, client):
        text, record, is_error = await ask(client, "compare_models", prompt="Hi", models=[TINY, "soylent/chat"])
        assert is_error
        assert record["code"] == "over_budget"
        assert "Asking 2 models can cost up to $0.001 (acme/tiny $0.0005, soylent/chat $0.0005), typically" in text
        assert "this server's budget for a call is $0.0005, of which $0.0005 is left. Nothing was sent." in text
        assert await booked(app) == (NOTHING, NOTHING)
    assert sandbox.chats == []


async def test_models_share_equally_what_does_not_bear_the_longest_answers_of_all(sandbox: Sandbox) -> None:
    async with served(sandbox, budget("1", "0.001")) as (app, client):
        _, record, _ = await ask(
            client, "compare_models", prompt="Hi", models=[TINY, "soylent/chat", "acme/old:free"], max_cost_usd=0.0009
        )
        assert await booked(app) == (sandbox.bill, NOTHING)
    assert [row["status"] for row in record["rows"]] == ["complete"] * 3
    sent = {chat.body["model"]: chat.body["max_tokens"] for chat in sandbox.chats}
    assert sent == {TINY: 745, "soylent/chat": 1495, "acme/old:free": 2048}  # $0.00045 each


async def test_a_model_that_is_over_the_budget_alone_is_a_row(sandbox: Sandbox) -> None:
    async with served(sandbox, budget("1", "0.001")) as (app, client):
        models = [TINY, "globex/large", "openrouter/auto", "globex/large:free"]
        text, record, is_error = await ask(client, "compare_models", prompt="Hi", models=models, max_tokens=600)
        assert await booked(app) == (sandbox.bill, NOTHING)
    assert not is_error
    codes = [row.get("code", row["status"]) for row in record["rows"]]
    assert codes == ["complete", "over_budget", "cannot_verify_price", "complete"]
    assert "## globex/large\n\nover_budget: 'globex/large' can cost up to $0.0061, typically " in text
    assert len(sandbox.chats) == 2


async def test_a_comparison_whose_free_rows_have_no_slot_holds_no_money(sandbox: Sandbox) -> None:
    async with served(sandbox) as (app, client):
        await app.ledger.reserve(20, longest_wait=0)
        _, record, _ = await ask(client, "compare_models", prompt="Hi", models=THREE)
        assert record["code"] == "minute_quota"
        assert await booked(app) == (NOTHING, NOTHING)
    assert sandbox.chats == []


# --- who is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["ask_model", "compare_models"])
async def test_a_call_that_names_no_model_is_free_whatever_the_budget(sandbox: Sandbox, tool: str) -> None:
    sandbox.fail(faults.pool_busy())  # the next choice is free as well
    async with served(sandbox, budget("1000")) as (app, client):
        for _ in range(2):
            text, _, is_error = await ask(client, tool, prompt="Hi")
            assert not is_error
            assert "free requests left today" in text
        assert await booked(app) == (NOTHING, NOTHING)
    for body in (chat.body for chat in sandbox.chats):
        assert all(model.endswith(":free") for model in (body["model"], *body.get("models", [])))
        assert body["provider"]["max_price"] == FREE_PRICE
    assert sandbox.bill == 0


async def test_the_users_default_model_is_asked_where_none_is_named_and_may_cost(sandbox: Sandbox) -> None:
    async with served(sandbox, budget("1", default_model=TINY)) as (_, client):
        _, record, _ = await ask(client, prompt="Hi")
        assert record["model"] == TINY
        assert sandbox.bill > 0
        bill = sandbox.bill
        for tool, more in (("ask_model", {"max_cost_usd": 0}), ("compare_models", {})):
            _, _, is_error = await ask(client, tool, prompt="Hi", **more)
            assert not is_error
    assert sandbox.bill == bill


# allowed, denied, model, whether it may be asked
LISTS: list[tuple[str, str, str, bool]] = [
    ("", "", TINY, True),
    ("acme/", "", "acme/tiny:free", True),
    ("acme/", "", "globex/large:free", False),
    (TINY, "", TINY, True),
    (TINY, "", "acme/tiny:free", False),
    ("", TINY, "acme/tiny:free", False),
    ("", "acme/", TINY, False),
    ("acme/", "acme/old", "acme/old:free", False),
    ("acme/", "acme/old", TINY, True),
]


@pytest.mark.parametrize(("allowed", "denied", "model", "may"), LISTS)
async def test_the_users_lists_decide_who_may_be_asked(
    sandbox: Sandbox, allowed: str, denied: str, model: str, *, may: bool
) -> None:
    lists: dict[str, Any] = {"allowed": tuple(allowed.split()), "denied": tuple(denied.split())}
    async with served(sandbox, budget("1", **lists)) as (_, client):
        text, record, is_error = await ask(client, prompt="Hi", model=model)
    assert is_error is not may
    assert len(sandbox.chats) == may
    if not may:
        assert record["code"] == "not_allowed"
        assert text.startswith(f"not_allowed: This server's user decided which models may be asked, and '{model}' is ")


async def test_what_we_choose_and_show_keeps_to_the_users_lists(sandbox: Sandbox) -> None:
    lists: dict[str, Any] = {"allowed": ("acme/", "soylent/", "wonka/"), "denied": ("acme/old",)}
    mine = {"acme/tiny:free", "soylent/chat:free", "wonka/long:free"}
    sandbox.fail(faults.pool_busy())
    async with served(sandbox, budget("1", **lists)) as (_, client):
        _, record, _ = await ask(client, "list_free_models")
        assert {row["model"] for row in record["rows"]} == mine
        for model in ("", "openrouter/free"):
            await ask(client, prompt="Hi", model=model)
        _, record, _ = await ask(client, "compare_models", prompt="Hi")
        assert {row["model"] for row in record["rows"]} <= mine
        text, _, _ = await ask(client, prompt="Hi", model="openrouter/auto")
        assert "Name a model, such as wonka/long or acme/tiny." in text
        text, _, _ = await ask(client, prompt="Hi", model="globex/large")
        assert "Use acme/tiny:free or soylent/chat:free." in text  # wonka has just been busy
        sandbox.clear()
        _, record, _ = await ask(client, "compare_models", prompt="Hi", models=["openrouter/free", "acme/old:free"])
        assert record["code"] == "not_allowed"
        assert sandbox.chats == []
    for chat in sandbox.chats:
        assert {chat.body["model"], *chat.body.get("models", [])} <= mine


async def test_a_price_that_rises_after_the_check_is_stopped_by_openrouter(sandbox: Sandbox) -> None:
    async with served(sandbox) as (app, client):
        await ask(client, "list_free_models")
        next(row for row in sandbox.catalog if row["id"] == TINY)["pricing"]["completion"] = "0.0000007"
        text, record, _ = await ask(client, **CALL)
        assert record["code"] == "no_provider"
        assert "max_price" in text
        assert await booked(app) == (NOTHING, NOTHING)
    assert sandbox.bill == 0


@pytest.mark.parametrize("spoiled", ["set aside", "newer"])
async def test_without_the_shared_book_nothing_that_costs_is_sent(
    sandbox: Sandbox, tmp_path: Path, spoiled: str
) -> None:
    file = tmp_path / "ledger.db"
    if spoiled == "set aside":
        file.write_bytes(b"not a book " * 200)
    else:
        with closing(sqlite3.connect(file)) as other:
            other.execute("PRAGMA user_version=99")
    file.chmod(0o600)
    settings = replace(budget("1"), state_dir=tmp_path)
    calls = [("ask_model", CALL), ("compare_models", {"prompt": "Hi", "models": THREE})]
    for _ in range(2):  # also after a restart
        async with served(sandbox, settings) as (_, client):
            for tool, arguments in calls:
                text, record, is_error = await ask(client, tool, **arguments)
                assert is_error
                assert record["code"] == "cannot_reserve"
                assert "Free models can be asked. Tell the user" in text
            assert sandbox.chats == []
            _, _, is_error = await ask(client, prompt="Hi", model="acme/tiny:free")
            assert not is_error
            sandbox.clear()
    async with opened(sandbox, settings=settings) as app:
        await app.ledger.spending.acknowledge([], await app.ledger.spending.doubts())
    async with served(sandbox, settings) as (_, client):  # a person has seen it; what is newer stays unusable
        _, _, is_error = await ask(client, **CALL)
    assert is_error is (spoiled == "newer")
