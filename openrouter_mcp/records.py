"""OpenRouter's records as types: the catalogue, the key, the credits. No I/O."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from openrouter_mcp.errors import BadReply
from openrouter_mcp.text import mapping
from openrouter_mcp.wire import Usage, read_usage

FREE_ROUTER = "openrouter/free"  # picks one of the free models; needs no entry in the catalogue
FREE_SUFFIX = ":free"
# author/name, then at most one variant; ASCII and nothing that a second parser could read otherwise.
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,99}(:[a-z0-9]{1,20})?", re.ASCII)


class _Lenient(BaseModel):
    """A field that is not what it should be counts as left out, unless the whole means nothing without it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_left_out(cls, value: object, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        field = cls.model_fields[info.field_name or ""]
        try:
            return read(value)
        except ValidationError:
            if field.is_required():
                raise
            return field.get_default(call_default_factory=True)


class Architecture(_Lenient):
    """Which kinds of content go in and come out."""

    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()


class TopProvider(_Lenient):
    """Limits of the provider OpenRouter prefers."""

    max_completion_tokens: int | None = None


class Model(_Lenient):
    """An entry of `GET /models`. `pricing` is kept as it came (strings, USD per token): `pricing.py` reads it."""

    id: str = Field(min_length=1)
    canonical_slug: str = ""
    alias_target: Mapping[str, Any] | None = None
    name: str = ""
    created: int = 0
    context_length: int | None = None
    architecture: Architecture = Architecture()
    pricing: Mapping[str, Any] = Field(default_factory=dict)
    top_provider: TopProvider = TopProvider()
    supported_parameters: tuple[str, ...] = ()
    expiration_date: str | None = None
    benchmarks: Mapping[str, Any] | None = None

    @property
    def family(self) -> str:
        """The author: the id before the slash."""
        return self.id.partition("/")[0]


def read_models(data: object) -> list[Model]:
    """The readable entries of a `GET /models` reply; broken rows are left out.

    Raises:
        BadReply: when there is no list, or nothing readable in it.
    """
    rows = mapping(data).get("data")
    models = []
    for row in rows if isinstance(rows, list) else []:
        try:
            models.append(Model.model_validate(row))
        except ValidationError:
            continue
    if not models:
        raise BadReply("OpenRouter's model list is empty or unreadable.")
    return models


def read_model_ids(data: object) -> frozenset[str]:
    """The models of a list of endpoints; empty when it cannot be read."""
    rows = mapping(data).get("data")
    ids = [mapping(row).get("model_id") for row in rows] if isinstance(rows, list) else []
    return frozenset(id_ for id_ in ids if isinstance(id_, str))


def read_generation(data: object) -> Usage | None:
    """What `GET /generation` says one generation took; None when it names no cost that can be read."""
    row = mapping(mapping(data).get("data"))
    usage = read_usage(
        {
            "cost": row.get("total_cost"),
            "is_byok": row.get("is_byok"),
            "cost_details": {"upstream_inference_cost": row.get("upstream_inference_cost")},
        }
    )
    return usage if usage and usage.cost is not None else None


class FreeRequests(_Lenient):
    """Today's allowance of free requests, as OpenRouter counts it; may lag a minute."""

    used: int
    limit: int
    remaining: int


class KeyInfo(_Lenient):
    """`GET /key`. Amounts are USD; `limit` None means that the key has no cap of its own."""

    limit: Decimal | None = None
    limit_remaining: Decimal | None = None
    limit_reset: str | None = None
    usage: Decimal | None = None
    usage_daily: Decimal | None = None
    usage_monthly: Decimal | None = None
    expires_at: str | None = None
    creator_user_id: str | None = None
    free_model_daily_requests: FreeRequests | None = None


class Credits(_Lenient):
    """`GET /credits`, in USD."""

    total_credits: Decimal
    total_usage: Decimal


def read_key(data: object) -> KeyInfo:
    """What `GET /key` says.

    Raises:
        BadReply: when it is not what OpenRouter sends.
    """
    try:
        return KeyInfo.model_validate(mapping(data).get("data"))
    except ValidationError as error:
        raise BadReply("OpenRouter's description of the key is unreadable.") from error


def read_credits(data: object) -> Credits | None:
    """What `GET /credits` says; None when it is unreadable, or 0/0, which ordinary keys of funded accounts get too."""
    try:
        credits_ = Credits.model_validate(mapping(data).get("data"))
    except ValidationError:
        return None
    return credits_ if credits_.total_credits or credits_.total_usage else None
