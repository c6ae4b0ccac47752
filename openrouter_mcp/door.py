"""The door of the HTTP server: by which name it is reached, who comes in, and how long it is held open for them. Behind
it everything knows its caller; what is refused here is read by nobody and written down in one line.
"""

import hashlib
import hmac
import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openrouter_mcp.access import WHOEVER
from openrouter_mcp.callers import Caller

OPEN = "/health"  # to whoever asks, by whatever name: it says nothing
_LONGEST_BODY_S = 20.0
_TRIES, _WINDOW_S, _MOST_ADDRESSES = 5, 60.0, 1000
_SECRET_NAMES = frozenset({"token", "access_token", "bearer", "authorization", "auth", "key", "api_key", "apikey"})
_ASK = {"www-authenticate": "Bearer"}

Refused = Callable[[Scope, int, str], None]  # told of each refusal: its status and the reason in a few words


class _Refusal(Exception):
    """This request goes no further. `quiet` when one like it was written down just now."""

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None, *, quiet: bool = False) -> None:
        super().__init__(why)
        self.status, self.why, self.headers, self.quiet = status, why, dict(headers or {}), quiet


@dataclass
class Guesses:
    """Wrong tokens by address. The right token comes in however many wrong ones came from there, so that nobody behind
    the same proxy locks the others out; what is slowed is being told no."""

    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)  # how many, since when; the oldest first

    def wrong(self, address: str) -> tuple[int, float]:
        """One more: how many beyond what is allowed in a minute, and how many seconds are left of it."""
        now = self.clock()
        count, since = self._seen.get(address, (0, now))
        if now - since >= _WINDOW_S:
            self._seen.pop(address)
            count, since = 0, now
        self._seen[address] = (count + 1, since)
        if len(self._seen) > _MOST_ADDRESSES:
            del self._seen[next(iter(self._seen))]
        return max(0, count + 1 - _TRIES), since + _WINDOW_S - now


class Door:
    """Lets into `app` who shows the token of one of `callers`, or whoever comes if there are none, if they call the
    server by one of `names`; `app` finds the Caller in the scope's state, and no token."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        callers: Sequence[Caller],
        names: Collection[str],
        refused: Refused,
        guesses: Guesses | None = None,
        longest_body_s: float = _LONGEST_BODY_S,
    ) -> None:
        self._app = app
        self._callers = callers
        self._names = frozenset(names)
        self._origins = frozenset(f"{scheme}://{name}" for name in names for scheme in ("http", "https"))
        self._refused = refused
        self._guesses = guesses or Guesses()
        self._longest_body_s = longest_body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI hands it in: https://asgi.readthedocs.io/en/latest/specs/www.html."""
        if scope["type"] != "http" or scope["path"] == OPEN:
            await self._app(scope, receive, send)
            return
        try:
            inside = _let_in(scope, self._admitted(scope))
            body = await self._body(scope, receive)
        except _Refusal as refusal:
            if not refusal.quiet:
                self._refused(scope, refusal.status, refusal.why)
            await _say(send, refusal)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                self._refused(inside, message["status"], "")
            await send(message)

        await self._app(inside, _replayed(body, receive), watched)

    def _admitted(self, scope: Scope) -> Caller:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get(b"host", "").lower() not in self._names:
            raise _Refusal(421, "This server has another name.")
        if (origin := headers.get(b"origin")) is not None and origin not in self._origins:
            raise _Refusal(403, "Pages of that origin may not use this server.")
        caller = self._known(headers.get(b"authorization", "")) if self._callers else Caller(WHOEVER)
        in_query = _names_a_secret(scope["query_string"])
        if caller and in_query:
            raise _Refusal(400, "A token belongs into the Authorization header, never into an address.")
        if caller:
            return caller
        if in_query or b"authorization" not in headers:
            raise _Refusal(401, "A token is needed, in the header: Authorization: Bearer <token>.", _ASK)
        client = scope.get("client")
        beyond, wait = self._guesses.wrong(client[0] if client else "")
        if beyond:
            later = {"retry-after": str(max(1, math.ceil(wait)))}
            raise _Refusal(429, "Too many wrong tokens came from this address.", later, quiet=beyond > 1)
        raise _Refusal(401, "That token is not known here.", {"www-authenticate": 'Bearer error="invalid_token"'})

    def _known(self, authorization: str) -> Caller | None:
        """Whose token it is; it takes as long for any."""
        scheme, _, token = authorization.partition(" ")
        digest, found = hashlib.sha256(token.strip().encode("latin-1")).digest(), None
        for caller in self._callers:
            if hmac.compare_digest(digest, caller.token):
                found = caller
        return found if scheme.lower() == "bearer" else None

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """All of it, in time and of a size that can be borne: whoever sends it slowly keeps nobody else waiting."""
        declared = next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)
        body, more = bytearray(), True
        with anyio.move_on_after(self._longest_body_s):
            while more:
                if max(declared, len(body)) > DEFAULT_MAX_REQUEST_BODY_SIZE:
                    raise _Refusal(413, f"A body has at most {DEFAULT_MAX_REQUEST_BODY_SIZE} bytes.")
                message = await receive()
                if message["type"] != "http.request":
                    raise _Refusal(400, "The connection ended before the body did.")
                body += message.get("body", b"")
                more = message.get("more_body", False)
        if more:
            raise _Refusal(408, f"The body did not come within {self._longest_body_s:.0f} s.")
        return bytes(body)


def _names_a_secret(query: bytes) -> bool:
    return any(name.lower() in _SECRET_NAMES for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True))


def _let_in(scope: Scope, caller: Caller) -> Scope:
    """The scope with its caller and without their token: the SDK keeps sessions to the user who opened them."""
    token = AccessToken(token="", client_id=caller.name, scopes=[])
    return {
        **scope,
        "headers": [(name, value) for name, value in scope["headers"] if name != b"authorization"],
        "state": {**scope.get("state", {}), "caller": caller},
        "user": AuthenticatedUser(token),
    }


def _replayed(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _say(send: Send, refusal: _Refusal) -> None:
    """In JSON; and the connection ends, since what else comes on it would only be thrown away."""
    body = json.dumps({"error": str(refusal)}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    encoded = [(name.encode(), value.encode()) for name, value in (headers | refusal.headers).items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
