"""A reply of the sandbox, whole or in pieces, and how it goes out over ASGI."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio.lowlevel

from openrouter_mcp.sandbox.faults import Fault, Reset

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass
class Reply:
    """Status, body (all of it, or pieces as they come) and headers with lower-case names."""

    status: int
    body: bytes | AsyncGenerator[bytes, None]
    headers: dict[str, str]


def whole(fault: Fault) -> Reply:
    status, body, headers = fault.content()
    return Reply(status, body, {name.lower(): value for name, value in headers.items()})


def data(content: object, **beside: object) -> Reply:
    """OpenRouter's ordinary envelope: `{"data": content}`."""
    return Reply(200, json.dumps({"data": content, **beside}).encode(), {"content-type": "application/json"})


async def pieces(body: bytes, fault: Fault, sleep: Callable[[float], Awaitable[None]]) -> AsyncGenerator[bytes, None]:
    """The first half of a body, and then what the fault says."""
    yield body[: len(body) // 2]
    if fault.then == "stall":
        await anyio.sleep_forever()
    if fault.then == "reset":
        raise Reset
    while fault.then == "dribble":
        await sleep(fault.every_s)
        yield b" "


async def write(reply: Reply, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if isinstance(reply.body, bytes):
        await send({"type": "http.response.body", "body": reply.body})
        return
    async with aclosing(reply.body) as body:
        async for piece in body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await anyio.lowlevel.checkpoint()  # a socket takes much without waiting; endless replies must not hog
    await send({"type": "http.response.body", "body": b""})
