"""What the tools about models cost an agent to read, over a list of the real one's length with all its oddities."""

import json
from pathlib import Path
from typing import Any

import bpe_openai
import pytest
from budgets import budget
from mcp import Client
from oddities import odd_sandbox, oddities
from support import ask, connected

from openrouter_mcp.pricing import is_free
from openrouter_mcp.records import read_models
from openrouter_mcp.sandbox import Fault

SNAPSHOT = Path(__file__).parent / "snapshots" / "sizes.json"
ODDEST = "odd/every-unit-price"
OFFERS = [
    {"model_id": ODDEST, "provider_name": f"Provider {number}", "tag": f"provider-{number}/fp8", "status": -number % 3,
     "pricing": {"prompt": "0.00000123", "completion": "0.00000456"}, "context_length": 131_072,
     "uptime_last_1d": 99.87, "latency_last_30m": {"p50": 0.83}, "throughput_last_30m": {"p50": 57.3}}
    for number in range(40)
]  # fmt: skip
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "list_free_models": ("list_free_models", {}),
    "list_free_models, limit 50": ("list_free_models", {"limit": 50}),
    "list_free_models for a translation": ("list_free_models", {"task": "translation into German"}),
    "list_free_models, none": ("list_free_models", {"search": "nothing like it"}),
    "find_models": ("find_models", {}),
    "find_models, limit 50": ("find_models", {"limit": 50}),
    "find_models by price": ("find_models", {"sort": "price"}),
    "find_models, none": ("find_models", {"search": "nothing like it"}),
    "one model": ("find_models", {"model": "acme/tiny"}),
    "one model with every price and 40 providers": ("find_models", {"model": ODDEST}),
    "no such model": ("find_models", {"model": "anthropomorphic/large-99:free"}),
}


async def told(client: Client) -> dict[str, str]:
    """What each call says."""
    return {name: (await ask(client, tool, **arguments))[0] for name, (tool, arguments) in CALLS.items()}


async def test_the_sizes_are_those_of_the_snapshot() -> None:
    """After a change that is meant: delete tests/snapshots/sizes.json, run this test twice, and read the difference."""
    sandbox, at = odd_sandbox()
    sandbox.fail(Fault(json={"data": {"endpoints": OFFERS}}), times=None, path=f"/models/{ODDEST}/endpoints")
    async with connected(sandbox, at=at, settings=budget("1")) as client:
        texts = await told(client)
    encoding = bpe_openai.get_encoding("o200k_base")
    tokens = {name: len(encoding.encode(text)) for name, text in texts.items()}
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(json.dumps({"o200k_tokens": tokens}, indent=1) + "\n")
        pytest.fail("the snapshot was missing and has been written; read it and run again")
    assert json.loads(SNAPSHOT.read_text()) == {"o200k_tokens": tokens}
    assert max(tokens.values()) < 1500
    assert all(len(text.partition("\n\n")[2]) < 3000 for text in texts.values())
    assert all(text.replace("\n", "").isprintable() for text in texts.values())


async def test_each_odd_model_can_be_looked_at() -> None:
    sandbox, at = odd_sandbox()
    async with connected(sandbox, at=at) as client:
        for entry in read_models({"data": oddities()}):
            if not entry.id.startswith("odd/"):
                continue
            path = f"/models/{entry.id}/endpoints"
            sandbox.fail(Fault(json={"data": {"endpoints": []}}), path=path)
            text, _, is_error = await ask(client, "find_models", model=entry.id)
            assert not is_error, text
            assert text.replace("\n", "").isprintable()
            assert len(text) < 3000
            assert text.count("\n") < 20


async def test_what_is_listed_as_free_is_free_to_the_letter() -> None:
    """Listed twice: the dearer one counts."""
    sandbox, at = odd_sandbox()
    listed = {entry.id: entry for entry in read_models({"data": oddities()})}
    async with connected(sandbox, at=at) as client:
        _, record, _ = await ask(client, "list_free_models", search="odd", limit=50)
    found = {row["model"] for row in record["rows"]}
    assert {"odd/html:free", "odd/escapes:free", "odd/never:free"} <= found
    assert all(is_free(listed[id_]) for id_ in found)
    assert not found & {"odd/twice:free", "odd/alias:free", "odd/overrides-price:free", "odd/half-price:free"}
