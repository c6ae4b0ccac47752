"""What it takes a process to have the model list: from the disk, where another has kept it, and from OpenRouter."""

import json
import tempfile
import time
from pathlib import Path

import anyio
from measures import Row

from openrouter_mcp import listing
from openrouter_mcp.cached import Cached
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.listing import Listing

_SIZES = (400, 10_000)
# As long as most are: https://openrouter.ai/docs/api-reference/models
_MODEL = {
    "name": "Acme: Tiny",
    "created": 1_745_876_632,
    "description": "Tiny is a dense 8.2B parameter model. " * 20,
    "context_length": 131_072,
    "architecture": {"modality": "text->text", "input_modalities": ["text"], "output_modalities": ["text"]},
    "pricing": {"prompt": "0.000000117", "completion": "0.000000455"},
    "top_provider": {"context_length": 131_072, "max_completion_tokens": 8192, "is_moderated": False},
    "supported_parameters": ["max_tokens", "reasoning", "response_format", "tools", "tool_choice"],
    "default_parameters": {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
    "benchmarks": {"artificial_analysis": {"intelligence_index": 5.2, "coding_index": 9, "agentic_index": 0.8}},
}


def catalogues(runs: int) -> list[Row]:
    """Milliseconds until a new process has the list of each size."""
    return [row for size in _SIZES for row in anyio.run(_catalogue, size, runs)]


async def _catalogue(size: int, runs: int) -> list[Row]:
    rows = [
        {"id": f"acme/tiny-{number}", "canonical_slug": f"acme/tiny-{number}-04-28", **_MODEL} for number in range(size)
    ]
    body = json.dumps({"data": rows}).encode()
    from_disk = Row(f"the list of {size} models, {len(body) / 1e6:.1f} MB, from the disk", "ms")
    written = Row(f"the list of {size} models read and kept", "ms")
    at = time.time()

    async def refuse(_: Listing | None) -> Listing:
        raise RuntimeError("it is the copy on disk that is measured")

    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            begin = time.perf_counter()
            await Cached(Path(folder)).keep(listing.read(body, listing.ALL, '"1"'), at)
            written.ours.append((time.perf_counter() - begin) * 1000)
            begin = time.perf_counter()
            models = await Catalog(refuse, Cached(Path(folder))).models()
            from_disk.ours.append((time.perf_counter() - begin) * 1000)
            assert len(models) == size
    return [from_disk, written]
