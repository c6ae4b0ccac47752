"""Which turns of a conversation are sent again: as many as the model can read, the latest first to stay. Pure."""

from collections.abc import Sequence

from openrouter_mcp.text import tokens
from openrouter_mcp.wire import ChatRequest, Turn

_AROUND_TURN = 16  # tokens


def fitting(turns: Sequence[Turn], request: ChatRequest, *, context: int, max_bytes: int) -> tuple[Turn, ...]:
    """The latest of `turns` that a model with so many tokens of `context` can read before `request`, with room for its
    answer, and that make no more than `max_bytes` with it."""
    room = context - request.max_tokens - tokens(request.system, request.prompt)
    size = max_bytes - sum(len(text.encode("utf-8", "replace")) for _, text in request.messages)
    kept: list[Turn] = []
    for turn in reversed(turns):
        room -= tokens(turn.prompt, turn.answer) + _AROUND_TURN
        size -= len((turn.prompt + turn.answer).encode("utf-8", "replace"))
        if room < 0 or size < 0:
            break
        kept.insert(0, turn)
    return tuple(kept)
