"""Privacy: what the user demands of providers holds for every request, and a call can only demand more."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from budgets import budget
from mcp import Client
from support import SETTINGS, ask, connected

from openrouter_mcp.policy import Policy, Privacy
from openrouter_mcp.sandbox import Sandbox, faults
from openrouter_mcp.settings import Settings

FREE = ["globex/large:free", "hooli/thinker:free"]
PAID = ["globex/large", "hooli/thinker"]
DENY: dict[str, Any] = {"data_collection": "deny"}
RETAIN_NOTHING = DENY | {"zdr": True}
FLOORS = {Privacy.NO_TRAINING: DENY, Privacy.ZERO_RETENTION: RETAIN_NOTHING}


def demanding(privacy: Privacy, daily: str = "0") -> Settings:
    return replace(SETTINGS, policy=Policy(Decimal(daily), Decimal(daily), privacy=privacy))


def demanded(sandbox: Sandbox) -> list[dict[str, Any]]:
    """What each request that was sent demands of providers."""
    said = [dict(chat.body["provider"]) for chat in sandbox.chats]
    for one in said:
        del one["max_price"]
    return said


async def one(client: Client) -> None:
    await ask(client, prompt="Hi", model=PAID[0])


async def unnamed(client: Client) -> None:
    await ask(client, prompt="Hi")


async def with_fallbacks(client: Client) -> None:
    await ask(client, prompt="Hi", model=PAID[0], options={"fallbacks": [PAID[1], FREE[0]]})


async def compared_and_judged(client: Client) -> None:
    text, _, _ = await ask(client, "compare_models", prompt="Hi", models=PAID, judge="acme/tiny")
    assert "Ranked by acme/tiny" in text


async def many(client: Client) -> None:
    await ask(client, "ask_many", prompts=["One?"], model=FREE[0])


@pytest.mark.parametrize("privacy", FLOORS)
@pytest.mark.parametrize(
    ("walk", "requests"), [(one, 1), (unnamed, 1), (with_fallbacks, 1), (compared_and_judged, 3), (many, 1)]
)
async def test_every_request_demands_it(sandbox: Sandbox, privacy: Privacy, walk: Any, requests: int) -> None:
    async with connected(sandbox, settings=demanding(privacy, "1")) as client:
        await walk(client)
    assert len(sandbox.chats) >= requests
    assert demanded(sandbox) == [FLOORS[privacy]] * len(sandbox.chats)


async def test_a_second_try_demands_it_too(sandbox: Sandbox) -> None:
    sandbox.fail(faults.server_error(503))
    async with connected(sandbox, settings=demanding(Privacy.NO_TRAINING, "1")) as client:
        await one(client)
    assert demanded(sandbox) == [DENY] * 2


async def test_by_default_nothing_is_demanded(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        await ask(client, prompt="Hi")
    assert demanded(sandbox) == [{}]


LOOSE: dict[str, Any] = {"data_collection": "allow", "zdr": False}


@pytest.mark.parametrize(
    ("privacy", "said", "sent"),
    [
        (Privacy.ANY, DENY, DENY),
        (Privacy.ANY, {"zdr": True}, {"zdr": True}),
        (Privacy.NO_TRAINING, {"data_collection": "allow"}, DENY),
        (Privacy.NO_TRAINING, {"zdr": True}, RETAIN_NOTHING),
        (Privacy.ZERO_RETENTION, LOOSE, RETAIN_NOTHING),
        (Privacy.ZERO_RETENTION, {"only": ["globex"]} | LOOSE, RETAIN_NOTHING | {"only": ["globex"]}),
    ],
)
async def test_a_call_can_demand_more_and_never_less(
    sandbox: Sandbox, privacy: Privacy, said: dict[str, Any], sent: dict[str, Any]
) -> None:
    async with connected(sandbox, settings=demanding(privacy, "1")) as client:
        await ask(client, prompt="Hi", model=PAID[0], options={"provider": said})
        await ask(client, "compare_models", prompt="Hi", models=[PAID[0], "globex/tiered"], options={"provider": said})
    assert demanded(sandbox) == [sent] * 3


@pytest.mark.parametrize("said", [DENY, {"zdr": True}, RETAIN_NOTHING])
async def test_what_a_call_demands_of_those_it_compares_it_demands_of_the_judge_who_reads_it_all(
    sandbox: Sandbox, said: dict[str, Any]
) -> None:
    rare = {"temperature": 0, "provider": said | {"sort": "price"}}
    async with connected(sandbox, settings=budget("1")) as client:
        await ask(client, "compare_models", prompt="Hi", models=PAID, judge="acme/tiny", options=rare)
    (judge,) = [place for place, chat in enumerate(sandbox.chats) if chat.body["model"] == "acme/tiny"]
    assert demanded(sandbox)[judge] == said
    assert "temperature" not in sandbox.chats[judge].body


# --- where nobody promises it -----------------------------------------------------------------------------------------

LOOSER = ("no-training", "OPENROUTER_MCP_PRIVACY", "settings/privacy", "allow", "false", "without options", "loosen")


@pytest.mark.parametrize("model", ["", FREE[0], "openrouter/free"])
@pytest.mark.parametrize("privacy", FLOORS)
async def test_where_no_provider_is_left_the_error_says_whose_wish_it_is_after_one_request(
    sandbox: Sandbox, privacy: Privacy, model: str
) -> None:
    async with connected(sandbox, settings=demanding(privacy)) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=model)
    assert (is_error, record["code"], record["attempts"]) == (True, "privacy", 1)
    assert len(sandbox.chats) == 1
    assert "what this server's user demands: " in text
    assert ("to retain nothing" if privacy is Privacy.ZERO_RETENTION else "not to train on prompts") in text
    assert ":free" not in text.partition("promises")[2]  # they promise no more
    assert not any(word in text for word in LOOSER)


async def test_models_that_promise_it_are_offered_where_the_call_has_money_for_them(sandbox: Sandbox) -> None:
    async with connected(sandbox, settings=demanding(Privacy.ZERO_RETENTION, "1")) as client:
        text, _, _ = await ask(client, prompt="Hi", model=FREE[0])
        offered = text.partition("Models that comply: ")[2].rstrip(".").split(", ")
        assert len(offered) == 2
        for model in offered:
            _, _, is_error = await ask(client, prompt="Hi", model=model)
            assert not is_error
        text, _, _ = await ask(client, prompt="Hi", model=FREE[0], max_cost_usd=0)
        assert text.endswith("Models that comply: none that is free and known.")
    assert len(sandbox.chats) == 4


async def test_where_the_call_itself_demands_it_the_error_says_so(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi", model=FREE[0], options={"provider": {"zdr": True}})
    assert record["code"] == "privacy"
    assert "promises what options.provider of this call demands: to retain nothing." in text
    assert not any(word in text for word in LOOSER)
    assert len(sandbox.chats) == 1


async def test_where_the_account_demands_it_the_error_says_that(sandbox: Sandbox) -> None:
    """Where OpenRouter does not tell beforehand what the account may use."""
    sandbox.account.allows_free = False
    sandbox.fail(faults.server_error(503), path="/models/user")
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi", model=FREE[0])
    assert record["code"] == "privacy"
    assert "The account's data policy" in text


async def test_a_comparison_says_it_in_each_row(sandbox: Sandbox) -> None:
    async with connected(sandbox, settings=demanding(Privacy.NO_TRAINING)) as client:
        text, record, is_error = await ask(client, "compare_models", prompt="Hi", models=FREE)
    assert (is_error, record["code"]) == (True, "privacy")
    assert text.count("what this server's user demands") == 2
    assert len(sandbox.chats) == 2


@pytest.mark.parametrize("model", ["", FREE[0]])
async def test_a_batch_gives_up_once_it_is_refused(sandbox: Sandbox, model: str) -> None:
    """Those that were asked at the same time are refused too, and no others are asked."""
    async with connected(sandbox, settings=demanding(Privacy.NO_TRAINING)) as client:
        text, _, is_error = await ask(client, "ask_many", prompts=[f"{n}?" for n in range(15)], model=model)
    assert is_error
    assert "what this server's user demands" in text
    assert len(sandbox.chats) <= 5
