"""Serves MCP over HTTP on loopback."""

import os
import signal
import socket
import sys
from dataclasses import replace
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from openrouter_mcp.asgi import TRANSPORTS, web_app
from openrouter_mcp.cli.opening import leave_within, opened
from openrouter_mcp.errors import BadSetting
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings

_WHOEVER = "http"  # may not read what was asked over stdio: anybody on this machine can reach the port
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LONGEST_END_S = 2.2
_GRACE_S = 1  # for calls in flight, once asked to stop


async def serve(
    settings: Settings, *, sandbox: bool, host: str, port: int, transports: tuple[str, ...] | None = None
) -> int:
    """Serve until SIGINT or SIGTERM. `transports` restricts what is offered; `port` 0 picks a free one.

    Raises:
        BadSetting: when the address cannot be served.
    """
    if host not in _LOOPBACK:
        raise BadSetting(
            f"--host {host} can be reached from other machines, and there is no way yet to ask them for a token: "
            "anyone could use the key. Serve 127.0.0.1 and let a proxy with authentication stand in front."
        )
    offered = transports or TRANSPORTS
    with _listen(host, port) as listener:
        port = listener.getsockname()[1]
        settings = replace(settings, caller=_WHOEVER, files=())  # nor read the user's files
        if settings.policy.daily_budget:  # any process of this machine could spend it
            settings = replace(settings, policy=settings.policy.without_money())
            print("openrouter-mcp: over HTTP without a token the budget is $0: free models only", file=sys.stderr)
        async with opened(settings, sandbox=sandbox) as app:
            web = web_app(build(app), host=host, port=port, transports=offered)
            server = _stoppable(web)
            paths = " and ".join(
                path for name, path in zip(TRANSPORTS, ("/mcp", "/sse"), strict=True) if name in offered
            )
            shown = f"[{host}]" if ":" in host else host
            print(f"openrouter-mcp: serving {paths} on http://{shown}:{port}", file=sys.stderr, flush=True)
            await server.serve(sockets=[listener])
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


def _stoppable(web: Starlette) -> uvicorn.Server:
    """A server that a signal ends in good order, from this moment on. uvicorn takes signals over only while it serves,
    and raises them again afterwards, when the default would kill the process before our own connections are closed."""
    config = uvicorn.Config(
        web, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S
    )
    server = _InTime(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    return server


class _InTime(uvicorn.Server):
    """Ends in good order, or else after a while: counted from the signal, whoever has taken signals over."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What uvicorn does at a signal, and no longer than that."""
        leave_within(_LONGEST_END_S, 0)
        super().handle_exit(sig, frame)
