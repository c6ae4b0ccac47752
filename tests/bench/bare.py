"""The bare server to measure against: the SDK's own, with one tool and nothing of ours.

`python bare.py` serves `ask` (one streamed completion of OPENROUTER_BASE_URL); `--trivial` serves `echo`, for start-up.
"""

import json
import os
import sys

import httpx2
from mcp.server.mcpserver import MCPServer

_clients: list[httpx2.AsyncClient] = []  # made at the first call, as ours is


async def echo(text: str) -> str:
    """Say it again."""
    return text


async def ask(prompt: str, model: str) -> str:
    """Ask a model."""
    if not _clients:
        key = os.environ["OPENROUTER_API_KEY"]
        headers = {"authorization": f"Bearer {key}"}
        _clients.append(
            httpx2.AsyncClient(base_url=os.environ["OPENROUTER_BASE_URL"], headers=headers, trust_env=False)
        )
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8192, "stream": True}
    text = ""
    async with _clients[0].stream("POST", "/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
    return text


def main() -> None:
    """Serve over stdio until stdin ends."""
    server = MCPServer("bare", log_level="WARNING")
    server.add_tool(echo if "--trivial" in sys.argv else ask, structured_output=False)
    server.run("stdio")


if __name__ == "__main__":
    main()
