"""OpenRouter's records as types: the catalogue, the key, the credits. No I/O."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from openrouter_mcp.errors import BadReply
from openrouter_mcp.text import mapping
from openrouter_mcp.wire import Usage, amount, read_usage

FREE_ROUTER = "openrouter/free"  # picks one of the free models; needs no entry in the catalogue
FREE_SUFFIX = ":free"
_MOST_CAPS = 20
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
    description: str = ""
    created: int = 0
    context_length: int | None = None
    architecture: Architecture = Architecture()
    pricing: Mapping[str, Any] = Field(default_factory=dict)
    top_provider: TopProvider = TopProvider()
    supported_parameters: tuple[str, ...] = ()
    knowledge_cutoff: str | None = None
    expiration_date: str | None = None
    benchmarks: Mapping[str, Any] | None = None
    reasoning: Mapping[str, Any] | None = None

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


class Percentiles(_Lenient):
    """Of the last half hour, as far as it was measured."""

    p50: float | None = None


class Endpoint(_Lenient):
    """One provider's offer of a model. Prices as in `Model`; uptime in percent of the last day."""

    model_id: str = Field(min_length=1)
    provider_name: str = ""
    tag: str = ""
    context_length: int | None = None
    max_completion_tokens: int | None = None
    quantization: str | None = None
    status: int = 0
    pricing: Mapping[str, Any] = Field(default_factory=dict)
    uptime_last_1d: float | None = None
    latency_last_30m: Percentiles = Percentiles()
    throughput_last_30m: Percentiles = Percentiles()


def read_endpoints(rows: object) -> list[Endpoint]:
    """The readable entries of a list of endpoints; broken rows are left out."""
    endpoints = []
    for row in rows if isinstance(rows, list) else []:
        try:
            endpoints.append(Endpoint.model_validate(row))
        except ValidationError:
            continue
    return endpoints


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


def _signed(value: object) -> Decimal | None:
    """A JSON number as USD; less than nothing where more was spent than there was."""
    size = amount(value)
    if size is None and isinstance(value, int | Decimal) and not isinstance(value, bool):
        owed = amount(value.copy_negate() if isinstance(value, Decimal) else -value)
        return None if owed is None else owed.copy_negate()
    return size


def _objects(value: object) -> object:
    return [row for row in value if isinstance(row, Mapping)][:_MOST_CAPS] if isinstance(value, list) else []


Amount = Annotated[Decimal | None, BeforeValidator(amount)]
Left = Annotated[Decimal | None, BeforeValidator(_signed)]


class Cap(_Lenient):
    """One of the budgets that a key is under, in USD."""

    scope: str = ""
    limit_usd: Amount = None
    remaining_usd: Left = None
    reset_interval: str | None = None
    resets_at: str | None = None


class KeyInfo(_Lenient):
    """`GET /key`. Amounts are USD; `unlimited` when it says that the key has no cap of its own, which is not the same
    as saying nothing."""

    unlimited: bool = False
    limit: Amount = None
    limit_remaining: Left = None
    limit_reset: str | None = None
    usage_daily: Amount = None
    usage_weekly: Amount = None
    usage_monthly: Amount = None
    byok_usage_daily: Amount = None
    byok_usage_weekly: Amount = None
    byok_usage_monthly: Amount = None
    expires_at: str | None = None
    creator_user_id: str | None = None
    free_model_daily_requests: FreeRequests | None = None
    budgets: Annotated[tuple[Cap, ...], BeforeValidator(_objects)] = ()
    effective_budget: Cap | None = None

    @property
    def used(self) -> tuple[Decimal | None, ...]:
        """Spent today, this week and this month (UTC) with OpenRouter's credits."""
        return self.usage_daily, self.usage_weekly, self.usage_monthly

    @property
    def used_byok(self) -> tuple[Decimal | None, ...]:
        """The same, charged to the account's own provider keys."""
        return self.byok_usage_daily, self.byok_usage_weekly, self.byok_usage_monthly

    def cap(self, scope: str) -> Cap | None:
        """The budget of that `scope`."""
        said = (self.effective_budget, *self.budgets)
        return next((cap for cap in said if cap and cap.scope == scope), None)

    @property
    def binding(self) -> Cap | None:
        """The budget that is used up first, if that is not the key's own limit."""
        known = [cap for cap in self.budgets if cap.remaining_usd is not None]
        first = self.effective_budget or min(known, key=lambda cap: cap.remaining_usd or 0, default=None)
        return first if first and first.scope != "key_limit" else None


class Credits(_Lenient):
    """`GET /credits`, in USD."""

    total_credits: Annotated[Decimal, BeforeValidator(amount)]
    total_usage: Annotated[Decimal, BeforeValidator(amount)]


def read_key(data: object) -> KeyInfo:
    """What `GET /key` says.

    Raises:
        BadReply: when it is not what OpenRouter sends.
    """
    row = mapping(data).get("data")
    try:
        info = KeyInfo.model_validate(row)
        return info.model_copy(update={"unlimited": mapping(row).get("limit", ...) is None})
    except ValidationError as error:
        raise BadReply("OpenRouter's description of the key is unreadable.") from error


def read_credits(data: object) -> Credits | None:
    """What `GET /credits` says; None when it is unreadable, or 0/0, which ordinary keys of funded accounts get too."""
    try:
        credits_ = Credits.model_validate(mapping(data).get("data"))
    except ValidationError:
        return None
    return credits_ if credits_.total_credits or credits_.total_usage else None
