"""A server for several callers, on a loopback port of this very process, so that a test can look inside."""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import uvicorn
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from support import opened, until

from openrouter_mcp.access import Access
from openrouter_mcp.app import App
from openrouter_mcp.asgi import web_app
from openrouter_mcp.callers import Caller
from openrouter_mcp.cli.serve import _listen, config_for
from openrouter_mcp.sandbox import Sandbox
from openrouter_mcp.server import build

WAYS = (("/mcp", "auto"), ("/mcp", "legacy"), ("/sse", "legacy"))
JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


def token_of(name: str) -> str:
    """The token that `name` shows."""
    return f"canary-token-of-{name}-" + "x" * 32


def digest_of(name: str) -> bytes:
    return hashlib.sha256(token_of(name).encode()).digest()


def bearer(name: str) -> dict[str, str]:
    """The header that lets `name` in."""
    return {"authorization": f"Bearer {token_of(name)}"}


def caller(name: str, **more: Any) -> Caller:
    return Caller(name, digest_of(name), **more)


def callers_file(path: Path, *names: str, more: str = "") -> Path:
    """A file of these callers; `more` is for the last of them."""
    rows = [f'[[caller]]\nname = "{name}"\ntoken_sha256 = "{digest_of(name).hex()}"\n' for name in names]
    path.write_text("\n".join(rows) + more)
    path.chmod(0o600)
    return path


@asynccontextmanager
async def client_of(address: str, path: str, era: str, name: str, **more: Any) -> AsyncGenerator[Client]:
    """A client of `name`, on either transport; `more` is what else the client can."""
    if path == "/sse":
        async with Client(sse_client(address + path, headers=bearer(name)), mode=era, **more) as client:
            yield client
        return
    async with (
        httpx2.AsyncClient(headers=bearer(name), timeout=30) as http,
        Client(streamable_http_client(address + path, http_client=http), mode=era, **more) as client,
    ):
        yield client


@dataclass(frozen=True)
class Team:
    """The server, and where it is."""

    app: App
    address: str
    server: uvicorn.Server

    def client(self, name: str, path: str = "/mcp", era: str = "auto", **more: Any) -> Any:
        """A client of `name`, to be entered."""
        return client_of(self.address, path, era, name, **more)


@asynccontextmanager
async def team(sandbox: Sandbox, *callers: Caller, **options: Any) -> AsyncGenerator[Team]:
    """A server over `sandbox` for these; `options` are those of `support.opened`."""
    async with opened(sandbox, **options) as app:
        with _listen("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            web = web_app(build(app), host="127.0.0.1", port=port, access=Access(callers))
            server = uvicorn.Server(config_for(web))
            async with anyio.create_task_group() as group:
                group.start_soon(server._serve, [listener])
                await until(lambda: server.started)
                try:
                    yield Team(app, f"http://127.0.0.1:{port}", server)
                finally:
                    server.should_exit = True
