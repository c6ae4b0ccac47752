"""What an error of OpenRouter's means, as one of our errors. Pure.

The statuses, `limit_source` and `availability`: https://openrouter.ai/docs/api-reference/errors. Only known fields are
read, as one bounded line each: `raw` is a provider's text and `user_id` names the account.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from openrouter_mcp import errors
from openrouter_mcp.errors import OpenRouterMCPError, Outcome
from openrouter_mcp.text import mapping, number, one_line

_DAY_S = 86_400
_LONGEST_S = 30 * _DAY_S  # nobody plans beyond; a year 100000 would fill a page
# A free-tier 429 that resets later than this cannot be the minute's.
_LONGEST_MINUTE_S = 90.0
_EPOCH_IN_MS = 1e11
# Where a time may stand, in the reply's headers or in `error.metadata.headers`.
_MARKS = ("retry-after", "retry-after-ms", "x-ratelimit-reset")
_MOST_NAMES = 5
# Not OpenRouter's own words: they advise to buy credits.
_DAY_USED_UP = "OpenRouter says that the account's free requests of this day are used up: no free model answers now."
_MINUTE_USED_UP = "OpenRouter says that the account's free requests of this minute are used up."
_SPENT = ("budget", "key_limit")


def read(
    status: int, headers: Mapping[str, str], payload: object, *, clock: Callable[[], float] = time.time
) -> OpenRouterMCPError:
    """The error that a reply with an error means. `headers` have lower-case names; `payload` is the parsed body, or
    None when it is no JSON. `status` may be 200: some failures arrive that way, their own status inside."""
    error = mapping(mapping(payload).get("error"))
    metadata, availability = mapping(error.get("metadata")), mapping(error.get("availability"))
    if not error and (status >= 500 or status == 408):
        return errors.Upstream(f"The reply was an HTTP {status} that is not OpenRouter's.", outcome=Outcome.LOST)
    if not error and status not in (401, 413, 429):
        return errors.BadReply(f"The reply was an HTTP {status} that is not OpenRouter's.", outcome=Outcome.REFUSED)
    inner = {str(name).lower(): value for name, value in mapping(metadata.get("headers")).items()}
    marks = {name: headers.get(name, inner.get(name)) for name in _MARKS}
    code = _error_status(error.get("code")) or _error_status(error.get("http_status")) or status
    facts = _Facts(code, error, metadata, availability, hint=_hint(marks, availability, clock()))
    failure = _classify(facts, own=marks["x-ratelimit-reset"] is not None)
    failure.retryable = availability.get("retryable") if isinstance(availability.get("retryable"), bool) else None
    if failure.outcome is not Outcome.REFUSED:
        failure.hint_s = facts.hint
    if isinstance(failure, errors.DailyQuota):  # no other hint can be about the day
        reset = _until_reset(marks["x-ratelimit-reset"], clock())
        failure.hint_s = _DAY_S - clock() % _DAY_S if reset is None else min(reset, _DAY_S)
    return failure


class _Facts:
    """The parts of one error that classification reads."""

    def __init__(
        self,
        code: int,
        error: dict[str, Any],
        metadata: dict[str, Any],
        availability: dict[str, Any],
        *,
        hint: float | None,
    ) -> None:
        self.code = code
        self.hint = hint
        self.availability = availability
        self.message = one_line(error.get("message"))
        self.provider = one_line(metadata.get("provider_name"), 60)
        self.source = one_line(metadata.get("limit_source"), 60)
        self.kind = one_line(availability.get("code"), 60) or one_line(
            metadata.get("error_type") or error.get("error_type"), 60
        )
        raw = one_line(metadata.get("raw"))
        said = ": ".join(part for part in (self.message.rstrip(".:"), raw, _names(metadata.get("reasons"))) if part)
        provider = f" (provider {self.provider})" if self.provider else ""
        self.said = f"OpenRouter answered {code}: {said.rstrip('.')}{provider}".rstrip(": ") + "."


def _error_status(code: object) -> int | None:
    """`error.code` is documented as the status, but has been seen as text and as a provider's own number."""
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _classify(facts: _Facts, *, own: bool) -> OpenRouterMCPError:
    """`own`: the reply carries the mark that only OpenRouter's own limits have."""
    if facts.kind == "privacy_restricted" or "data policy" in facts.message.lower():
        # Not OpenRouter's own words: they end in a link to loosen the policy.
        return errors.Privacy("The account's data policy leaves this model without a provider.")
    match facts.code:
        case 401:
            return errors.BadKey(facts.said)
        case 402:
            if "in_flight" in facts.source:
                return errors.NoCredit(facts.said, outcome=Outcome.IN_FLIGHT)
            negative = "" if "limit" in facts.source else " A negative balance stops free models too."
            return errors.NoCredit(facts.said + negative)
        case 403:
            spent = any(word in facts.source for word in _SPENT) or "limit exceeded" in facts.message.lower()
            return errors.NoCredit(facts.said) if spent else errors.Blocked(facts.said)
        case 429:
            return _limit(facts, own=own)
        case 413:
            return errors.TooLarge(facts.said)
        case code if 400 <= code < 500 and code != 408:
            return _refusal(facts)
        case _:
            return errors.Upstream(facts.said)


def _refusal(facts: _Facts) -> OpenRouterMCPError:
    """400, 404, 412, 422 and what else the caller sent wrongly or the account cannot reach."""
    if facts.kind == "model_not_found" and (model := _first(facts.availability.get("requested_models"))):
        return errors.UnknownModel(model)
    if facts.kind == "free_variant_ended":
        paid = _first(facts.availability.get("fallback_models"))
        twin = f" The variant OpenRouter names instead, {paid}, costs money and was not asked." if paid else ""
        return errors.FreeEnded(facts.said + twin)
    if facts.kind in ("content_policy_violation", "refusal"):
        return errors.Blocked(facts.said)
    if facts.code == 404:
        excluded = _names(facts.availability.get("excluded_by"))
        return errors.NoProvider(facts.said + (f" Excluded by: {excluded}." if excluded else ""))
    return errors.InvalidRequest(facts.said)


def _limit(facts: _Facts, *, own: bool) -> OpenRouterMCPError:
    """A 429 is the minute's limit, the day's, or a provider's; only the last is about the model."""
    if "free-models-per-day" in facts.message:
        return errors.DailyQuota(_DAY_USED_UP)
    if "free-models-per-min" in facts.message:
        return errors.MinuteQuota(_MINUTE_USED_UP)
    if facts.provider or "upstream" in facts.source or facts.kind == "capacity_exhausted":
        return errors.ModelBusy(facts.said)
    if own and facts.hint is not None:
        if facts.hint <= _LONGEST_MINUTE_S:
            return errors.MinuteQuota(_MINUTE_USED_UP)
        return errors.DailyQuota(_DAY_USED_UP)
    return errors.ModelBusy(facts.said)


def _hint(marks: Mapping[str, object], availability: dict[str, Any], now: float) -> float | None:
    """Seconds to wait, in whichever spelling OpenRouter chose; the unreadable, negative and infinite say nothing."""
    after = marks["retry-after"]
    spellings = (
        number(availability.get("retry_after")),
        _scaled(number(marks["retry-after-ms"]), 1000),
        number(after),
        _until(after, now),
        _until_reset(marks["x-ratelimit-reset"], now),
    )
    return next((min(wait, _LONGEST_S) for wait in spellings if wait is not None), None)


def _until_reset(value: object, now: float) -> float | None:
    """Seconds until an epoch time in seconds or, as is usual, milliseconds."""
    reset = number(value)
    return max(0.0, (reset / 1000 if reset > _EPOCH_IN_MS else reset) - now) if reset else None


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _until(date: object, now: float) -> float | None:
    """Seconds until an HTTP date."""
    if not isinstance(date, str):
        return None
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.fromtimestamp(now, UTC)).total_seconds())


def _names(values: object) -> str:
    return ", ".join(one_line(name, 60) for name in values[:_MOST_NAMES]) if isinstance(values, list) else ""


def _first(values: object) -> str:
    return one_line(values[0], 100) if isinstance(values, list) and values else ""
