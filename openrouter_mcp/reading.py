"""A reply's body, bounded in time and size: pieces, lines, the whole."""

import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass

import anyio
import anyio.lowlevel
import httpx2

from openrouter_mcp.errors import BadReply, OpenRouterMCPError, Outcome, Timeout, TooLarge
from openrouter_mcp.wire import MAX_REPLY_BYTES

_REPLY_BYTES = 64 * 1024 * 1024  # of a stream: a token comes in some 400 bytes
_PIECE_BYTES = 32 * 1024  # a compressed piece is unpacked in steps of this size, so that it cannot fill the memory
_LAST_BYTES_S = 0.5
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True)
class Timeouts:
    """Every time-out there is, in seconds. A comment alone means a model that thinks, so it only counts as a line."""

    connect: float = 5.0
    line: float = 30.0  # without one complete line upstream is dead; dribbled bytes defeat a socket's time-out
    first_token: float = 300.0
    between_tokens: float = 120.0
    whole_answer: float = 600.0


class Lines:
    """Cuts a byte stream into complete lines; any split of the same bytes gives the same lines."""

    def __init__(self, limit: int = MAX_REPLY_BYTES) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends.

        Raises:
            TooLarge: when one line grows over the limit.
        """
        *lines, rest = data.split(b"\n")
        if not lines:
            self._rest += rest  # in place: a line that comes in many pieces is not copied for each
        else:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest = bytearray(rest)
        if any(len(line) > self._limit for line in (*lines, self._rest)):
            raise too_large(self._limit)
        return [line.rstrip(b"\r") for line in lines]

    def end(self) -> bytes:
        """What came after the last line end."""
        return bytes(self._rest)


async def lines(response: httpx2.Response, timeouts: Timeouts) -> AsyncGenerator[bytes]:
    """The complete lines of a streamed reply. Blank ones and comments only show that it is alive."""
    splitter, patience = Lines(), _Patience(timeouts)
    async with aclosing(_pieces(response, patience)) as pieces:
        async for piece in pieces:
            found = splitter.feed(piece)
            said = [line for line in found if line and not line.startswith(b":")]
            if found:
                patience.heard(token=any(line.startswith(b"data:") for line in said))
            for line in said:
                yield line
    if rest := splitter.end():
        yield rest


async def whole(response: httpx2.Response, timeouts: Timeouts, limit: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: when it is over `limit` bytes.
    """
    body = bytearray()
    async with aclosing(_pieces(response, _Patience(timeouts))) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > limit:
                raise too_large(limit)
    return bytes(body)


class _Patience:
    """Until when a reply may go on as it does. A comment keeps the connection alive, only a token proves progress."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._started = self._line_at = self._token_at = anyio.current_time()
        self._between = timeouts.first_token

    def heard(self, *, token: bool) -> None:
        """A complete line came, or several; `token`: one was an event."""
        self._line_at = anyio.current_time()
        if token:
            self._token_at, self._between = self._line_at, self._timeouts.between_tokens

    @property
    def _dead_at(self) -> float:
        return self._line_at + self._timeouts.line

    @property
    def deadline(self) -> float:
        """When to give up, on the event loop's clock."""
        return min(self._dead_at, self._token_at + self._between, self._started + self._timeouts.whole_answer)

    def failure(self) -> Timeout:
        """Why it was given up. A model that thinks too long would do so again; a dead connection might not."""
        if anyio.current_time() >= self._dead_at:
            return Timeout("OpenRouter fell silent in the middle of a reply; the connection was closed.")
        return Timeout(
            "The model sent nothing but keep-alive comments, or took too long; the connection was closed.",
            outcome=Outcome.BROKE,
        )


async def to_the_end(lines: AsyncGenerator[bytes]) -> None:
    """Read what follows the last event: a connection whose reply was read to its end is kept for the next call. The
    answer is whole already, so neither a slow end nor a broken one matters."""
    with anyio.move_on_after(_LAST_BYTES_S), suppress(OpenRouterMCPError, httpx2.TransportError):
        async for _ in lines:
            pass


async def _pieces(response: httpx2.Response, patience: _Patience) -> AsyncGenerator[bytes]:
    """The body, unpacked, piece by piece; others get their turn between two."""
    size = 0
    unpack = _unpacker(response.headers.get("content-encoding", "identity").lower())
    raw = aiter(response.aiter_raw())
    while True:
        with anyio.CancelScope(deadline=patience.deadline) as scope:
            packed = await anext(raw, None)
        if scope.cancelled_caught:
            raise patience.failure()
        if packed is None:
            return
        for piece in unpack(packed):
            size += len(piece)
            if size > _REPLY_BYTES:
                raise too_large(_REPLY_BYTES)
            yield piece
            await anyio.lowlevel.checkpoint()


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"OpenRouter's reply is over {limit} bytes; the connection was closed.")


def _unpacker(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    if encoding == "identity":
        return lambda data: iter((data,))
    if encoding != "gzip":
        raise BadReply("OpenRouter's reply is packed in a way that was not asked for.")
    inflate = zlib.decompressobj(_GZIP)

    def unpack(data: bytes) -> Iterator[bytes]:
        while data:
            try:
                yield inflate.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise BadReply("OpenRouter's reply is packed wrongly.") from error
            data = inflate.unconsumed_tail

    return unpack
