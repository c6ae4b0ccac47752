"""The seal on what a client carries from one round of a call to the next."""

import os

from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState

_MOST_UNUSED = 1000  # questions that nobody has answered yet


class OneUse:
    """The SDK's seal on what a client carries from one round of a call to the next, good for one use: one yes of the
    user's is for one call, also when the client sends it again."""

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
