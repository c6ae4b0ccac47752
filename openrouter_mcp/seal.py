"""The seal on what a client carries from one round of a call to the next. Each is good for one use: one yes of the
user's is for one call, also when the client sends it again."""

import hashlib
import logging
import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

_MOST_UNUSED = 1000  # questions that nobody has answered yet
_UNSEALED = ContextVar("unsealed", default="")  # by which seal the request under way came, until that is used

logger = logging.getLogger(__name__)


class OneUse:
    """The SDK's seal, by a key that nobody else has: only this process opens it, and once."""

    def __init__(self) -> None:
        self._codec = AESGCMRequestStateCodec([os.urandom(32)])
        self._unused: dict[str, None] = {}  # the oldest first

    def seal(self, payload: bytes) -> str:
        token = self._codec.seal(payload)
        self._unused[token] = None
        if len(self._unused) > _MOST_UNUSED:
            del self._unused[next(iter(self._unused))]
        return token

    def unseal(self, token: str) -> bytes:
        if token not in self._unused:
            raise InvalidRequestState("used before, or not ours")
        del self._unused[token]
        return self._codec.unseal(token)


class SharedUse:
    """The SDK's seal, by a `key` that several processes have: any of them opens it, and whichever `use` allows it is
    the only one. That takes a while, so it is asked by a middleware, once the SDK has opened and checked the seal."""

    def __init__(self, key: str, use: Callable[[str], Awaitable[bool]]) -> None:
        self._codec = AESGCMRequestStateCodec([key])
        self._use = use

    def seal(self, payload: bytes) -> str:
        return self._codec.seal(payload)

    def unseal(self, token: str) -> bytes:
        payload = self._codec.unseal(token)
        _UNSEALED.set(hashlib.sha256(token.encode()).hexdigest())
        return payload

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """One message: https://py.sdk.modelcontextprotocol.io/server/middleware."""
        if (ctx.params or {}).get("requestState") is not None:
            seal = _UNSEALED.get()
            _UNSEALED.set("")
            if not seal or not await self._use(seal):
                logger.warning("A requestState on %s was used before", ctx.method)
                raise MCPError(
                    code=INVALID_PARAMS,
                    message="Invalid or expired requestState",  # as the SDK has it
                    data={"reason": "invalid_request_state"},
                )
        return await call_next(ctx)
