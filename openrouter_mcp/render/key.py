"""What OpenRouter says of the key: its limits, its spending, the balance."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from openrouter_mcp.records import Cap, KeyInfo
from openrouter_mcp.text import one_line, usd

# Whose budget it is: https://openrouter.ai/docs/api-reference/limits.
_SCOPES = {
    "key_limit": "the key",
    "api_key": "the key by a guardrail",
    "member": "this member",
    "workspace": "the workspace",
    "workspace_default_member": "each member of the workspace",
    "workspace_default_key": "each key of the workspace",
}
Figures = dict[str, object]


def limits(key: KeyInfo) -> list[str]:
    """Its own limit, the budget that is tighter, and when it ends."""
    lines = ["Key limit: none of its own."] if key.unlimited and key.binding else []
    if not key.unlimited:
        left = f"{usd_or_unknown(key.limit_remaining)} of {usd_or_unknown(key.limit)} left"
        known = f"{left}{_resets(key.limit_reset, key.cap('key_limit'))}"
        lines.append(f"Key limit: {'unknown, OpenRouter did not say' if key.limit is None else known}.")
    if other := key.binding:
        lines.append(
            f"Tightest is the budget of {_whose(other)}: {usd_or_unknown(other.remaining_usd)} of "
            f"{usd_or_unknown(other.limit_usd)} left{_resets(other.reset_interval, other)}."
        )
    expires = moment_of(key.expires_at)
    return [*lines, *([f"The key expires: {said(expires)}."] if expires else [])]


def usage(key: KeyInfo) -> list[str]:
    """What OpenRouter counted."""
    lines = [f"Spent with this key: {_periods(key.used)} (UTC, OpenRouter's count)."]
    if any(key.used_byok):
        lines.append(f"By the account's own provider keys (BYOK): {_periods(key.used_byok)}.")
    return lines


def balance_line(left: Decimal | None, unshown: str) -> str:
    """The account's balance, or why it is not known."""
    return f"Balance: unknown; {unshown}." if left is None else f"Balance: {usd(left)}."


def figures(key: KeyInfo, unread: str) -> Figures:
    """Its limits by name; `unread` is why there is nothing."""
    own, other = key.cap("key_limit"), key.binding
    found: Figures = {
        "key_unknown_because": unread or None,
        "key_has_limit": not key.unlimited if key.unlimited or key.limit is not None else None,
        "key_limit_usd": decimal(key.limit),
        "key_remaining_usd": None if key.limit is None else decimal(key.limit_remaining),
        "key_limit_resets": _resets(key.limit_reset, own).removeprefix(", resets ") if key.limit is not None else None,
        "key_expires_at": said(moment_of(key.expires_at)),
    }
    if other:
        found |= {
            "tightest_budget_of": _whose(other),
            "tightest_budget_usd": decimal(other.limit_usd),
            "tightest_budget_left_usd": decimal(other.remaining_usd),
            "tightest_budget_resets": _resets(other.reset_interval, other).removeprefix(", resets ") or None,
        }
    return found


def usage_figures(key: KeyInfo) -> Figures:
    """What OpenRouter counted, by name."""
    periods = ("daily", "weekly", "monthly")
    found: Figures = {f"usage_{period}_usd": decimal(spent) for period, spent in zip(periods, key.used, strict=True)}
    if any(key.used_byok):
        own_keys = zip(periods, key.used_byok, strict=True)
        found |= {f"byok_usage_{period}_usd": decimal(spent) for period, spent in own_keys}
    return found


def _whose(cap: Cap) -> str:
    return _SCOPES.get(cap.scope, one_line(cap.scope, 40) or "an unnamed scope")


def _resets(interval: str | None, cap: Cap | None) -> str:
    """How often and when next, as far as that is said."""
    at = said(moment_of(cap.resets_at)) if cap else None
    words = " ".join(filter(None, [one_line(interval, 20), f"(next {at})" if at else ""]))
    return f", resets {words}" if words else ""


def _periods(spent: Sequence[Decimal | None]) -> str:
    return "{} today, {} this week, {} this month".format(*map(usd_or_unknown, spent))


def moment_of(text: str | None) -> datetime | None:
    """A time of OpenRouter's, in UTC; None for what is none."""
    try:
        moment = datetime.fromisoformat(text or "")
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def said(moment: datetime | None) -> str | None:
    """A time as a model reads it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else None


def usd_or_unknown(amount: Decimal | None) -> str:
    """An amount in a text."""
    return "unknown" if amount is None or not amount.is_finite() else usd(amount)


def decimal(amount: Decimal | None) -> str | None:
    """An amount in a structure: a decimal string."""
    return None if amount is None or not amount.is_finite() else f"{amount:f}"
