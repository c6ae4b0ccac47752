"""One Starlette app: /mcp (Streamable HTTP), /sse with /messages/ (legacy), /health, /metrics; behind one door."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from openrouter_mcp import __version__
from openrouter_mcp.access import Access
from openrouter_mcp.door import OPEN, Door
from openrouter_mcp.observing import as_text
from openrouter_mcp.protocol import OpenRouterServer

STREAMABLE_HTTP = "streamable-http"
SSE = "sse"
TRANSPORTS = (STREAMABLE_HTTP, SSE)
_PATHS = ("/mcp", "/sse", "/messages/", "/metrics")
_NO_METRICS = (
    "There are no metrics: install openrouter-mcp with its extra, openrouter-mcp[metrics], and start it again.\n"
)

logger = logging.getLogger(__name__)


def web_app(
    server: OpenRouterServer,
    *,
    host: str,
    port: int,
    transports: tuple[str, ...] = TRANSPORTS,
    access: Access = Access(),  # noqa: B008 - frozen
    keeps_sessions: bool = True,
) -> Starlette:
    """The app for whoever `access` lets in, at exactly `port`: a page in a browser that reaches it by another name (DNS
    rebinding) or from another origin is refused. One of several behind a proxy keeps no sessions of the older era, so
    that any of them answers any request."""
    unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # the door has checked it
    metrics = Counted(server)
    routes: list[BaseRoute] = [Route(OPEN, _health), Route("/metrics", metrics.page)]
    if STREAMABLE_HTTP in transports:
        routes += server.streamable_http_app(
            host=host, transport_security=unchecked, stateless_http=not keeps_sessions
        ).routes
    if SSE in transports:
        routes += server.sse_app(host=host, transport_security=unchecked).routes
    names = [*_loopback(port), *access.hosts]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        if STREAMABLE_HTTP not in transports:
            yield
            return
        async with server.session_manager.run():
            yield

    door = Middleware(Door, callers=access.callers, names=names, refused=metrics.refused)
    return Starlette(
        routes=routes, lifespan=lifespan, middleware=[door, Middleware(AuthContextMiddleware), Middleware(_Deprecation)]
    )


def _loopback(port: int) -> list[str]:
    plain = ("127.0.0.1", "localhost", "[::1]")
    return [*(f"{name}:{port}" for name in plain), *(plain if port == 80 else ())]


class Counted:
    """What is refused is written down; and counted together with the calls, where the extra is installed."""

    def __init__(self, server: OpenRouterServer) -> None:
        self._metrics = None
        if find_spec("prometheus_client"):
            from openrouter_mcp.metrics import CONTENT_TYPE, Metrics  # an extra, which few have

            self._metrics, self._type = Metrics(), CONTENT_TYPE
            server.observer.told = self._metrics.call

    def refused(self, scope: Scope, status: int, why: str) -> None:
        """A request was answered with an error of HTTP; its query is not written down, it might hold a token."""
        if self._metrics:
            self._metrics.refused(status)
        state = scope.get("state", {})
        if state.get("written"):
            return
        caller = {"caller": state["caller"].name} if "caller" in state else {}
        client = scope.get("client")
        line = caller | {
            "status": status,
            "method": scope["method"],
            "path": scope["path"] if scope["path"] in _PATHS else "other",  # it may hold anything, a token too
            "from": (client or [""])[0],
        }
        line |= {"why": why} if why else {}
        logger.warning(as_text(line), extra={"facts": line})

    async def page(self, _: Request) -> Response:
        """GET /metrics."""
        if not self._metrics:
            return PlainTextResponse(_NO_METRICS, 501)
        return Response(self._metrics.text(), media_type=self._type)


class _Deprecation:
    """Says once that the older transport goes away."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._said = app, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") == "/sse" and not self._said:
            self._said = True
            logger.warning("A client uses /sse, which MCP has deprecated; clients should use /mcp instead.")
        await self._app(scope, receive, send)


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok", "version": __version__})
