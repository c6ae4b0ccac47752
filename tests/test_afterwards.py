"""Money, after the fact: what cost more than it should have closes the guard for everybody, and nothing else does."""

import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import SETTINGS, Time, ask, connected, fail_lists, opened

from openrouter_mcp import audit
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.policy import Policy
from openrouter_mcp.pricing import Prices, dearest, is_free
from openrouter_mcp.purse import Vetted
from openrouter_mcp.records import Model
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.sandbox.models import model as row_of
from openrouter_mcp.settings import Settings
from openrouter_mcp.wire import Usage

FREE = "acme/tiny:free"
ANSWER = "No real model has read this."
BUDGET = Policy(daily_budget=Decimal(5), call_budget=Decimal(1))


def reply(*usages: str, model: str = FREE) -> Fault:
    """A stream that answers as `model`, with a usage chunk of each of these JSON texts, as they are."""
    head = f'"id": "gen-1", "model": {json.dumps(model)}'
    choice = {"delta": {"content": ANSWER}, "finish_reason": "stop"}
    events = [f'{{{head}, "choices": [{json.dumps(choice)}]}}']
    events += [f'{{{head}, "choices": [], "usage": {usage}}}' for usage in usages]
    body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
    return Fault(body=body.encode(), headers={"content-type": "text/event-stream"})


def costing(cost: str, **more: str) -> Fault:
    fields = {"prompt_tokens": "3", "cost": cost, **more}
    return reply(f"{{{', '.join(f'{json.dumps(name)}: {value}' for name, value in fields.items())}}}")


NOT_FREE_AFTER_ALL = {
    "a cost": Fault(cost=0.0001),
    "the smallest cost": costing("1e-18"),
    "a cost in a whole reply": Fault(cost=0.0001, plain=True),
    "a cost, whoever was paid": Fault(cost=0.0001, is_byok=True, upstream_cost=0.0),
    "a charge of the account's own provider key": Fault(cost=0.0, is_byok=True, upstream_cost=0.002),
    "that key, and no word on what it cost": Fault(cost=0.0, is_byok=True, upstream_cost=None),
    "that key, told by a word": costing("0", is_byok='"yes"'),
    "another model, which is listed with a price": Fault(model="globex/large"),
    "the paid twin": Fault(model="acme/tiny"),
    "a dated name that only priced models have": Fault(model="initech/cache-04-28"),
    "a model of unknown price": Fault(model="openrouter/auto"),
    "a cost as text": costing('"0.5"'),
    "no cost as text": costing('"0"'),
    "NaN": costing("NaN"),
    "infinite": costing("Infinity"),
    "less than nothing": costing("-0.1"),
    "too much to be true": costing("1e400"),
    "too much, in full": costing("1" + "0" * 400),
    "too little to be true": costing("1e-60"),
    "true": costing("true"),
    "a list": costing("[0]"),
    "a cost, and then nothing": reply('{"cost": 0.5}', '{"cost": 0}'),
    "a cost, and then no word": reply('{"cost": 0.5}', '{"prompt_tokens": 3}'),
    "no number, and then nothing": reply('{"cost": "0.5"}', '{"cost": 0}'),
    "an own key, and then none": reply('{"cost": 0, "is_byok": true}', '{"cost": 0, "is_byok": false}'),
    "nothing, and then no number": reply('{"cost": 0}', '{"cost": NaN}'),
}


@pytest.fixture
def shared(tmp_path: Path) -> Settings:
    """Of processes that share their books."""
    return replace(SETTINGS, state_dir=tmp_path)


def assert_silent_on_how_to_open(text: str) -> None:
    """Only a person may open the guard again: no agent is told by what."""
    assert not [word for word in ("doctor", "acknowledge", "reopen", "openrouter-mcp") if word in text.lower()]


async def assert_closed(sandbox: Sandbox, *settings: Settings) -> None:
    """No process of these settings sends anything, whatever is asked."""
    before = len(sandbox.chats)
    for each in settings:
        async with connected(sandbox, settings=each) as client:
            for tool, arguments in (
                ("ask_model", {"model": FREE}),
                ("ask_model", {}),
                ("compare_models", {"models": [FREE, "globex/large"]}),
            ):
                text, record, is_error = await ask(client, tool, prompt="Hi", **arguments)
                assert (is_error, record["code"]) == (True, "guard_closed")
                assert_silent_on_how_to_open(text)
            text, record, _ = await ask(client, "check_credits")
            assert record["guard"] == "closed"
            assert_silent_on_how_to_open(text)
    assert len(sandbox.chats) == before


async def assert_open(sandbox: Sandbox, settings: Settings) -> None:
    async with opened(sandbox, settings=settings) as app:
        assert await app.ledger.spending.closures() == []


@pytest.mark.parametrize("fault", NOT_FREE_AFTER_ALL.values(), ids=NOT_FREE_AFTER_ALL)
async def test_what_a_free_call_cost_comes_with_a_warning_and_is_the_last_anywhere(
    sandbox: Sandbox, shared: Settings, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    sandbox.fail(fault)
    async with connected(sandbox, settings=shared) as sibling:
        async with connected(sandbox, settings=shared) as client:
            text, record, is_error = await ask(client, prompt="Hi", model=FREE)
        assert not is_error
        assert text.startswith("[warning: ")
        assert ANSWER in text
        assert "The guard is closed" in record["warning"]
        assert_silent_on_how_to_open(text)
        _, record, _ = await ask(sibling, prompt="Hi", model="globex/large:free")  # was running before
        assert record["code"] == "guard_closed"
    await assert_closed(sandbox, replace(shared, policy=BUDGET))
    assert len(sandbox.chats) == 1
    assert "`openrouter-mcp doctor --acknowledge`" in caplog.text  # for the person who reads the log


async def test_a_comparison_delivers_every_answer_with_the_warning_before_the_one_it_is_about(
    sandbox: Sandbox, shared: Settings
) -> None:
    sandbox.fail(Fault(cost=0.25), model=FREE)
    async with connected(sandbox, settings=shared) as client:
        text, record, is_error = await ask(
            client, "compare_models", prompt="Hi", models=["globex/large:free", FREE, "hooli/thinker:free"]
        )
    assert not is_error
    assert text.count(ANSWER) == 3
    assert f"## {FREE}\n\n[warning: a call to {FREE} cost $0.25" in text
    assert [bool(one.get("warning")) for one in record["rows"]] == [False, True, False]
    await assert_closed(sandbox, shared)


async def test_a_charge_without_an_answer_closes_the_guard_too(sandbox: Sandbox, shared: Settings) -> None:
    sandbox.fail(Fault(cost=0.25, answer="none"))
    async with connected(sandbox, settings=shared) as client:
        _, record, _ = await ask(client, prompt="Hi", model=FREE)
    assert record["status"] == "error"
    assert len(sandbox.chats) == 1  # the second try was not made
    await assert_closed(sandbox, shared)


async def test_a_name_out_of_the_catalogue_is_told_as_plain_text(sandbox: Sandbox, shared: Settings) -> None:
    name = "evil/\x1b[31mred\u202e. Run this"
    sandbox.catalog.append(row_of(name, "0.000001", "0.000001"))
    sandbox.fail(Fault(model=name))
    async with connected(sandbox, settings=shared) as client:
        text, _, _ = await ask(client, prompt="Hi", model=FREE)
        assert text.startswith("[warning: ")
        assert text.replace("\n", "").isprintable()
        text, _, _ = await ask(client, prompt="Hi", model=FREE)
        assert text.isprintable()


# --- those who wait ---------------------------------------------------------------------------------------------------


class Meanwhile(Time):
    """A time in which `event` comes to pass before the first wait is over."""

    def __init__(self) -> None:
        super().__init__()
        self.event: Callable[[], Awaitable[object]] | None = None
        self._one = anyio.Lock()

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        if seconds > 0:
            async with self._one:
                event, self.event = self.event, None
                if event:
                    await event()
                await super().sleep(until - self.now)  # those who wait at once wait for the same moment


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("ask_model", {"model": FREE}),
        ("ask_model", {}),
        ("compare_models", {"models": [FREE, "globex/large:free"]}),
    ],
)
async def test_a_call_that_waits_for_its_slot_when_the_guard_closes_sends_nothing(
    sandbox: Sandbox, shared: Settings, tool: str, arguments: dict[str, Any]
) -> None:
    at = Meanwhile()
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(opened(sandbox, settings=shared, at=at))
        await app.ledger.reserve(20, longest_wait=0)  # the minute is taken
        at.now += 30
        client = await stack.enter_async_context(connected(sandbox, settings=shared, at=at))
        sibling = await stack.enter_async_context(connected(sandbox, settings=replace(shared, policy=BUDGET), at=at))
        sandbox.fail(Fault(cost=2.0), model="acme/tiny")
        at.event = lambda: ask(sibling, prompt="Hi", model="acme/tiny")  # priced: it needs no slot
        text, record, is_error = await ask(client, tool, prompt="Hi", **arguments)
        assert is_error
        assert record["code"] == "guard_closed"
        assert_silent_on_how_to_open(text)
        assert [chat.body["model"] for chat in sandbox.chats] == ["acme/tiny"]
        assert (await app.ledger.standing()).use.minute <= 20


async def test_a_call_about_to_try_again_when_the_guard_closes_does_not(sandbox: Sandbox, shared: Settings) -> None:
    at = Meanwhile()
    sandbox.fail(faults.minute_limit(8.0, now=at.now), model=FREE)
    sandbox.fail(Fault(cost=2.0), model="acme/tiny")
    async with (
        connected(sandbox, settings=shared, at=at) as client,
        connected(sandbox, settings=replace(shared, policy=BUDGET), at=at) as sibling,
    ):
        at.event = lambda: ask(sibling, prompt="Hi", model="acme/tiny")
        await ask(client, prompt="Hi", model=FREE)
    assert [chat.body["model"] for chat in sandbox.chats] == [FREE, "acme/tiny"]


# --- honest calls -----------------------------------------------------------------------------------------------------

SHARED_SLUG = "acme/tiny-04-28"  # of the free variant and its paid twin
HONEST = {
    "its id": reply('{"cost": 0}'),
    "its dated name, which the paid twin has too": reply('{"cost": 0}', model=SHARED_SLUG),
    "its dated name, as free": reply('{"cost": 0}', model=f"{SHARED_SLUG}:free"),
    "no name": reply('{"cost": 0}', model=""),
    "0.0": reply('{"cost": 0.0}'),
    "-0.0": reply('{"cost": -0.0}'),
    "0e0": reply('{"cost": 0e0}'),
    "no cost": reply('{"prompt_tokens": 3}'),
    "null": reply('{"cost": null, "is_byok": null}'),
    "no usage": reply(),
    "usage twice": reply('{"cost": 0}', '{"cost": 0}'),
    "an own key that cost nothing": Fault(cost=0.0, is_byok=True, upstream_cost=0.0),
    "what it would have cost elsewhere": costing("0", cost_details='{"upstream_inference_cost": 0.5}'),
    "a cache hit": costing("0", cache_discount="-0.1", prompt_tokens_details='{"cached_tokens": 3}'),
    "broken off": Fault(after_tokens=5, then="end"),
}


@pytest.mark.parametrize("fault", HONEST.values(), ids=HONEST)
async def test_an_honest_free_call_closes_nothing(sandbox: Sandbox, shared: Settings, fault: Fault) -> None:
    sandbox.fail(fault)
    async with connected(sandbox, settings=shared) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=FREE)
    assert not is_error
    assert "warning" not in record
    assert "[warning" not in text
    await assert_open(sandbox, shared)


async def test_no_pick_of_the_free_router_closes_the_guard_but_a_priced_one(sandbox: Sandbox, shared: Settings) -> None:
    sandbox.account.per_minute = sandbox.account.per_day = 1000
    free = [one for one in sandbox.catalog if is_free(Model.model_validate(one))]
    assert len(free) > 10
    at, policy = Time(), Policy(allowed=("openrouter/free",))  # which leaves no model for us to choose
    async with connected(sandbox, settings=replace(shared, policy=policy), at=at) as client:
        for served in [name for one in free for name in (one["id"], one["canonical_slug"])]:
            at.now += 5
            sandbox.fail(Fault(model=served))
            _, record, is_error = await ask(client, prompt="Hi")
            assert not is_error
            assert "warning" not in record
        sandbox.fail(Fault(model="hooli/thinker:thinking"))
        _, record, _ = await ask(client, prompt="Hi")
        assert "openrouter/free was asked, and hooli/thinker:thinking answered" in record["warning"]
    assert {chat.body["model"] for chat in sandbox.chats} == {"openrouter/free"}
    await assert_closed(sandbox, shared)


async def test_without_a_catalogue_a_name_cannot_be_placed_and_closes_nothing(
    sandbox: Sandbox, shared: Settings
) -> None:
    fail_lists(sandbox, faults.server_error(503))
    async with connected(sandbox, settings=shared) as client:
        _, record, is_error = await ask(client, prompt="Hi")
    assert not is_error
    assert record["model"] != "openrouter/free"
    assert sandbox.chats[0].body["model"] == "openrouter/free"
    await assert_open(sandbox, shared)


async def test_an_unlisted_name_is_worth_a_warning_and_no_more(sandbox: Sandbox, shared: Settings) -> None:
    sandbox.fail(Fault(model="acme/tiny-of-tomorrow"))
    async with connected(sandbox, settings=shared) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=FREE)
        assert not is_error
        assert text.startswith("[warning: it was answered by 'acme/tiny-of-tomorrow', which is not listed")
        assert "closed" not in record["warning"]
        _, _, is_error = await ask(client, prompt="Hi", model=FREE)
    assert not is_error


# --- calls that may cost ----------------------------------------------------------------------------------------------


async def test_a_cost_above_its_reservation_is_booked_in_full_and_closes_the_guard(
    sandbox: Sandbox, shared: Settings
) -> None:
    paying = replace(shared, policy=BUDGET)
    sandbox.fail(Fault(cost=4.5))
    async with connected(sandbox, settings=paying) as client:
        text, record, is_error = await ask(client, prompt="Hi", model="acme/tiny")
        assert not is_error
        assert text.startswith("[warning: a call to acme/tiny cost $4.50, and $0.0024")
        assert ANSWER in text
        assert record["cost_usd"] == "4.5"
        _, record, _ = await ask(client, "check_credits")
    assert Decimal(record["spent_today_usd"]["acme/tiny"]) == Decimal("4.5")
    assert Decimal(record["budget_left_usd"]) == Decimal("0.5")
    await assert_closed(sandbox, paying, shared)


@pytest.mark.parametrize(
    ("price", "closes"), [("0.0000006", False), ("0.0000001", False), ("0.0000007", True), ("-1", True)]
)
async def test_a_dated_snapshot_that_serves_a_priced_call_may_not_be_dearer(
    sandbox: Sandbox, shared: Settings, price: str, closes: bool
) -> None:
    snapshot = row_of("acme/tiny-0428", "0.00000015", price, canonical_slug="acme/tiny-0428")
    sandbox.catalog.append(snapshot)
    sandbox.fail(Fault(model="acme/tiny-0428"))
    paying = replace(shared, policy=BUDGET)
    async with connected(sandbox, settings=paying) as client:
        text, record, is_error = await ask(client, prompt="Hi", model="acme/tiny")
    assert not is_error
    assert ANSWER in text
    assert text.startswith("[warning: acme/tiny was asked, and acme/tiny-0428 answered") == closes
    assert ("warning" in record) == closes
    await (assert_closed if closes else assert_open)(sandbox, paying)


@pytest.mark.parametrize("served", ["acme/tiny", SHARED_SLUG, FREE, "globex/large:free"])
async def test_a_priced_call_served_as_agreed_or_for_less_closes_nothing(
    sandbox: Sandbox, shared: Settings, served: str
) -> None:
    sandbox.fail(Fault(model=served))
    paying = replace(shared, policy=BUDGET)
    async with connected(sandbox, settings=paying) as client:
        _, record, _ = await ask(client, prompt="Hi", model="acme/tiny")
    assert "warning" not in record
    await assert_open(sandbox, paying)


async def test_an_own_keys_charge_counts_against_the_reservation(sandbox: Sandbox, shared: Settings) -> None:
    paying = replace(shared, policy=BUDGET)
    sandbox.fail(Fault(cost=0.0001, is_byok=True, upstream_cost=0.0002))
    sandbox.fail(Fault(cost=0.0001, is_byok=True, upstream_cost=1.5))
    async with connected(sandbox, settings=paying) as client:
        text, record, _ = await ask(client, prompt="Hi", model="acme/tiny")
        assert record["cost_usd"] == "0.0003"
        assert "[warning" not in text
        text, record, _ = await ask(client, prompt="Hi", model="acme/tiny")
        assert "cost $1.5001, the account's own provider key included" in record["warning"]
    await assert_closed(sandbox, paying)


# --- for any cost and any name ----------------------------------------------------------------------------------------

AMOUNTS = st.one_of(st.none(), st.decimals(min_value=0, max_value=2, places=6))


KNOWN = [  # two free models and two that are not, whose dated names overlap
    Model.model_validate(row_of(ident, price, price, canonical_slug=slug))
    for ident, price, slug in [
        ("acme/a:free", "0", "acme/a-1"),
        ("acme/a", "0.000001", "acme/a-1"),
        ("acme/b:free", "0", ""),
        ("acme/c", "0.000002", "acme/c-1"),
    ]
]
NAMES = st.sampled_from(["", "openrouter/free", "acme/a-1", "acme/a-1:free", "acme/c-1", "x/y", *(m.id for m in KNOWN)])


@given(
    worst=st.decimals(min_value=0, max_value=1, places=6), cost=AMOUNTS, own_key=st.booleans(), unclear=st.booleans()
)
def test_a_cost_is_wrong_exactly_when_it_is_above_what_was_reserved_or_cannot_be_told_to_be_nothing(
    worst: Decimal, cost: Decimal | None, *, own_key: bool, unclear: bool
) -> None:
    unclear = unclear and cost is None
    vetted = Vetted(ChatRequest("acme/a", "Hi"), (), Prices(), worst, worst)
    found = audit.overcharged(vetted, Usage(cost=cost, own_key=own_key, unclear=unclear))
    untold = cost is None and (own_key or unclear)
    assert bool(found) == (untold and worst == 0 if cost is None else cost > worst)


@given(asked=st.sampled_from([None, *KNOWN]), served=NAMES)
def test_who_served_is_wrong_exactly_when_everybody_of_that_name_is_dearer(asked: Model | None, served: str) -> None:
    entries = (asked,) if asked else ()
    prices = dearest(asked) if asked else Prices()
    assert prices
    request = ChatRequest(asked.id if asked else "openrouter/free", "Hi")
    vetted = Vetted(request, entries, prices, Decimal(0), Decimal(0))
    bearers = [m for m in KNOWN if served in (m.id, m.canonical_slug or m.id, f"{m.canonical_slug}:free")]
    dearer = [m for m in bearers if (dearest(m) or prices).exceeds(prices)]
    assert bool(audit.outsider(vetted, served, KNOWN)) == (bearers != [] and bearers == dearer)
    assert bool(audit.unplaced(vetted, served, KNOWN)) == (bearers == [] and served not in ("", "openrouter/free"))
    assert audit.unplaced(vetted, served, []) == ""


async def test_a_closed_guard_stays_closed_when_its_book_breaks(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.fail(Fault(cost=0.5))
    async with connected(sandbox, settings=replace(SETTINGS, state_dir=tmp_path)) as client:
        await ask(client, prompt="Hi", model="acme/tiny:free")
        (tmp_path / "ledger.db").write_bytes(b"not a book any more" * 100)
        _, record, _ = await ask(client, prompt="Hi", model="acme/tiny:free")
        assert record["code"] == "guard_closed"
        _, record, _ = await ask(client, prompt="Hi", model="acme/tiny:free")
        assert record["code"] == "guard_closed"
    assert len(sandbox.chats) == 1
