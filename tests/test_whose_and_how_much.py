"""Whose an answer is, and what all its attempts cost."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import SETTINGS, ask, connected

from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Fault, Sandbox


async def test_over_http_nobody_reads_lists_or_continues_what_was_asked_over_stdio(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    stdio = replace(SETTINGS, state_dir=tmp_path)
    http = replace(stdio, caller="http")
    async with connected(sandbox, settings=stdio) as client:
        _, record, _ = await ask(client, prompt="My secret diary")
    async with connected(sandbox, settings=http) as client:
        text, _, _ = await ask(client, "read_answer")
        assert "diary" not in text
        theirs: list[tuple[str, dict[str, Any]]] = [
            ("read_answer", {"id": record["id"]}),
            ("read_answer", {"id": record["id"], "cancel": True}),
            ("ask_model", {"prompt": "Go on", "continue_from": record["id"]}),
        ]
        for tool, arguments in theirs:
            _, refused, _ = await ask(client, tool, **arguments)
            assert refused["code"] == "unknown_answer"
        _, mine, _ = await ask(client, prompt="Hi")
    async with connected(sandbox, settings=http) as client:
        _, _, is_error = await ask(client, "read_answer", id=mine["id"])
    assert not is_error


async def test_what_is_shown_is_what_all_attempts_cost(sandbox: Sandbox) -> None:
    rich = replace(SETTINGS, policy=Policy(daily_budget=Decimal(1), call_budget=Decimal(1)))
    sandbox.fail(Fault(answer="none", cost=0.0001))
    async with connected(sandbox, settings=rich) as client:
        text, record, _ = await ask(client, prompt="Hi", model="acme/tiny", max_tokens=1000)
    assert record["attempts"] == 2
    assert Decimal(record["cost_usd"]) == sandbox.bill
    assert "2 requests" in text


@pytest.mark.parametrize("tool", ["ask_model", "read_answer"])
async def test_a_free_call_without_text_that_cost_something_says_so(sandbox: Sandbox, tool: str) -> None:
    sandbox.fail(Fault(answer="none", cost=0.5))
    async with connected(sandbox) as client:
        text, _, is_error = await ask(client, prompt="Hi", model="acme/tiny:free")
        if tool == "read_answer":
            _, record, _ = await ask(client, "read_answer")
            text, _, is_error = await ask(client, "read_answer", id=record["rows"][0]["id"])
    assert is_error
    assert "does not bill" not in text
    assert "reports a cost of $0.50" in text
    assert "The guard is closed" in text


def set_aside(folder: Path) -> list[Path]:
    return list(folder.glob("answers.db.broken-*"))


async def test_a_broken_file_is_set_aside_once_and_a_siblings_new_one_is_left_alone(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, state_dir=tmp_path)
    async with connected(sandbox, settings=settings) as one, connected(sandbox, settings=settings) as other:
        for client in (one, other):
            await ask(client, prompt="Before")
        (tmp_path / "answers.db").write_bytes(b"not answers any more " * 1000)
        _, first, _ = await ask(one, prompt="After")
        _, second, _ = await ask(other, prompt="After")
    async with connected(sandbox, settings=settings) as again:
        for record in (first, second):
            _, _, is_error = await ask(again, "read_answer", id=record["id"])
            assert not is_error
    assert len(set_aside(tmp_path)) == 1
