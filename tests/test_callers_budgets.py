"""Budgets of callers: each spends their own at the most, all together the account's, and nobody sees another's."""

import sys
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from budgets import CALL, TINY, WORST, budget, noon
from calls import PATIENT
from engine import OVER_BOTH, either
from hypothesis import given
from hypothesis import strategies as st
from many import AT_ONCE, Picky, ended, outcomes, tasks
from mcp import Client, MCPError
from mcp_types import TextResourceContents
from processes import spawned
from support import Time, ask, opened, text_of
from team import WAYS, caller, team
from test_consent import Person
from test_credits import says_the_same
from test_many_resumed import as_killed, begun

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger.book import Book, Charge, Spent, Wish
from openrouter_mcp.ledger.slots import DAY_S
from openrouter_mcp.sandbox import Sandbox

CHILD = [sys.executable, str(Path(__file__).with_name("callers_child.py"))]
FREE = "acme/tiny:free"
NOON = 20_000.5 * DAY_S
BOB = caller("bob")
POOR = caller("alice", daily_budget=Decimal(0))
EACH = Decimal("0.00006345")  # of a batch's prompt with 100 tokens out, at the most
BATCH: dict[str, Any] = {"prompts": tasks(5), "model": TINY, "max_tokens": 100}
LOOSER = ("OPENROUTER_MCP_CALLERS", "OPENROUTER_MCP_DAILY", "daily_budget_usd")


@pytest.fixture
def at() -> Time:
    return noon()


@pytest.fixture
def sandbox(at: Time) -> Sandbox:
    """OpenRouter on the servers' clock."""
    return Sandbox(clock=at.clock)


@contextmanager
def book() -> Generator[Book]:
    with either(":memory:", limit=20, window=61) as opened_book:
        yield opened_book


def assert_shut(sandbox: Sandbox, text: str, sent: int) -> None:
    """Nothing more was sent, and the agent is not told how to get more."""
    assert len(sandbox.chats) == sent
    assert not any(word in text for word in LOOSER)


# --- what each may spend ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "era"), WAYS)
async def test_whose_own_budget_is_spent_waits_for_the_next_day_and_others_do_not(
    sandbox: Sandbox, at: Time, path: str, era: str
) -> None:
    alice = caller("alice", daily_budget=WORST)
    async with (
        team(sandbox, alice, BOB, at=at, settings=budget("1")) as server,
        server.client("alice", path, era) as first,
        server.client("bob", path, era) as second,
    ):
        _, _, is_error = await ask(first, **CALL)
        assert not is_error
        left = WORST - sandbox.bill
        text, record, is_error = await ask(first, **CALL | {"prompt": "Hi " * 400})
        assert is_error
        assert record["code"] == "over_budget"
        assert f"alice's own budget of the day is $0.0000627, of which ${left:f} is left" in text
        assert_shut(sandbox, text, 1)
        for _ in range(3):
            _, _, is_error = await ask(second, **CALL)
            assert not is_error
        at.now += DAY_S
        _, _, is_error = await ask(first, **CALL)
        assert not is_error


async def test_where_the_accounts_budget_ends_first_it_is_named(sandbox: Sandbox, at: Time) -> None:
    alice = caller("alice", daily_budget=Decimal(5))
    async with (
        team(sandbox, alice, BOB, at=at, settings=budget("0.0001")) as server,
        server.client("alice") as first,
        server.client("bob") as second,
    ):
        for _ in range(3):
            await ask(second, **CALL)
        sent = len(sandbox.chats)
        text, record, _ = await ask(first, **CALL | {"prompt": "Hi " * 400})
        assert record["code"] == "over_budget"
        assert "the budget of the day is $0.0001" in text
        assert "own" not in text
        assert_shut(sandbox, text, sent)


async def test_a_comparison_or_a_batch_beyond_ones_own_budget_holds_and_sends_nothing(
    sandbox: Sandbox, at: Time
) -> None:
    alice = caller("alice", daily_budget=EACH * 2)
    async with team(sandbox, alice, BOB, at=at, settings=budget("1")) as server, server.client("alice") as client:
        for tool, arguments in (
            ("ask_many", BATCH | {"prompts": ["Hi " * 100 + task for task in tasks(9)]}),
            ("compare_models", {"prompt": "Hi " * 300, "models": [TINY, "globex/large"]}),
        ):
            text, record, is_error = await ask(client, tool, **arguments)
            assert is_error or all(row.get("code") for row in record["rows"])
            assert "alice" in text
            assert_shut(sandbox, text, 0)
        spent = await server.app.ledger.spending.spent("alice")
        assert spent.in_all == 0


# --- free only -------------------------------------------------------------------------------------------------------


async def test_a_caller_without_money_asks_free_models_only(sandbox: Sandbox, at: Time) -> None:
    async with (
        team(sandbox, POOR, BOB, at=at, settings=budget("1")) as server,
        server.client("alice") as first,
        server.client("bob") as second,
    ):
        text, record, _ = await ask(first, **CALL)
        assert record["code"] == "not_free"
        assert "The own budget of alice for a day is $0 (free models only), so nothing was sent. Use " in text
        assert_shut(sandbox, text, 0)
        text, _, _ = await ask(first, "check_credits")
        assert "alice's budget: $0, so only free models are asked." in text
        for client, model in ((first, FREE), (second, TINY)):
            _, _, is_error = await ask(client, **CALL | {"model": model})
            assert not is_error


@pytest.mark.parametrize("confirm_above", [None, Decimal(0)])
async def test_a_default_model_that_costs_is_for_those_who_can_pay(
    sandbox: Sandbox, at: Time, confirm_above: Decimal | None
) -> None:
    settings = budget("1", default_model=TINY, confirm_above=confirm_above)
    person = Person(sandbox)
    async with (
        team(sandbox, POOR, BOB, at=at, settings=settings) as server,
        server.client("alice", elicitation_callback=person) as first,
        server.client("bob", elicitation_callback=person) as second,
    ):
        _, record, is_error = await ask(first, prompt="Hi")
        assert not is_error
        _, _, is_error = await ask(first, prompt="And?", continue_from=record["id"])
        assert not is_error
        _, _, is_error = await ask(first, "ask_many", prompts=tasks(2))
        assert not is_error
        assert sandbox.bill == 0
        assert person.questions == []
        _, _, is_error = await ask(second, prompt="Hi")
        assert not is_error
        assert sandbox.bill > 0
        assert len(person.questions) == (confirm_above is not None)


# --- asking the person -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "questions"), [("0.05", []), ("0.06", ["$0.06"]), ("1", ["$0.082"])])
async def test_the_person_is_asked_about_what_ones_own_budget_bears(
    sandbox: Sandbox, at: Time, own: str, questions: list[str]
) -> None:
    person = Person(sandbox)
    alice = caller("alice", daily_budget=Decimal(own))
    settings = budget("1", confirm_above=Decimal("0.05"))
    async with (
        team(sandbox, alice, at=at, settings=settings) as server,
        server.client("alice", elicitation_callback=person) as client,
    ):
        _, _, is_error = await ask(client, prompt="Why?", model="globex/large")
        assert not is_error
    assert len(person.questions) == len(questions)
    for question, amount in zip(person.questions, questions, strict=True):
        assert amount in question
    assert Decimal(0) < sandbox.bill <= Decimal(own)


async def test_the_person_is_not_asked_about_what_ones_own_budget_does_not_bear_any_more(
    sandbox: Sandbox, at: Time
) -> None:
    person = Person(sandbox)
    alice = caller("alice", daily_budget=Decimal("0.1"))
    settings = budget("1", confirm_above=Decimal("0.05"))
    async with (
        team(sandbox, alice, at=at, settings=settings) as server,
        server.client("alice", elicitation_callback=person) as client,
    ):
        await server.app.ledger.spending.hold([(TINY, Decimal("0.1"))], Decimal(1), caller=alice)
        text, record, _ = await ask(client, prompt="Why?", model="globex/large")
        assert record["code"] == "over_budget"
        assert "alice's own budget of the day is $0.10 ($0.10 is held for calls whose cost is not known yet)" in text
        assert "The day ends at 00:00 UTC" in text
        assert_shut(sandbox, text, 0)
    assert person.questions == []


# --- batches ---------------------------------------------------------------------------------------------------------


async def test_a_batch_gone_on_with_after_a_kill_keeps_to_its_callers_budget(at: Time, tmp_path: Path) -> None:
    """The three that were under way may have cost what was held for them."""
    sandbox, kept = Picky(at), replace(budget("1"), state_dir=tmp_path / "state")
    alice = caller("alice", daily_budget=EACH * 5)
    options: dict[str, Any] = {"at": at, "waits": AT_ONCE, "timeouts": PATIENT}
    async with team(sandbox, alice, settings=kept, **options) as server, server.client("alice") as client:
        record = await begun(sandbox, server.app, client, answered=2, under_way=3, **BATCH)
        killed = as_killed(kept)
    sandbox.spoiled, sent = {}, len(sandbox.chats)
    at.now += 31  # by then its lease is over
    async with team(sandbox, alice, settings=killed, **options) as server, server.client("alice") as client:
        text, record, _ = await ended(client, record["id"])
        assert outcomes(record) == ["complete"] * 3 + ["over_budget"] * 2
        assert "the own budget of alice" in text
        spent = await server.app.ledger.spending.spent("alice")
        assert spent.in_all <= EACH * 5
    assert len(sandbox.chats) == sent + 1


# --- the book --------------------------------------------------------------------------------------------------------


def held(one: Book, who: Caller, amount: str, *, all_: str = "1", now: float = NOON) -> list[Charge]:
    (charges,) = one.hold("a", [Wish([(TINY, Decimal(amount))], Decimal(all_), caller=who)], now)
    return charges if isinstance(charges, list) else []


@OVER_BOTH
def test_a_budget_is_kept_to_the_last_attodollar() -> None:
    alice = caller("alice", daily_budget=Decimal("0.3"))
    with book() as one:
        assert held(one, alice, "0.1")
        assert held(one, alice, "0.2")
        assert not held(one, alice, "0.000000000000000001")
        assert held(one, BOB, "0.7")
        assert not held(one, BOB, "0.000000000000000001")


@OVER_BOTH
def test_what_was_given_back_or_cost_less_is_theirs_again() -> None:
    alice = caller("alice", daily_budget=Decimal("0.3"))
    with book() as one:
        (first,) = held(one, alice, "0.2")
        (second,) = held(one, alice, "0.1")
        one.release([second.id])
        assert held(one, alice, "0.1")
        one.settle(first.id, Decimal("0.05"))
        assert held(one, alice, "0.15")
        assert not held(one, alice, "0.01")


@OVER_BOTH
def test_yesterdays_money_is_not_todays() -> None:
    alice = caller("alice", daily_budget=Decimal("0.3"))
    with book() as one:
        assert held(one, alice, "0.3")
        assert not held(one, alice, "0.3", now=NOON + DAY_S / 2 - 1)
        assert held(one, alice, "0.3", now=NOON + DAY_S / 2)


@OVER_BOTH
def test_a_key_that_gets_its_accounts_name_keeps_whose_the_money_was() -> None:
    alice = caller("alice", daily_budget=Decimal("0.3"))
    with book() as one:
        assert held(one, alice, "0.2")
        assert held(one, BOB, "0.4")
        one.name("a", "user")
        assert one.spent("a", NOON, "alice").in_all == Decimal("0.2")
        assert not held(one, alice, "0.2")
        assert held(one, alice, "0.1")
        assert one.spent("a", NOON).in_all == Decimal("0.7")


CENTS = st.integers(0, 12)


@OVER_BOTH
@given(
    st.tuples(*[st.none() | CENTS] * 3),
    CENTS,
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.sampled_from(["keep", "settle", "release"]))),
)
def test_in_any_order_each_keeps_to_their_own_and_all_to_the_accounts(
    own: tuple[int | None, ...], everybody: int, moves: list[tuple[int, int, str]]
) -> None:
    callers = [
        caller(name, daily_budget=None if most is None else Decimal(most) / 100)
        for name, most in zip(("alice", "bob", "carol"), own, strict=True)
    ]
    spent = Counter[str]()
    with book() as one:
        for who, cents, end in moves:
            each, amount = callers[who], Decimal(cents) / 100
            (got,) = one.hold("a", [Wish([(TINY, amount)], Decimal(everybody) / 100, caller=each)], NOON)
            most = own[who]
            fits = spent.total() + cents <= everybody and (most is None or spent[each.name] + cents <= most)
            assert isinstance(got, Spent) != fits
            if isinstance(got, Spent):
                continue
            if end == "release":
                one.release([charge.id for charge in got])
                continue
            spent[each.name] += cents
            if end == "settle":
                one.settle(got[0].id, amount)
        for each in callers:
            assert one.spent("a", NOON, each.name).in_all * 100 == spent[each.name]
        assert one.spent("a", NOON).in_all * 100 == spent.total()


@pytest.mark.parametrize(
    ("everybody", "alices", "bobs"), [("1", {7}, {16}), ("0.10", set(range(8)), set(range(3, 11)))]
)
def test_two_processes_of_each_keep_to_the_cent(
    tmp_path: Path, everybody: str, alices: set[int], bobs: set[int]
) -> None:
    with ExitStack() as children:
        running = [
            (name, children.enter_context(spawned(str(tmp_path), everybody, name, own, "0.01", "8", command=CHILD)))
            for name, own in (("alice", "0.07"), ("bob", "-")) * 2
        ]
        for _, child in running:
            assert child.stdout
            assert child.stdout.readline() == b"ready\n"
        for _, child in running:
            assert child.stdin
            child.stdin.write(b"\n")
            child.stdin.flush()
        got = Counter[str]()
        for name, child in running:
            output, complaint = child.communicate(timeout=60)
            assert complaint == b""
            said = Counter(output.split())
            assert said.total() == 8
            got[name] += said[b"held"]
    assert got["alice"] in alices
    assert got["bob"] in bobs
    assert got.total() == min(Decimal(everybody) * 100, 23)


# --- what each is shown ----------------------------------------------------------------------------------------------


async def usage_of(client: Client) -> tuple[str, dict[str, Any]]:
    """What check_credits and its resource say, which is the same."""
    result = await client.call_tool("check_credits", {})
    says_the_same(result)
    (content,) = (await client.read_resource("openrouter://usage")).contents
    assert isinstance(content, TextResourceContents)
    assert content.text == text_of(result)
    assert isinstance(result.structured_content, dict)
    return content.text, result.structured_content


@pytest.mark.parametrize(("path", "era"), WAYS)
@pytest.mark.parametrize("own", [None, Decimal("0.5"), Decimal(5)])
async def test_each_is_shown_what_they_spent_and_not_what_others_did(
    sandbox: Sandbox, at: Time, path: str, era: str, own: Decimal | None
) -> None:
    async with (
        team(sandbox, caller("alice", daily_budget=own), BOB, at=at, settings=budget("1")) as server,
        server.client("alice", path, era) as first,
        server.client("bob", path, era) as second,
    ):
        await ask(second, prompt="Hi", model="globex/large")
        bobs = sandbox.bill
        text, structure = await usage_of(first)
        assert structure["spent_today_usd"] == structure["spent_this_month_usd"] == {}
        assert "globex/large" not in text
        assert f"{bobs:f}" not in text
        await ask(first, **CALL)
        alices = sandbox.bill - bobs
        text, structure = await usage_of(first)
        assert structure["spent_today_usd"] == {TINY: f"{alices:f}"}
        assert structure.get("budget_spent_usd") == (f"{alices:f}" if own == Decimal("0.5") else None)
        assert not [name for name in structure if "usage" in name]
        assert not any(f"{bill:f}" in text + str(structure) for bill in (bobs, sandbox.bill))
        text, structure = await usage_of(second)
        assert structure["spent_today_usd"] == {"globex/large": f"{bobs:f}"}
        assert "alice" not in text + str(structure)
        assert TINY not in text


@pytest.mark.parametrize(("path", "era"), WAYS)
async def test_the_address_of_anothers_answer_leads_nowhere(sandbox: Sandbox, at: Time, path: str, era: str) -> None:
    async with (
        team(sandbox, caller("alice"), BOB, at=at, settings=budget("1")) as server,
        server.client("alice", path, era) as first,
        server.client("bob", path, era) as second,
    ):
        _, answer, _ = await ask(first, **CALL | {"prompt": "The secret of Alice"})
        _, batch, _ = await ask(first, "ask_many", **BATCH | {"prompts": ["The secret of Alice"]})
        for id_ in (answer["id"], batch["id"]):
            (content,) = (await first.read_resource(f"openrouter://answers/{id_}")).contents
            assert isinstance(content, TextResourceContents)
            assert "Alice" in content.text
            with pytest.raises(MCPError, match="unknown_answer") as refused:
                await second.read_resource(f"openrouter://answers/{id_}")
            assert "Alice" not in str(refused.value)


async def test_over_stdio_everything_is_ones_own(sandbox: Sandbox, at: Time) -> None:
    async with opened(sandbox, at=at, settings=budget("1")) as app:
        await app.ledger.spending.hold([(TINY, Decimal("0.1"))], Decimal(1), caller=BOB)
        assert (await app.guard.budget(NOBODY)).left == Decimal("0.9")
