"""One server in three places: the promises hold whichever is asked, when one is killed, and when their engine is."""

from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from budgets import CALL, WORST
from engine import started
from mcp import Client
from processes import Upstream
from replicas import client_of, replicas
from support import ask, before_long, until

FREE = "acme/tiny:free"
LASTING = ("--appendonly", "yes", "--appendfsync", "always")


async def all_at_once(client: Client, codes: list[str | None], count: int, arguments: dict[str, Any]) -> None:
    """Make so many calls; the code of each is noted, None for one that was answered."""

    async def one() -> None:
        _, record, _ = await ask(client, **arguments)
        codes.append(record.get("code"))

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)


async def is_answered(client: Client) -> bool:
    return not (await ask(client, **CALL))[2]


async def is_found(client: Client, id_: str) -> bool:
    """Whether the answer is there, whole, wherever it is asked for."""
    return bool((await ask(client, "read_answer", id=id_))[1]["status"] == "complete")


async def is_settled(client: Client, upstream: Upstream) -> bool:
    """Whether all that is not left of the dollar was charged, and nothing is held."""
    _, record, _ = await ask(client, "check_credits")
    return Decimal(record["budget_left_usd"]) == 1 - upstream.sandbox.bill


async def test_together_they_keep_to_the_minute_and_to_the_budget(tmp_path: Path) -> None:
    budget = 7 * WORST
    with (
        Upstream() as upstream,
        started(tmp_path) as (engine, _),
        replicas(
            upstream, engine, OPENROUTER_MCP_DAILY_BUDGET_USD=f"{budget:f}", OPENROUTER_MCP_CALL_BUDGET_USD="1"
        ) as (proxy, _),
    ):
        sandbox = upstream.sandbox
        sandbox.delay_s = 1.0  # so that few are settled before the others ask
        codes: list[str | None] = []
        async with client_of(proxy.address, "auto") as new, client_of(proxy.address, "legacy") as old:
            async with anyio.create_task_group() as group:
                for client in (new, old):
                    group.start_soon(all_at_once, client, codes, 10, CALL)
            assert set(codes) == {None, "over_budget"}
            assert codes.count(None) >= 7
            assert 0 < sandbox.bill <= budget
            sandbox.clear()
            codes.clear()
            async with anyio.create_task_group() as group:
                for client in (new, old):
                    group.start_soon(all_at_once, client, codes, 12, {"prompt": "Hi", "model": FREE})
        assert sorted(map(str, codes)) == ["None"] * 20 + ["minute_quota"] * 4
        assert len(sandbox.chats) == 20
        assert all(served > 5 for served in proxy.served.values())


async def test_an_answer_is_read_through_any_and_one_whose_server_was_killed_is_a_partial_with_the_reason(
    tmp_path: Path,
) -> None:
    with (
        Upstream() as upstream,
        started(tmp_path) as (engine, _),
        replicas(upstream, engine, OPENROUTER_MCP_DAILY_BUDGET_USD="1") as (proxy, servers),
    ):
        (address, process), *_ = servers.items()
        async with (
            client_of(address, "auto") as there,
            client_of(proxy.address, "auto") as new,
            client_of(proxy.address, "legacy") as old,
        ):
            _, whole, _ = await ask(there, prompt="Hi", model=FREE)
            for client in (new, old, new):
                text, record, _ = await ask(client, "read_answer", id=whole["id"])
                assert record["status"] == "complete"
            upstream.sandbox.token_delay_s = 0.5
            _, cut, _ = await ask(there, **CALL)
            assert cut["status"] == "running"
            text, record, _ = await ask(new, "read_answer", id=cut["id"], wait_seconds=0)
            assert record["status"] == "running"
            assert "another process" in text
            process.kill()
            await anyio.to_thread.run_sync(process.wait)
            with anyio.fail_after(20):
                while record["status"] == "running":
                    text, record, _ = await ask(old, "read_answer", id=cut["id"], wait_seconds=1)
                assert record["status"] == "partial"
                assert "its server ended before it was done" in text
            await before_long(partial(is_settled, new, upstream), seconds=20)
            text, record, is_error = await ask(old, prompt="Go on", continue_from=whole["id"], max_tokens=2)
            assert not is_error


async def test_when_the_engine_is_killed_what_runs_is_delivered_and_when_it_is_back_nobody_restarts_anything(
    tmp_path: Path,
) -> None:
    with (
        Upstream() as upstream,
        started(tmp_path, *LASTING) as (engine, process),
        replicas(upstream, engine, OPENROUTER_MCP_DAILY_BUDGET_USD="1") as (proxy, _),
    ):
        sandbox = upstream.sandbox
        async with client_of(proxy.address, "auto") as new, client_of(proxy.address, "legacy") as old:
            answers: list[tuple[str, dict[str, Any], bool]] = []

            async def keep(client: Client, **arguments: Any) -> None:
                answers.append(await ask(client, **arguments))

            sandbox.delay_s = 1.0
            async with anyio.create_task_group() as group:
                for client in (new, old):
                    group.start_soon(partial(keep, client, **CALL))
                await until(lambda: len(sandbox.chats) == 2)
                process.kill()
                await anyio.to_thread.run_sync(process.wait)
            assert [is_error for _, _, is_error in answers] == [False, False]
            assert all(record["status"] == "complete" for _, record, _ in answers)
            for client in (new, old, new):
                for arguments in (CALL, {"prompt": "Hi", "model": FREE}):
                    text, record, _ = await ask(client, **arguments)
                    assert record["code"] == "cannot_reserve"
                    assert "cannot be used since" in text
            assert len(sandbox.chats) == 2
            sandbox.delay_s = 0.0
            with started(tmp_path, *LASTING, port=urlsplit(engine).port or 0):
                for client in (new, old, new):
                    await before_long(partial(is_answered, client), seconds=10)
                await before_long(partial(is_settled, old, upstream))
                for _, record, _ in answers:
                    for client in (new, old, new):
                        await before_long(partial(is_found, client, record["id"]))
