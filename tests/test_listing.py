"""What is free, and what is left."""

from decimal import Decimal

import pytest
from support import LISTS, ask, connected

from openrouter_mcp.sandbox import Sandbox, faults


async def test_only_what_the_guard_would_send_to_is_listed_best_first(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, "list_free_models", limit=50)
    ids = [row["model"] for row in record["rows"]]
    assert ids[:3] == ["globex/large:free", "hooli/thinker:free", "initech/coder:free"]
    assert all(id_.endswith(":free") for id_ in ids)
    assert not any(id_.startswith(("trap/", "openrouter/", "stealth/")) for id_ in ids)
    assert "globex/large:free | 131k | tools reasoning json schema | 42.5 | - | -" in text
    expiry = next(row["expiration_date"] for row in sandbox.catalog if row["id"] == "acme/old:free")
    assert f"acme/old:free | 8k | - | 4.2 | - | {expiry}" in text
    assert sandbox.chats == []


async def test_the_list_is_narrowed_by_search_and_limit_and_says_what_it_left_out(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, "list_free_models", limit=2)
        assert len(record["rows"]) == 2
        assert " more: narrow by `search`" in text
        _, record, _ = await ask(client, "list_free_models", search="VISION")
        assert [row["model"] for row in record["rows"]] == ["umbrella/vision:free"]
        text, record, is_error = await ask(client, "list_free_models", search="nothing like it")
    assert not is_error
    assert text.startswith("No free model matches; ")


async def test_names_with_escapes_and_instructions_do_not_reach_the_agent(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        text, _, _ = await ask(client, "list_free_models", limit=50)
    assert "vandelay/loud:free" in text
    assert "Ignore all" not in text
    assert text.replace("\n", "").isprintable()


async def test_the_catalogue_is_downloaded_once(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        await ask(client, "list_free_models")
        await ask(client, "list_free_models")
        await ask(client, prompt="Hi", model="acme/tiny:free")
    assert [request.path for request in sandbox.requests if request.path in LISTS] == ["/models/user"]


async def test_check_credits_shows_the_allowance_and_never_takes_a_refusal_for_nothing(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        await ask(client, prompt="Hi", model="acme/tiny:free")
        text, record, _ = await ask(client, "check_credits")
    assert text.splitlines()[0].startswith("49 of 50 free requests left today; the count restarts at 00:00 UTC")
    assert text.splitlines()[0].endswith("(OpenRouter's count).")
    assert text.splitlines()[1] == "This minute: 1 of 20 used."
    assert "Warning: the key has no credit limit of its own" in text
    assert "Balance: unknown" in text
    assert record["balance_usd"] is None
    assert record["free_requests"] == {"used": 1, "limit": 50, "remaining": 49}


@pytest.mark.parametrize(
    ("mode", "line"), [("zero", "Balance: unknown"), ("real", "Balance: $5."), ("forbidden", "unk")]
)
async def test_the_balance_is_shown_only_when_openrouter_really_shows_it(
    sandbox: Sandbox, mode: str, line: str
) -> None:
    sandbox.account.credits = mode  # type: ignore[assignment]
    async with connected(sandbox) as client:
        text, _, is_error = await ask(client, "check_credits")
    assert not is_error
    assert line in text


async def test_a_key_with_a_limit_shows_what_is_left_of_it(sandbox: Sandbox) -> None:
    sandbox.account.limit, sandbox.account.limit_reset, sandbox.account.bill = Decimal(10), "monthly", Decimal("2.5")
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, "check_credits")
    assert "Key limit: $7.50 of $10 left, resets monthly." in text
    assert "Spent with this key: $2.50 today" in text
    assert record["key_remaining_usd"] == "7.5"


async def test_an_older_openrouter_that_counts_no_free_requests_is_unknown(sandbox: Sandbox) -> None:
    sandbox.account.newer_key_fields = False
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, "check_credits")
    assert text.startswith("0 free requests used today; the count restarts at 00:00 UTC")
    assert "(counted here; OpenRouter did not say)" in text
    assert record["free_requests"] == {"used": 0, "limit": None, "remaining": None}


async def test_a_dead_credits_endpoint_costs_only_the_balance(sandbox: Sandbox) -> None:
    sandbox.fail(faults.server_error(500), times=None, path="/credits")
    async with connected(sandbox) as client:
        text, _, is_error = await ask(client, "check_credits")
    assert not is_error
    assert "Balance: unknown" in text


async def test_a_rejected_key_is_named_and_the_list_still_works(sandbox: Sandbox) -> None:
    sandbox.fail(faults.bad_key(), times=None, path="/key")
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, "check_credits")
        assert is_error
        assert record["code"] == "bad_key"
        assert "OPENROUTER_API_KEY" in text
        _, _, is_error = await ask(client, "list_free_models")
    assert not is_error
