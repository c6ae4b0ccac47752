"""The sandbox itself: one plain object that holds its state, and the ASGI app that serves it."""

import itertools
import json
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import anyio

from openrouter_mcp.sandbox import chat, listing
from openrouter_mcp.sandbox.account import Account
from openrouter_mcp.sandbox.faults import Fault, Reset, bad_key, refusal
from openrouter_mcp.sandbox.models import catalogue, today
from openrouter_mcp.sandbox.reply import Receive, Reply, Send, data, pieces, whole, write

BASE = "/api/v1"
NO_KEY = Fault(status=401, json={"error": {"message": "No cookie auth credentials found", "code": 401}})
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


@dataclass
class Received:
    """One request as it arrived; `path` without `/api/v1`. Headers and raw bytes stay out of the repr: the key."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    raw: bytes = field(repr=False)
    body: Any = None
    inside: bool = True  # under /api/v1
    closed_early: bool = False  # the client went away before the reply was complete


@dataclass
class _Queued:
    fault: Fault
    times: int | None
    model: str | None
    path: str


class Sandbox:
    """OpenRouter in small. All dates come from `clock` (epoch seconds), all waiting goes through `sleep` (seconds).

    `requests` is what arrived; `catalog` (the rows of /models) and `account` may be changed at any time. `delay_s` is
    the wait before the first token, `delays` the same by model id, `token_delay_s` the wait between tokens.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    ) -> None:
        self.clock = clock
        self.sleep = sleep
        self.app: App = _app(self)
        self.requests: list[Received] = []
        self.catalog: list[dict[str, Any]] = catalogue(today(clock()))
        self.account = Account()
        self.rejected_keys: set[str] = set()
        self.delay_s = 0.0
        self.delays: dict[str, float] = {}
        self.token_delay_s = 0.0
        self.open_streams = 0  # streams now being written
        self.serial = itertools.count(1)  # numbers the generations
        self._queue: list[_Queued] = []

    @property
    def bill(self) -> Decimal:
        """USD charged so far."""
        return self.account.bill

    @property
    def chats(self) -> list[Received]:
        return [request for request in self.requests if request.path == chat.PATH]

    def fail(self, fault: Fault, times: int | None = 1, model: str | None = None, path: str = chat.PATH) -> None:
        """Spoil the next `times` requests to `path` (None: all), or only those that `model` would serve."""
        self._queue.append(_Queued(fault, times, model, path))

    def clear(self) -> None:
        """Forget the faults and the requests; the account and its bill stay."""
        self._queue.clear()
        self.requests.clear()

    async def wait(self, seconds: float) -> None:
        if seconds > 0:
            await self.sleep(seconds)

    def take(self, path: str, models: Collection[str | None] = (None,)) -> Fault | None:
        """The next fault queued for the path, and for one of the models (None: whichever), counted as used."""
        for queued in self._queue:
            if queued.path == path and queued.model in models and queued.times != 0:
                queued.times = None if queued.times is None else queued.times - 1
                return queued.fault
        return None


def _app(sandbox: Sandbox) -> App:
    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"the sandbox serves http, not {scope['type']}")
        received = await _read(scope, receive)
        sandbox.requests.append(received)
        if await _until_gone(sandbox, received, receive, send):
            raise Reset

    return app


async def _read(scope: MutableMapping[str, Any], receive: Receive) -> Received:
    raw, more = b"", True
    while more:
        message = await receive()
        raw += message.get("body", b"")
        more = message.get("more_body", False)
    headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
    received = Received(scope["method"], scope["path"], query, headers, raw)
    received.inside = received.path.startswith(f"{BASE}/")
    received.path = received.path.removeprefix(BASE)
    try:
        received.body = json.loads(raw) if raw else None
    except ValueError:
        received.body = None
    return received


async def _until_gone(sandbox: Sandbox, received: Received, receive: Receive, send: Send) -> bool:
    """Answer, unless the client leaves first; True when the connection is to be cut."""
    done = cut = False
    try:
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                await write(await _answer(sandbox, received), send)
            except Reset:
                cut = True
            done = True
            group.cancel_scope.cancel()
    finally:
        received.closed_early = not done
    return cut


async def _answer(sandbox: Sandbox, received: Received) -> Reply:
    if not received.inside:
        return whole(refusal(404, "Not found"))
    if received.method == "POST" and received.path == chat.PATH:
        denied = _key(sandbox, received)
        return whole(denied) if denied else await chat.complete(sandbox, received.body)
    fault = sandbox.take(received.path) or Fault()
    await sandbox.wait(fault.delay_headers_s)
    if fault.reset:
        raise Reset
    reply = whole(fault) if fault.is_reply else _route(sandbox, received)
    if fault.then and isinstance(reply.body, bytes):
        reply.body = pieces(reply.body, fault, sandbox.wait)
    return reply


def _route(sandbox: Sandbox, received: Received) -> Reply:
    if received.method != "GET":
        return whole(refusal(404, "Not found"))
    query, catalog = received.query, sandbox.catalog
    match received.path.split("/")[1:]:
        case ["models"]:
            return listing.models(catalog, query, received.headers.get("if-none-match", ""))
        case ["models", "count"]:
            return listing.count(catalog, query)
        case ["model", author, slug]:
            return listing.one(catalog, f"{author}/{slug}")
        case ["models", author, slug, "endpoints"]:
            return listing.endpoints(catalog, f"{author}/{slug}", measured=not _key(sandbox, received))
        case ["providers"]:
            return listing.providers(catalog)
        case ["endpoints", "zdr"]:
            return listing.zero_retention(catalog)
    return _private(sandbox, received)


def _private(sandbox: Sandbox, received: Received) -> Reply:
    """The endpoints that want a key."""
    denied = _key(sandbox, received)
    match received.path.split("/")[1:]:
        case ["models", "user"]:
            usable = [row for row in sandbox.catalog if sandbox.account.allows_free or not listing.is_free(row)]
            tag = received.headers.get("if-none-match", "")
            return whole(denied) if denied else listing.models(usable, received.query, tag)
        case ["key"]:
            return whole(denied) if denied else data(sandbox.account.key(sandbox.clock()))
        case ["credits"]:
            return whole(denied) if denied else listing.credits_of(sandbox)
        case ["generation"]:
            return whole(denied) if denied else listing.generation(sandbox, received.query.get("id", ""))
    return whole(refusal(404, "Not found"))


def _key(sandbox: Sandbox, received: Received) -> Fault | None:
    """The refusal of a missing, blank or rejected key."""
    header = received.headers.get("authorization")
    if header is None:
        return NO_KEY
    key = header.removeprefix("Bearer").strip()
    return bad_key() if not key or key in sandbox.rejected_keys else None
