"""OpenRouter's JSON as types, and what a reply or a stream event means. No I/O.

The shapes: https://openrouter.ai/docs/api-reference/streaming and .../overview.
"""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from openrouter_mcp import failures
from openrouter_mcp.errors import BadReply, OpenRouterMCPError
from openrouter_mcp.text import encodable, mapping, number, one_line

_LEAST_USD, _MOST_USD = Decimal("1e-18"), Decimal("1e9")  # beyond these a cost is a mistake
_MOST_DIGITS = 30
_MOST_CALLS = 128
_IMAGE = re.compile(r"data:(image/(?:png|jpeg|webp|gif));base64,([A-Za-z0-9+/]+={0,2})", re.ASCII)
_MOST_OTHERS = 20  # tokens beside one
_GENERATION_ID = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
MAX_REPLY_BYTES = 8 * 1024 * 1024
Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A function that a model wants called, with its arguments as the model wrote them: JSON, if all is well."""

    id: str = ""
    name: str = ""
    arguments: str = ""


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
class Image:
    """A picture that a model made: its type, and its bytes in base64."""

    mime_type: str
    data: str


@dataclass(frozen=True)
class Event:
    """What one stream event (or a whole plain reply) says; unset fields say nothing. `calls` are pieces of calls by
    their places, `citations` pages by their addresses with their titles."""

    text: str = ""
    refusal: str = ""
    reasoning: str = ""
    calls: tuple[tuple[int, Call], ...] = ()
    citations: tuple[tuple[str, str], ...] = ()
    logprobs: tuple[Json, ...] = ()
    images: tuple[Image, ...] = ()
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
        parsed: object = _JSON.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
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
        refusal=_string(message.get("refusal")),
        reasoning=_string(message.get("reasoning")),
        calls=_calls(message.get("tool_calls")),
        citations=_citations(message.get("annotations")),
        images=_images(message.get("images")),
        logprobs=tuple(map(_likelihood, _items(mapping(choice.get("logprobs")).get("content")))),
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


def _calls(calls: object) -> tuple[tuple[int, Call], ...]:
    """Whole calls, or pieces of them with the `index` of the call they belong to."""
    found = []
    for place, call in enumerate(map(mapping, _items(calls))):
        index, function = call.get("index", place), mapping(call.get("function"))
        if isinstance(index, int) and 0 <= index < _MOST_CALLS:
            name, arguments = _string(function.get("name")), _string(function.get("arguments"))
            found.append((index, Call(*map(encodable, (_string(call.get("id")), name, arguments)))))
    return tuple(found)


def _citations(annotations: object) -> tuple[tuple[str, str], ...]:
    """Pages that the answer names: https://openrouter.ai/docs/guides/features/plugins/web-search."""
    cited = [mapping(mapping(one).get("url_citation")) for one in _items(annotations)]
    return tuple((url, one_line(one.get("title"), 200)) for one in cited if (url := one_line(one.get("url"), 500)))


def _images(images: object) -> tuple[Image, ...]:
    """Pictures inside the reply itself; addresses of others are not fetched."""
    urls = [_string(mapping(mapping(one).get("image_url")).get("url")) for one in _items(images)]
    return tuple(Image(match[1], match[2]) for url in urls if (match := _IMAGE.fullmatch(url)))


def _likelihood(token: object) -> Json:
    """A token's log-probability, and those of the others that might have stood there."""
    others = _items(mapping(token).get("top_logprobs"))[:_MOST_OTHERS]
    said = [{"token": encodable(_string(one.get("token"))), "logprob": _logarithm(one)} for one in map(mapping, others)]
    return {
        "token": encodable(_string(mapping(token).get("token"))),
        "logprob": _logarithm(mapping(token)),
        "top_logprobs": said,
    }


def _logarithm(token: Json) -> float | None:
    value = token.get("logprob")
    less = number(-value) if isinstance(value, int | Decimal) else None  # a probability is at most 1
    return None if less is None else 0.0 - less


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


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


_JSON = json.JSONDecoder(parse_float=_exact)  # made once: each event of a stream is read by it
