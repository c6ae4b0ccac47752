"""Serves MCP over HTTP: on loopback, or to those who show a token."""

import os
import signal
import socket
import sys
from dataclasses import replace
from types import FrameType

import anyio
import uvicorn
from sse_starlette.sse import AppStatus
from starlette.applications import Starlette

from openrouter_mcp.access import WHOEVER, Access, require_guarded
from openrouter_mcp.asgi import TRANSPORTS, web_app
from openrouter_mcp.cli.connections import Impatient, allow_many
from openrouter_mcp.cli.opening import leave_within, opened
from openrouter_mcp.errors import BadSetting
from openrouter_mcp.protocol import OpenRouterServer
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LONGEST_END_S = 2.2
_GRACE_S = 1  # for calls in flight, once asked to stop
_HAND_OVER_S = 0.8  # of it, for those that wait for an answer
_TICK_S = 0.02
_LAST_WORDS_S = 0.1  # of answers on the way to a standing stream


async def serve(
    settings: Settings,
    *,
    sandbox: bool,
    host: str,
    port: int,
    transports: tuple[str, ...] | None = None,
    access: Access = Access(),  # noqa: B008 - frozen
) -> int:
    """Serve until SIGINT or SIGTERM. `transports` restricts what is offered; `port` 0 picks a free one.

    Raises:
        BadSetting: when the address cannot be served.
    """
    offered = transports or TRANSPORTS
    if host not in _LOOPBACK:
        require_guarded(access, host)
    elif access.hosts and not access.callers:
        raise BadSetting("OPENROUTER_MCP_ALLOWED_HOSTS lets others in: set OPENROUTER_MCP_HTTP_TOKEN as well.")
    with _listen(host, port) as listener:
        port = listener.getsockname()[1]
        settings = replace(
            settings, caller=WHOEVER, files=(), own=(*settings.own, *access.own)
        )  # the user's files are for stdio
        if settings.policy.daily_budget and not access.callers:  # any process of this machine could spend it
            settings = replace(settings, policy=settings.policy.without_money())
            print("openrouter-mcp: over HTTP without a token the budget is $0: free models only", file=sys.stderr)
        allow_many()
        async with opened(settings, sandbox=sandbox) as app:
            server = build(app, state_key=access.state_key)
            is_alone = settings.state_url is None
            web = web_app(server, host=host, port=port, transports=offered, access=access, keeps_sessions=is_alone)
            stoppable = _stoppable(web, server)
            paths = " and ".join(
                path for name, path in zip(TRANSPORTS, ("/mcp", "/sse"), strict=True) if name in offered
            )
            shown = f"[{host}]" if ":" in host else host
            print(f"openrouter-mcp: serving {paths} on http://{shown}:{port}", file=sys.stderr, flush=True)
            await stoppable.serve(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named: asyncio sets TCP_NODELAY only then, and without it each reply is 40 ms late.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BadSetting(
            f"Port {port} on {host} cannot be used ({error.strerror}); choose another with --port."
        ) from error
    return listener


def config_for(web: Starlette) -> uvicorn.Config:
    """How `web` is served."""
    return uvicorn.Config(
        web,
        http=Impatient,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,  # addresses are not written down: a token might stand in one
        proxy_headers=False,  # whoever is on this machine could claim any address
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )


def _stoppable(web: Starlette, offered: OpenRouterServer) -> uvicorn.Server:
    """A server that a signal ends in good order, from this moment on. uvicorn takes signals over only while it serves,
    and raises them again afterwards, when the default would kill the process before our own connections are closed."""
    server = _InTime(config_for(web))
    server.offered = offered
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    AppStatus.enable_automatic_graceful_drain = False  # it would cut the streams before their calls are answered
    return server


class _InTime(uvicorn.Server):
    """Ends in good order, or else after a while: counted from the signal, whoever has taken signals over."""

    offered: OpenRouterServer

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What uvicorn does at a signal, and no longer than that."""
        leave_within(_LONGEST_END_S, 0)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Calls that wait hand over what there is; then streams end, and with them their connections."""
        if self.offered.ending:
            self.offered.ending()
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_streams)
            await super().shutdown(sockets)

    async def _end_streams(self) -> None:
        with anyio.move_on_after(_HAND_OVER_S):
            while self.offered.observer.in_flight or self._is_answering():  # noqa: ASYNC110 - as uvicorn itself does
                await anyio.sleep(_TICK_S)
            await anyio.sleep(_LAST_WORDS_S)
        AppStatus.should_exit = True

    def _is_answering(self) -> bool:
        cycles = [getattr(each, "cycle", None) for each in self.server_state.connections]
        return any(each and each.scope["method"] == "POST" and not each.response_complete for each in cycles)
