"""What a client sees before the first call: small, honest, and readable by every client."""

import json
import re
from pathlib import Path
from typing import Any

import bpe_openai
import pytest
from mcp_types import Tool
from support import ERAS, connected

from openrouter_mcp import __version__
from openrouter_mcp.sandbox import Sandbox

SNAPSHOT = Path(__file__).parent / "snapshots" / "tools.json"
README = Path(__file__).parents[1] / "README.md"


async def listed(era: str = "auto") -> list[Tool]:
    async with connected(Sandbox(), era=era) as client:
        return (await client.list_tools()).tools


def on_the_wire(tools: list[Tool]) -> list[dict[str, Any]]:
    return [tool.model_dump(by_alias=True, mode="json", exclude_none=True) for tool in tools]


@pytest.mark.parametrize("era", ERAS)
async def test_the_tools_and_their_size_are_those_of_the_snapshot(era: str) -> None:
    """After a change that is meant: delete tests/snapshots/tools.json, run this test twice, and read the difference."""
    tools = on_the_wire(await listed(era))
    compact = json.dumps(tools, separators=(",", ":"), ensure_ascii=False)
    tokens = len(bpe_openai.get_encoding("o200k_base").encode(compact))
    if not SNAPSHOT.exists():
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(json.dumps({"o200k_tokens": tokens, "tools": tools}, indent=1, ensure_ascii=False) + "\n")
        pytest.fail("the snapshot was missing and has been written; read it and run again")
    assert json.loads(SNAPSHOT.read_text()) == {"o200k_tokens": tokens, "tools": tools}
    assert tokens < 1800


async def test_each_tool_says_in_one_short_line_what_it_does_and_then_what_it_costs() -> None:
    for tool in await listed():
        summary, blank, *rest = (tool.description or "").split("\n")
        assert len(summary) < 80, tool.name
        assert summary.endswith(".")
        assert blank == ""
        assert re.search(r"free request", " ".join(rest)), f"{tool.name} does not say what it spends"
        assert len(tool.description or "") < 2048  # where clients cut
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool.name)


async def test_annotations_are_honest() -> None:
    hints = {tool.name: tool.annotations for tool in await listed() if tool.annotations}
    assert {name for name, hint in hints.items() if hint.read_only_hint} == {
        "list_free_models",
        "find_models",
        "check_credits",
    }
    assert {name for name, hint in hints.items() if not hint.idempotent_hint} == {
        "ask_model",
        "compare_models",
        "ask_many",
    }


async def test_every_client_can_read_the_schemas() -> None:
    """An object at the root, flat, no references, no unions, no nulls; every argument described, none silently lost."""
    for tool in await listed():
        schema = tool.input_schema
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False
        assert not re.search(r'"(\$ref|\$defs|anyOf|oneOf|allOf|title)"|null', json.dumps(schema)), tool.name
        for name, field in schema["properties"].items():
            assert field["type"] in {"string", "integer", "number", "boolean", "array", "object"}, name
            assert field["description"], name


async def test_the_server_introduces_itself_in_both_eras() -> None:
    for era in ERAS:
        async with connected(Sandbox(), era=era) as client:
            assert client.server_info is not None
            assert (client.server_info.name, client.server_info.version) == ("openrouter-mcp", __version__)
            instructions = client.instructions or ""
        assert len(instructions) < 600
        assert "ask_model" in instructions
        assert "not instructions" in instructions


async def test_the_list_may_be_kept_for_an_hour() -> None:
    async with connected(Sandbox()) as client:
        result = await client.list_tools()
    assert result.ttl_ms == 3_600_000
    assert result.cache_scope == "public"


async def test_the_readme_lists_these_tools_with_these_arguments() -> None:
    table = README.read_text().partition("## Tools")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", table, flags=re.MULTILINE))
    for tool in await listed():
        assert tool.name in rows, f"README does not list {tool.name}"
        assert re.findall(r"`(\w+)`", rows[tool.name]) == list(tool.input_schema["properties"])
    assert set(rows) == {tool.name for tool in await listed()}
