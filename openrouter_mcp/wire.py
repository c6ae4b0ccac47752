"""OpenRouter's JSON as types, and what a reply or a stream event means. No I/O.

The shapes: https://openrouter.ai/docs/api-reference/streaming and .../overview.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from openrouter_mcp import failures
from openrouter_mcp.errors import BadReply, OpenRouterMCPError
from openrouter_mcp.text import encodable, mapping, one_line

_LEAST_USD, _MOST_USD = Decimal("1e-18"), Decimal("1e9")  # beyond these a cost is a mistake
_MOST_DIGITS = 30
_GENERATION_ID = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
MAX_REPLY_BYTES = 8 * 1024 * 1024


# --- what we send ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """One question of a conversation and its answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class ChatRequest:
    """One question, after the `history`, oldest turn first. OpenRouter asks `model`, and the `fallbacks` in turn where
    it fails before its first word."""

    model: str
    prompt: str
    fallbacks: tuple[str, ...] = ()
    system: str = ""
    history: tuple[Turn, ...] = ()
    max_tokens: int = 8192

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Role and text of each message."""
        system = [("system", self.system)] if self.system else []
        turns = [message for turn in self.history for message in (("user", turn.prompt), ("assistant", turn.answer))]
        return [*system, *turns, ("user", self.prompt)]


def fingerprint(request: ChatRequest) -> str:
    """The same for requests that ask the same in every respect, whatever they may cost."""
    return hashlib.sha256(chat_body(request, max_price={}, plugins=())).hexdigest()


def chat_body(request: ChatRequest, *, max_price: Mapping[str, str], plugins: Sequence[Mapping[str, object]]) -> bytes:
    """The JSON that leaves: built field by field from an allow-list, never merged from somebody's dict."""
    body: dict[str, object] = {
        "model": request.model,  # always sent: without it the account's default model would answer
        "messages": [{"role": role, "content": encodable(text)} for role, text in request.messages],
        "max_tokens": request.max_tokens,  # always sent: without it the credit check assumes the model's maximum
        "stream": True,
        "provider": {"max_price": dict(max_price)},
        "plugins": [dict(plugin) for plugin in plugins],
    }
    if request.fallbacks:
        body["models"] = list(request.fallbacks)
    return json.dumps(body).encode()


# --- what comes back ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """What a generation took. `cost` is in USD, with what the account's own provider key (BYOK) was charged; None when
    OpenRouter did not say. `own_key`: such a key was used; `unclear`: a cost was named that is no amount."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost: Decimal | None = None
    own_key: bool = False
    unclear: bool = False

    @property
    def untold(self) -> bool:
        """Whether there may have been a cost that nobody can name."""
        return self.cost is None and (self.unclear or self.own_key)


@dataclass(frozen=True)
class Event:
    """What one stream event (or a whole plain reply) says; unset fields say nothing."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    model: str = ""
    provider: str = ""
    generation_id: str = ""
    usage: Usage | None = None
    failure: OpenRouterMCPError | None = None


def read_json(data: bytes) -> object:
    """Parse a reply's JSON, amounts as exact Decimals.

    Raises:
        BadReply: when it is not JSON.
    """
    try:
        parsed: object = json.loads(data, parse_float=_exact)
    except (ValueError, RecursionError) as error:
        raise BadReply("OpenRouter's reply is not JSON.") from error
    return parsed


def read_event(data: object) -> Event:
    """What a chunk of a stream, or a whole reply, says; both carry one choice, as `delta` or as `message`."""
    chunk = mapping(data)
    choice = _first(chunk.get("choices"))
    message = mapping(choice.get("delta")) or mapping(choice.get("message"))
    error = mapping(chunk.get("error")) or mapping(choice.get("error"))
    return Event(
        text=_text_of(message.get("content")),
        reasoning=_string(message.get("reasoning")),
        finish_reason=one_line(choice.get("finish_reason"), 40),
        model=_string(chunk.get("model"))[:200],  # as it is: the guard compares it
        provider=one_line(chunk.get("provider"), 60),
        generation_id=generation_id(chunk.get("id")),
        usage=read_usage(mapping(chunk.get("usage"))),
        failure=failures.read(200, {}, {"error": error}) if error else None,
    )


def read_usage(usage: dict[str, Any]) -> Usage | None:
    """What a chunk's `usage` says; None when there is none."""
    if not usage:
        return None
    details = mapping(usage.get("completion_tokens_details"))
    own_key = usage.get("is_byok") not in (None, False)
    named = [usage.get("cost")]
    if own_key:  # then `cost` is OpenRouter's fee alone: https://openrouter.ai/docs/use-cases/usage-accounting
        named.append(mapping(usage.get("cost_details")).get("upstream_inference_cost"))
    amounts = [amount(value) for value in named]
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        reasoning_tokens=_count(details.get("reasoning_tokens")),
        cost=None if None in amounts else sum((cost for cost in amounts if cost is not None), Decimal(0)),
        own_key=own_key,
        unclear=any(value is not None and read is None for value, read in zip(named, amounts, strict=True)),
    )


def generation_id(value: object) -> str:
    """What names a generation, from an event or a header; empty when it is no name that may stand in a URL."""
    return value if isinstance(value, str) and _GENERATION_ID.fullmatch(value) else ""


def _text_of(content: object) -> str:
    """`content` is a string, a list of parts, or null."""
    if isinstance(content, list):
        return "".join(_string(mapping(part).get("text")) for part in content)
    return _string(content)


def _first(choices: object) -> dict[str, Any]:
    return mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _exact(text: str) -> Decimal:
    """A JSON fraction; one beyond all reason is no number, and would take a page to write out."""
    try:
        number = Decimal(text)
    except ArithmeticError:
        return Decimal("NaN")
    return number if abs(number.adjusted()) <= _MOST_DIGITS else Decimal("NaN")


def amount(value: object) -> Decimal | None:
    """A JSON number as exact USD; `true`, `NaN`, `1e999`, text and less than nothing are no amounts."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    usd = Decimal(value)
    return usd if usd == 0 or (usd.is_finite() and _LEAST_USD <= usd <= _MOST_USD) else None
