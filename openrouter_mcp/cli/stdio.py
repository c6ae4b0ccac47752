"""Serves MCP over stdin and stdout, and ends when stdin does or a signal says so."""

import json
import signal
from typing import Any

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import PARSE_ERROR, ErrorData, JSONRPCError, JSONRPCRequest, jsonrpc_message_adapter
from pydantic import ValidationError

from openrouter_mcp.cli.opening import leave, leave_within, opened
from openrouter_mcp.protocol import OpenRouterServer
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings
from openrouter_mcp.text import encodable

_UNREADABLE = SessionMessage(
    JSONRPCError(jsonrpc="2.0", id=None, error=ErrorData(code=PARSE_ERROR, message="That line is no JSON-RPC message."))
)
_GRACE_S, _SIGNAL_GRACE_S = 0.7, 2.0  # for an end in good order


async def serve_stdio(settings: Settings, *, sandbox: bool) -> int:
    """Serve one client until stdin ends (status 0) or SIGINT or SIGTERM arrives (128 and its number)."""
    async with stdio_server() as (incoming, outgoing):
        async with opened(settings, sandbox=sandbox) as app:
            received = await _until_signal(build(app), incoming, outgoing)
        if received:
            # The thread that reads stdin cannot be cancelled, so an orderly end would wait for the client.
            leave(128 + received)
    return 0


async def _until_signal(server: OpenRouterServer, incoming: Any, outgoing: Any) -> int:  # noqa: ANN401 - see relay
    """Serve until `incoming` ends (0) or a signal comes (its number); every call in flight is cancelled either way."""
    received = 0

    async def watch() -> None:
        nonlocal received
        try:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for number in signals:
                    received = int(number)
                    leave_within(_SIGNAL_GRACE_S, 128 + received)
                    _end(server)
                    group.cancel_scope.cancel()
        except NotImplementedError:
            return  # Windows: the loop takes no signal handlers, the process ends by its defaults

    async def relayed() -> None:
        await relay(server, incoming, outgoing, send)
        leave_within(_GRACE_S, 0)

    send, receive = anyio.create_memory_object_stream[Any]()
    async with send, receive, anyio.create_task_group() as group:
        group.start_soon(watch)
        group.start_soon(relayed)
        await server.serve(receive, outgoing)
        group.cancel_scope.cancel()
    return received


async def relay(
    server: OpenRouterServer,
    incoming: ObjectReceiveStream[Any],
    outgoing: ObjectSendStream[Any],
    send: ObjectSendStream[Any],
) -> None:
    """Pass messages on to the server, but answer leading `server/discover` requests apart.

    The SDK lets the first request decide a connection's era and refuses an `initialize` after a discover, which is
    what some released clients send. A line it cannot read it drops without a word, so that is put right here too.
    (The messages are the SDK's SessionMessage, or an exception for a broken line.)
    """
    async with incoming, send:
        leading = True
        async for read in incoming:
            message = _mended(read) if isinstance(read, Exception) else read
            if message is None:
                await outgoing.send(_UNREADABLE)
                continue
            leading = leading and _is_discover(message)
            if leading:
                await _answer_apart(server, message, outgoing)
            else:
                await send.send(message)
        _end(server)


def _end(server: OpenRouterServer) -> None:
    if server.ending:
        server.ending()


def _mended(failure: Exception) -> SessionMessage | None:
    """The message of a line that only half a character made unreadable, as clients send that cut text at an emoji."""
    line = failure.errors()[0]["input"] if isinstance(failure, ValidationError) else ""
    try:
        text = encodable(json.dumps(json.loads(line), ensure_ascii=False))
        return SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False))
    except (ValueError, TypeError, RecursionError):
        return None


def _is_discover(message: Any) -> bool:  # noqa: ANN401 - see relay
    request = getattr(message, "message", None)
    return isinstance(request, JSONRPCRequest) and request.method == "server/discover"


async def _answer_apart(server: OpenRouterServer, message: Any, outgoing: ObjectSendStream[Any]) -> None:  # noqa: ANN401 - see relay
    """Answer one request on a connection of its own, which must stay open until the answer is there."""
    ask, asked = anyio.create_memory_object_stream[Any](1)
    reply, replied = anyio.create_memory_object_stream[Any](1)
    async with ask, replied, anyio.create_task_group() as group:
        group.start_soon(server.serve, asked, reply)
        await ask.send(message)
        await outgoing.send(await replied.receive())
        group.cancel_scope.cancel()
