"""What is free, and what a price says. Pure; amounts are Decimal, prices USD per token as OpenRouter lists them."""

import re
from collections.abc import Mapping
from decimal import Decimal

from openrouter_mcp.records import Model

FREE_ROUTER = "openrouter/free"  # picks one of the free models; needs no entry in the catalogue
FREE_SUFFIX = ":free"
# author/name, then at most one variant; ASCII and nothing that a second parser could read otherwise.
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,99}(:[a-z0-9]{1,20})?", re.ASCII)
# No sign, blank or exponent: "-1" marks a dynamic price, and what is not plainly a number is not plainly nothing.
_PLAIN = re.compile(r"[0-9]{1,20}(\.[0-9]{1,30})?", re.ASCII)
_REQUIRED = ("prompt", "completion")
# Keys of `pricing` and of its `overrides` that are no prices: https://openrouter.ai/docs/api-reference/models
_NOT_PRICES = frozenset({"discount", "overrides", "min_prompt_tokens", "utc_start", "utc_end"})


def price(value: object) -> Decimal | None:
    """A listed price as exact USD, or None when it is not plainly a number in a string."""
    return Decimal(value) if isinstance(value, str) and _PLAIN.fullmatch(value) else None


def is_free(model: Model) -> bool:
    """Whether nothing about `model` can cost money: it carries the one suffix `:free`, and every price it lists is
    exactly zero, those of its overrides and those of a kind we do not know included."""
    return model.id.endswith(FREE_SUFFIX) and model.id.count(":") == 1 and costs_nothing(model.pricing)


def costs_nothing(pricing: Mapping[str, object]) -> bool:
    """Whether `prompt` and `completion` are listed and every price, those in `overrides` included, is exactly zero."""
    overrides = pricing.get("overrides", [])
    return (
        all(key in pricing for key in _REQUIRED)
        and _all_zero(pricing)
        and isinstance(overrides, list)
        and all(isinstance(entry, Mapping) and "overrides" not in entry and _all_zero(entry) for entry in overrides)
    )


def _all_zero(prices: Mapping[str, object]) -> bool:
    return all(price(value) == 0 for key, value in prices.items() if key not in _NOT_PRICES)


def per_million(model: Model) -> str:
    """A model's price as a person reads it: "$0.15 in, $0.60 out per million tokens"; empty when it lists none."""
    amounts = [price(model.pricing.get(key)) for key in _REQUIRED]
    if None in amounts:
        return ""
    return "${} in, ${} out per million tokens".format(*(_dollars(a * 1_000_000) for a in amounts if a is not None))


def _dollars(amount: Decimal) -> str:
    """At least two decimals, more only where there is something to show."""
    text = f"{amount.normalize():f}"
    whole, _, cents = text.partition(".")
    return f"{whole}.{cents.ljust(2, '0')}"
