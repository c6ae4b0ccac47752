# ruff: noqa: T201 - the port is its one answer
"""The bare server to measure against: the SDK's own, with one tool and nothing of ours.

`python bare.py` serves `ask` (one streamed completion of OPENROUTER_BASE_URL); `--trivial` serves `echo`, for start-up;
`--http` serves over HTTP on a free loopback port, and prints it.
"""

import json
import os
import socket
import sys

import httpx2
import uvicorn
from mcp.server.mcpserver import MCPServer

_PLENTY = httpx2.Limits(max_connections=256)
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
            httpx2.AsyncClient(
                base_url=os.environ["OPENROUTER_BASE_URL"], headers=headers, trust_env=False, timeout=60, limits=_PLENTY
            )
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
    """Serve until stdin ends, or over HTTP until it is killed."""
    server = MCPServer("bare", log_level="WARNING")
    server.add_tool(echo if "--trivial" in sys.argv else ask, structured_output=False)
    if "--http" not in sys.argv:
        server.run("stdio")
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        print(listener.getsockname()[1], flush=True)
        web = server.streamable_http_app(host="127.0.0.1")
        uvicorn.Server(uvicorn.Config(web, log_level="warning", access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main()
