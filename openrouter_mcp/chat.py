"""What OpenRouter is asked, as types and as the JSON that leaves. No I/O.

The shape: https://openrouter.ai/docs/api-reference/overview.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openrouter_mcp import options as options_
from openrouter_mcp.options import Options, ToolResult
from openrouter_mcp.schemas import response_format
from openrouter_mcp.text import encodable
from openrouter_mcp.wire import Call

Json = dict[str, Any]
_MOST_TOLD = 1024 * 1024  # bytes
_NO_FLOOR: Mapping[str, object] = {}


@dataclass(frozen=True)
class Part:
    """Something attached: its kind (`text`, `image`, `file` or `audio`), its name, and how OpenRouter reads it; `text`
    is what a model reads of it, if it is one, and `size` its bytes."""

    kind: str
    name: str
    content: Json
    text: str = ""
    size: int = 0


@dataclass(frozen=True)
class Turn:
    """One question of a conversation and its answer: first what the calls of the answer before came to."""

    prompt: str
    answer: str
    calls: tuple[Call, ...] = ()
    results: tuple[ToolResult, ...] = ()

    @property
    def texts(self) -> list[str]:
        """Everything a model reads of it."""
        calls = [text for call in self.calls for text in (call.id, call.name, call.arguments)]
        return [*(result.content for result in self.results), self.prompt, self.answer, *calls]


@dataclass(frozen=True)
class ChatRequest:
    """One question, after the `history`, oldest turn first. OpenRouter asks `model`, and the `fallbacks` in turn where
    it fails before its first word. With a `schema`, the answer is to be JSON that follows it ({}: any object)."""

    model: str
    prompt: str
    fallbacks: tuple[str, ...] = ()
    system: str = ""
    history: tuple[Turn, ...] = ()
    max_tokens: int = 8192
    options: Options = options_.NONE
    schema: Json | None = None
    parts: tuple[Part, ...] = ()

    @property
    def texts(self) -> list[str]:
        """Everything a model reads."""
        turns = [text for turn in self.history for text in turn.texts]
        form = [] if self.schema is None else [json.dumps(self.schema)]
        attached = [part.text for part in self.parts]
        return [text for text in (self.system, *turns, self.prompt, *attached, *form, *self.options.texts) if text]

    @property
    def kinds(self) -> frozenset[str]:
        """What a model must be able to read, besides text: a PDF is read for it."""
        return frozenset(part.kind for part in self.parts) & {"image", "audio"}

    @property
    def is_bounded(self) -> bool:
        """Whether its length in tokens can be told from its texts: not that of a picture, or of what a search finds."""
        return not self.options.web_search and all(part.kind == "text" for part in self.parts)

    @property
    def said(self) -> str:
        """The prompt as it is kept, with the names of what was attached."""
        names = ", ".join(part.name for part in self.parts)
        return f"{self.prompt}\n[attached: {names}]" if names else self.prompt

    @property
    def needs(self) -> frozenset[str]:
        """What a model must be able to do for it, as the catalogue's `supported_parameters` names it."""
        form = "response_format" if not self.schema else "structured_outputs"
        return self.options.needs | (frozenset() if self.schema is None else {form})

    @property
    def messages(self) -> list[Json]:
        """As OpenRouter reads them."""
        said = [{"role": "system", "content": encodable(self.system)}] if self.system else []
        for turn in self.history:
            said += [*_asked(turn.prompt, turn.results), _answered(turn)]
        return [*said, *_asked(self.prompt, self.options.tool_results or (), self.parts)]


def _asked(prompt: str, results: Sequence[ToolResult], parts: Sequence[Part] = ()) -> list[Json]:
    """The results of tools, and the prompt, which may be left out after some; with what is attached to it."""
    said: list[Json] = [
        {"role": "tool", "tool_call_id": one.tool_call_id, "content": encodable(one.content)} for one in results
    ]
    if results and not prompt and not parts:
        return said
    text = encodable(prompt)
    content = [{"type": "text", "text": text}, *(part.content for part in parts)] if parts else text
    return [*said, {"role": "user", "content": content}]


def _answered(turn: Turn) -> Json:
    message: Json = {"role": "assistant", "content": encodable(turn.answer)}
    if turn.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.calls
        ]
    return message


def fingerprint(request: ChatRequest) -> str:
    """The same for requests that ask the same in every respect, whatever they may cost; empty for one with so much
    attached that telling would take longer than it is worth."""
    if sum(part.size for part in request.parts) > _MOST_TOLD:
        return ""
    shown = b"with its reasoning" * request.options.show_reasoning
    return hashlib.sha256(chat_body(request, max_price={}) + shown).hexdigest()


def chat_body(
    request: ChatRequest, *, max_price: Mapping[str, str], privacy: Mapping[str, object] = _NO_FLOOR
) -> bytes:
    """The JSON that leaves: built field by field from an allow-list, never merged from somebody's dict."""
    body: dict[str, object] = {
        **options_.fields(request.options),
        "model": request.model,  # always sent: without it the account's default model would answer
        "messages": request.messages,
        "max_tokens": request.max_tokens,  # always sent: without it the credit check assumes the model's maximum
        "stream": True,
        "provider": options_.provider(request.options, max_price, privacy),
        "plugins": options_.plugins(request.options),
    }
    if request.schema is not None:
        body["response_format"] = response_format(request.schema)
        body["provider"] = {**options_.provider(request.options, max_price, privacy), "require_parameters": True}
    if any(part.kind == "file" for part in request.parts):  # by the engine that costs nothing
        parser = {"id": "file-parser", "pdf": {"engine": "cloudflare-ai"}}
        body["plugins"] = [*options_.plugins(request.options), parser]
    if request.fallbacks:
        body["models"] = list(request.fallbacks)
    return json.dumps(body).encode()
