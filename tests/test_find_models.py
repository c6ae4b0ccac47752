"""What an agent finds when it looks for models: what fits, in the order wanted, as a table that is read whole."""

import re
from dataclasses import replace

import pytest
from budgets import budget
from support import SETTINGS, ask, connected

from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Sandbox
from openrouter_mcp.sandbox.models import model


async def rows(sandbox: Sandbox, **arguments: object) -> list[str]:
    async with connected(sandbox) as client:
        _, record, is_error = await ask(client, "find_models", **{"limit": 50, **arguments})
    assert not is_error
    return [row["model"] for row in record["rows"]]


async def test_only_what_costs_money_and_can_be_asked_for_is_found(sandbox: Sandbox) -> None:
    found = await rows(sandbox)
    assert {"acme/tiny", "globex/tiered", "acme/tiny:batch", "nakatomi/endless"} <= {*found}
    assert not [id_ for id_ in found if id_.endswith(":free") or id_.startswith(("openrouter/", "~"))]
    assert found[:3] == ["initech/cache", "globex/large", "hooli/thinker"]


async def test_each_field_narrows(sandbox: Sandbox) -> None:
    assert await rows(sandbox, search="THINK") == ["hooli/thinker", "hooli/thinker:thinking"]
    assert await rows(sandbox, needs=["video"]) == ["massive/omni"]
    assert await rows(sandbox, needs="schema reasoning") == await rows(sandbox, needs=["schema", "reasoning"])
    assert await rows(sandbox, needs="tools, image,") == ["umbrella/vision", "massive/omni"]
    assert await rows(sandbox, min_context=1_000_001) == ["wonka/long"]
    assert "acme/tiny" in await rows(sandbox, max_price=0.6)
    assert "acme/tiny" not in await rows(sandbox, max_price=0.59)
    assert (await rows(sandbox, sort="price"))[:3] == ["stealth/heron-alpha", "acme/tiny:batch", "soylent/chat"]
    assert (await rows(sandbox, sort="code"))[:2] == ["initech/cache", "initech/coder"]
    assert (await rows(sandbox, sort="translation to German"))[0] == "initech/cache"


async def test_the_user_decides_which_are_shown(sandbox: Sandbox) -> None:
    chosen = replace(SETTINGS, policy=Policy(allowed=("globex/",)))
    async with connected(sandbox, settings=chosen) as client:
        text, record, _ = await ask(client, "find_models")
        free, _, _ = await ask(client, "list_free_models")
    assert [row["model"] for row in record["rows"]] == ["globex/large", "globex/tiered"]
    assert text.startswith("2 of 2 priced models, best first.")
    assert free.startswith("1 of 1 free models")


@pytest.mark.parametrize("tool", ["find_models", "list_free_models"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"needs": ["tool"]}, "`needs` cannot hold 'tool'. Did you mean tools?"),
        ({"needs": "poetry"}, "`needs` cannot hold 'poetry'. Known are "),
        ({"needs": [7]}, "needs"),
        ({"limit": 0}, "limit must be 1 or more."),
        ({"limit": 51}, "limit must be 50 or less."),
    ],
)
async def test_a_mistake_says_what_there_is(
    sandbox: Sandbox, tool: str, arguments: dict[str, object], said: str
) -> None:
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, tool, **arguments)
    assert is_error
    assert record["code"] == "invalid_request"
    assert said in text


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("find_models", {"sort": "prise"}, "`sort` cannot be 'prise'. Did you mean price?"),
        ("list_free_models", {"task": "cod"}, "'cod' is no task. Did you mean code?"),
        ("find_models", {"max_price": -1}, "max_price must be 0 or more."),
        ("find_models", {"max_price": "1e400"}, "max_price has too many digits."),
        ("find_models", {"max_price": "cheap"}, "max_price"),
        ("find_models", {"min_context": -1}, "min_context must be 0 or more."),
    ],
)
async def test_a_mistake_of_one_tool_too(sandbox: Sandbox, tool: str, arguments: dict[str, object], said: str) -> None:
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, tool, **arguments)
    assert record["code"] == "invalid_request"
    assert said in text


async def test_what_was_left_out_is_counted_with_how_to_see_it(sandbox: Sandbox) -> None:
    sandbox.catalog = [model(f"acme/m{number}", "0.000001", "0.000002") for number in range(84)]
    async with connected(sandbox, settings=budget("1")) as client:
        text, record, _ = await ask(client, "find_models", limit=12)
        narrow, _, _ = await ask(client, "find_models", limit=12, search="m7")
        none, _, is_error = await ask(client, "find_models", search="nothing like it")
    assert text.splitlines()[0] == (
        "12 of 84 priced models, best first. 72 more: narrow by `search`, `needs` or another field, or raise `limit`."
    )
    assert len(record["rows"]) == 12
    assert narrow.splitlines()[0] == "11 of 84 priced models, best first."
    assert not is_error
    assert none == "None of 84 priced models matches. Ask for less."


LONG = "m" * 99
MUCH = {"can": "tools schema think", "reads": "text image file audio video", "writes": "text image audio"}


@pytest.mark.parametrize(("tool", "price"), [("find_models", "0.000123456789"), ("list_free_models", "0")])
async def test_a_table_is_read_whole_whatever_is_in_it(sandbox: Sandbox, tool: str, price: str) -> None:
    suffix = "" if price != "0" else ":free"
    sandbox.catalog = [
        model(f"{LONG[:50]}{number}/{LONG}{suffix}", price, price, context=10**12, scores=(99.123, 99.1, 99.1), **MUCH)  # type: ignore[arg-type]
        for number in range(60)
    ]
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, tool)
    table = text.partition("\n\n")[2]
    assert len(table) < 3000
    assert len(record["rows"]) == len(table.splitlines()) - 1 >= 5
    shown = len(record["rows"])
    assert text.startswith(f"{shown} of 60 ")
    # A higher limit would show no more: it is the table that is full.
    assert f" {60 - shown} more: narrow by `search`, `needs` or another field." in text


@pytest.mark.parametrize("tool", ["find_models", "list_free_models"])
async def test_fifteen_ordinary_rows_stay_under_three_thousand_characters(sandbox: Sandbox, tool: str) -> None:
    suffix, price = (":free", "0") if tool == "list_free_models" else ("", "0.00000015")
    sandbox.catalog = [
        model(f"anthropomorphic/large-{number}-instruct-preview{suffix}", price, price, can="tools schema think",
              reads="text image file", scores=(41.5, 30.0, 20.0)) for number in range(30)
    ]  # fmt: skip
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, tool)
    assert len(record["rows"]) == 15
    assert len(text) < 3000


@pytest.mark.parametrize("search", ["", "nothing like it"])
async def test_without_a_budget_the_priced_ones_are_called_out_of_reach(sandbox: Sandbox, search: str) -> None:
    remark = "This server's budget is $0, so it refuses all of them: list_free_models has what it asks."
    async with connected(sandbox) as client:
        assert remark in (await ask(client, "find_models", search=search))[0]
    async with connected(sandbox, settings=budget("1")) as client:
        assert "budget" not in (await ask(client, "find_models", search=search))[0]


async def test_prices_are_for_a_million_and_what_is_no_price_is_a_question_mark(sandbox: Sandbox) -> None:
    sandbox.catalog = [
        model("acme/plain", "0.00000015", "0.0000006"),
        model("acme/strange", "1e-7", "free!"),
        model("acme/tiered", "", "", pricing={"prompt": "0.000001", "completion": "0.000004", "overrides": "odd"}),
    ]
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, "find_models", sort="price")
    assert "\nacme/plain | 0.15 | 0.60 | " in text
    assert "\nacme/strange | ? | ? | " in text
    assert record["rows"][0] == {"model": "acme/plain", "usd_per_million": {"in": "0.15", "out": "0.60"}}
    assert [row["model"] for row in record["rows"]] == ["acme/plain", "acme/tiered", "acme/strange"]


async def test_a_task_says_why_the_first_is_first(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        code, record, _ = await ask(client, "list_free_models", task="code")
        german, _, _ = await ask(client, "list_free_models", task="translation into German")
        paid, _, _ = await ask(client, "find_models", sort="translation (Old Norse)")
    assert " best first for code; $0 per token. initech/coder:free is first: coding index 48.9." in code
    assert re.search(r"^id \| context \| abilities \| coding \| ", code, flags=re.MULTILINE)
    assert record["rows"][0]["strength"] == 48.9
    assert " best first for translation (German); " in german
    assert " best first for translation (Old Norse)." in paid


async def test_looking_asks_no_model(sandbox: Sandbox) -> None:
    await rows(sandbox)
    assert {request.path for request in sandbox.requests} <= {"/models", "/models/user"}
