"""Which turns of a conversation are sent again: as many as the model can read, the latest first to stay. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from openrouter_mcp.chat import ChatRequest, Turn
from openrouter_mcp.text import tokens

_AROUND_TURN = 16  # tokens


def fitting(turns: Sequence[Turn], request: ChatRequest, *, context: int, max_bytes: int) -> tuple[Turn, ...]:
    """The latest of `turns` that a model with so many tokens of `context` can read before `request`, with room for its
    answer, and that make no more than `max_bytes` with it."""
    room = context - request.max_tokens - tokens(*request.texts)
    said = replace(request, parts=()).texts  # what is attached has a limit of its own
    size = max_bytes - sum(len(text.encode("utf-8", "replace")) for text in said)
    kept: list[Turn] = []
    for turn in reversed(turns):
        room -= tokens(*turn.texts) + _AROUND_TURN
        size -= sum(len(text.encode("utf-8", "replace")) for text in turn.texts)
        if room < 0 or size < 0:
            break
        kept.insert(0, turn)
    while kept and kept[0].results:  # they are for calls of a turn before, which is not there
        kept[0] = replace(kept[0], results=())
        if not kept[0].prompt:
            del kept[0]  # nobody asked for anything in it
    return tuple(kept)
