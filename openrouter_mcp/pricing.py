"""What is free, what a price says, and the most a call can cost. Pure; amounts are Decimal, prices USD per token."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal

from openrouter_mcp.records import FREE_SUFFIX, Model
from openrouter_mcp.text import usd

# No sign, blank or exponent: "-1" marks a dynamic price, and what is not plainly a number is not plainly nothing.
_PLAIN = re.compile(r"[0-9]{1,20}(\.[0-9]{1,30})?", re.ASCII)
_REQUIRED = ("prompt", "completion")
# Keys of `pricing`, and of its `overrides` alone, that are no prices: https://openrouter.ai/docs/api-reference/models
_NOT_PRICES = frozenset({"discount", "overrides"})
_CONDITIONS = frozenset({"min_prompt_tokens", "utc_start", "utc_end"})
# What each price is counted as in `Prices`. A token that goes in may cost any of the prices for input, in whatever form
# it goes. Some are for what is never asked for: the paid plugins are off, and models that write anything but text are
# refused. A price of a name that is not here cannot be counted.
_COUNTS_AS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("prompt", "input_cache_read", "input_cache_write", "input_cache_write_1h"), ("prompt",)),
    **dict.fromkeys(("image_token", "input_audio_cache"), ("prompt",)),
    **dict.fromkeys(("completion", "internal_reasoning"), ("completion",)),
    "audio": ("prompt", "audio"),
    "image": ("image",),
    "request": ("request",),
    **dict.fromkeys(("web_search", "image_output", "audio_output"), ()),
}
A_MILLION = 1_000_000
_TOKENS_PER_MESSAGE = 16  # more than any chat template adds
_TYPICAL_TOKENS = 500  # of an answer
_BYTES_PER_TOKEN = 4  # of ordinary text


def price(value: object) -> Decimal | None:
    """A listed price as exact USD, or None when it is not plainly a number in a string."""
    return Decimal(value) if isinstance(value, str) and _PLAIN.fullmatch(value) else None


def is_free(model: Model) -> bool:
    """Whether nothing about `model` can cost money: it carries the one suffix `:free`, and every price it lists is
    exactly zero, those of its overrides and those of a kind we do not know included."""
    return model.id.endswith(FREE_SUFFIX) and model.id.count(":") == 1 and costs_nothing(model.pricing)


def costs_nothing(pricing: Mapping[str, object]) -> bool:
    """Whether `prompt` and `completion` are listed and every price, those in `overrides` included, is exactly zero."""
    return all(key in pricing for key in _REQUIRED) and all(price(value) == 0 for _, value in _prices(pricing))


def _prices(pricing: Mapping[str, object]) -> list[tuple[str, object]]:
    """Every price listed, by name, those of the overrides too. `overrides` of another form than OpenRouter's are a
    price that nobody can read."""
    overrides = pricing.get("overrides", [])
    if not isinstance(overrides, list) or not all(isinstance(e, Mapping) and "overrides" not in e for e in overrides):
        return [("overrides", None)]
    conditional = [pair for entry in overrides for pair in entry.items() if pair[0] not in _CONDITIONS]
    return [(name, value) for name, value in [*pricing.items(), *conditional] if name not in _NOT_PRICES]


# --- the most a call can cost ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prices:
    """The dearest a request can meet, in USD: for a token in, a token out, the request itself, an image, a unit of
    audio. What is attached is counted besides."""

    prompt: Decimal = Decimal(0)
    completion: Decimal = Decimal(0)
    request: Decimal = Decimal(0)
    image: Decimal = Decimal(0)
    audio: Decimal = Decimal(0)

    def or_dearer(self, other: "Prices") -> "Prices":
        """The dearer of each."""
        return Prices(*(max(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)))

    def exceeds(self, other: "Prices") -> bool:
        """Whether anything here is dearer than there."""
        return self.or_dearer(other) != other

    def max_price(self) -> dict[str, str]:
        """`provider.max_price`: OpenRouter routes to nobody dearer. USD per million tokens, per request and per item;
        strings, as its schema has them: https://openrouter.ai/docs/guides/routing/provider-selection#max-price."""
        return {
            "prompt": _plain(self.prompt * A_MILLION),
            "completion": _plain(self.completion * A_MILLION),
            "request": _plain(self.request),
            "image": _plain(self.image),
            "audio": _plain(self.audio),
        }

    def cost(self, prompt_tokens: int, tokens: int) -> Decimal:
        """USD for so many tokens in and out."""
        return self.prompt * prompt_tokens + self.completion * tokens + self.request

    def affordable(self, prompt_tokens: int, limit: Decimal) -> int | None:
        """How many tokens out `limit` USD buys after the prompt; None for any number."""
        left = limit - self.cost(prompt_tokens, 0)
        if left < 0:
            return 0
        return int(left / self.completion) if self.completion else None


def dearest(model: Model) -> Prices | None:
    """What `model` can cost at the most, over all its overrides; None when that has no bound: a price is missing, is no
    plain number, or is for something we cannot count."""
    if model.architecture.output_modalities != ("text",) or not all(key in model.pricing for key in _REQUIRED):
        return None
    found = dict.fromkeys((each.name for each in fields(Prices)), Decimal(0))
    for name, value in _prices(model.pricing):
        amount = price(value)
        counts_as = _COUNTS_AS.get(name)
        if amount is None or counts_as is None:
            return None
        for kind in counts_as:
            found[kind] = max(found[kind], amount)
    return Prices(**found)


def most_prompt_tokens(texts: Iterable[str]) -> int:
    """More tokens than any tokenizer makes of these messages: one for each byte, and some around each message."""
    return sum(len(text.encode()) + _TOKENS_PER_MESSAGE for text in texts)


def typical_cost(model: Model, prompt_tokens: int, max_tokens: int) -> Decimal:
    """USD for a prompt of at most so many tokens with an answer of usual length, at the plain prices."""
    prompt, completion = (price(model.pricing.get(key)) or Decimal(0) for key in _REQUIRED)
    return prompt * (prompt_tokens // _BYTES_PER_TOKEN) + completion * min(max_tokens, _TYPICAL_TOKENS)


# --- in words -------------------------------------------------------------------------------------------------------


def plain_prices(model: Model) -> tuple[Decimal, Decimal] | None:
    """USD for a token in and a token out, overrides aside; None when they are not listed as plain numbers."""
    prompt, completion = (price(model.pricing.get(key)) for key in _REQUIRED)
    return None if prompt is None or completion is None else (prompt, completion)


def per_million(model: Model) -> str:
    """A model's price as a person reads it: "$0.15 in, $0.60 out per million tokens"; empty when it lists none."""
    prices = plain_prices(model)
    if prices is None:
        return ""
    return "{} in, {} out per million tokens".format(*(usd(amount * A_MILLION) for amount in prices))


def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}" if amount else "0"
