"""One Starlette app: /mcp (Streamable HTTP), /sse with /messages/ (legacy), /health."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from openrouter_mcp import __version__
from openrouter_mcp.server import OpenRouterServer

STREAMABLE_HTTP = "streamable-http"
SSE = "sse"
TRANSPORTS = (STREAMABLE_HTTP, SSE)


def web_app(server: OpenRouterServer, *, host: str, port: int, transports: tuple[str, ...] = TRANSPORTS) -> Starlette:
    """The app for a loopback `host` and exactly `port`: a page in a browser that reaches it by another name (DNS
    rebinding) or from another origin is refused."""
    plain = ("127.0.0.1", "localhost", "[::1]")
    names = [*(f"{name}:{port}" for name in plain), *(plain if port == 80 else ())]
    security = TransportSecuritySettings(allowed_hosts=names, allowed_origins=[f"http://{name}" for name in names])
    routes: list[BaseRoute] = [Route("/health", _health)]
    if STREAMABLE_HTTP in transports:
        routes += server.streamable_http_app(host=host, transport_security=security).routes
    if SSE in transports:
        routes += server.sse_app(host=host, transport_security=security).routes

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        if STREAMABLE_HTTP not in transports:
            yield
            return
        async with server.session_manager.run():
            yield

    return Starlette(routes=routes, lifespan=lifespan)


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok", "version": __version__})
