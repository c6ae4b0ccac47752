"""The account's standing, as text and as the structure that says the same."""

from collections.abc import Mapping
from decimal import Decimal

from openrouter_mcp.budget import Budget
from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger.slots import DAY_S, next_midnight
from openrouter_mcp.ledger.standing import Standing
from openrouter_mcp.ledger.sums import Month, Sum
from openrouter_mcp.records import Credits, KeyInfo
from openrouter_mcp.render.key import (
    Figures,
    balance_line,
    decimal,
    limits,
    moment_of,
    usage,
    usage_figures,
    usd_or_unknown,
)
from openrouter_mcp.render.key import figures as key_figures
from openrouter_mcp.render.reply import Reply
from openrouter_mcp.text import duration, one_line, time_of_day, usd

_MOST = 5  # models in a line
_SOON_DAYS = 30
_KEYS = "https://openrouter.ai/settings/keys"
# What a client is told of the structure. Whatever is null is unknown, or is not set.
SHAPE_OF_CREDITS: dict[str, object] = {
    "type": "object",
    "properties": {
        "warnings": {"type": "array", "items": {"type": "string"}},
        "guard": {"type": "string"},
        "free_requests": {"type": "object"},
        "budget_left_usd": {"type": "string"},
        "spent_today_usd": {"type": "object"},
        "spent_this_month_usd": {"type": "object"},
    },
    "required": ["warnings", "guard", "free_requests", "budget_left_usd"],
    "description": "USD as decimal strings; null: unknown or none",
}


def credits(  # noqa: A001 - OpenRouter's noun
    key: KeyInfo,
    balance: Credits | None,
    standing: Standing,
    budget: Budget,
    sums: Month,
    *,
    who: Caller = NOBODY,
    share: int | None = None,
    unread: str = "",
    unshown: str = "",
) -> Reply:
    """What the key may still do, and what it did, `sums` for the caller `who`, of whose share `share` requests are left
    today; one of several is not told what the others spend. What OpenRouter does not say is unknown, never $0: `unread`
    is why it said nothing of the key, `unshown` why nothing of the balance."""
    left = None if balance is None else balance.total_credits - balance.total_usage
    closed = budget.closures
    warnings = [
        *([f"THE GUARD IS CLOSED, nothing is sent: {one_line(closed[0].reason, 500)}."] if closed else []),
        *_urgent(key, standing, left),
    ]
    advice = [_NO_LIMIT] if key.unlimited and not key.binding else []
    lines = warnings + _allowance(standing) + _share(who, share) + _budget(budget, who) + _spent(sums)
    lines += [f"Key limit, spending and balance: unknown, OpenRouter did not say ({unread})."] if unread else []
    lines += [] if unread else [*limits(key), *([] if who.name else usage(key)), balance_line(left, unshown)]
    lines += advice
    figures: Figures = {
        "warnings": [line.removeprefix("Warning: ") for line in warnings + advice],
        "guard": "closed" if closed else "open",
        **_allowance_figures(standing),
        **_share_figures(who, share),
        **_budget_figures(budget, who),
        **_spent_figures(sums),
        **key_figures(key, unread),
        **({} if who.name else usage_figures(key)),
        "balance_usd": decimal(left),
        "balance_unknown_because": unread or unshown or None,
    }
    return Reply("\n".join(lines), figures)


_NO_LIMIT = (
    "Warning: the key has no credit limit of its own, so nothing bounds what else uses it. Tell the user that "
    f"{_KEYS} can set one."
)


def _urgent(key: KeyInfo, standing: Standing, left: Decimal | None) -> list[str]:
    """What keeps requests from being answered, or will."""
    warnings = [f"Warning: {standing.warning}"] if standing.warning else []
    if left is not None and left < 0:
        warnings.append(
            f"Warning: the balance is negative ({usd(left)}): OpenRouter refuses free requests too. Tell the user to "
            "add credits."
        )
    expires = moment_of(key.expires_at)
    days = (expires.timestamp() - standing.now) / DAY_S if expires else _SOON_DAYS
    if days <= 0:
        warnings.append(f"Warning: the key has expired. Tell the user that {_KEYS} makes another.")
    elif days < _SOON_DAYS:
        soon = duration(days * DAY_S)
        warnings.append(f"Warning: the key expires in {soon}. Tell the user that {_KEYS} makes another.")
    return warnings


# --- the free allowance -----------------------------------------------------------------------------------------------


def _allowance(standing: Standing) -> list[str]:
    use = standing.use
    source = "OpenRouter's count" if use.day_limit is not None else "counted here; OpenRouter did not say"
    elsewhere = f", {use.elsewhere} of them not through this server" if use.elsewhere else ""
    line = str(standing)
    if standing.is_away:
        return [f"{line[0].upper()}{line[1:]}."]
    lines = [
        f"{line[0].upper()}{line[1:]} ({source}{elsewhere}).",
        f"This minute: {use.minute} of {standing.per_minute} used.",
    ]
    if pause := _pause(standing):
        lines.append(f"OpenRouter's limit of the minute is met: nothing is sent for {pause}.")
    if cooling := _cooling(standing):
        lines.append(f"Not chosen for now: {', '.join(f'{model} for {why}' for model, why in cooling.items())}.")
    return lines


def _allowance_figures(standing: Standing) -> Figures:
    use = standing.use
    return {
        "free_requests": {"used": use.today, "limit": use.day_limit, "remaining": use.left},
        "free_requests_not_through_this_server": use.elsewhere or None,
        "free_requests_restart_at": time_of_day(next_midnight(standing.now)),
        "free_requests_this_minute": {"used": use.minute, "limit": standing.per_minute},
        "nothing_is_sent_for": _pause(standing),
        "cooldowns": _cooling(standing),
    }


def _share(who: Caller, left: int | None) -> list[str]:
    if not who.has_share:
        return []
    day = "" if who.per_day is None else f"{left} of {who.per_day} requests left today"
    minute = "" if who.per_minute is None else f"{who.per_minute} a minute at most"
    return [f"{who.name}'s share of these: {', '.join(filter(None, (day, minute)))}."]


def _share_figures(who: Caller, left: int | None) -> Figures:
    if not who.has_share:
        return {}
    return {"your_share": {"remaining": left, "of": who.per_day, "a_minute": who.per_minute}}


def _pause(standing: Standing) -> str | None:
    seconds = standing.use.stopped_until - standing.now
    return duration(seconds) if seconds > 0 else None


def _cooling(standing: Standing) -> dict[str, str]:
    """For how long models are left alone, and why: the longest first."""
    longest = sorted(standing.cooldowns.items(), key=lambda one: (-one[1].until, one[0]))
    words = {
        one_line(model, 100): f"{duration(cooldown.until - standing.now)} ({one_line(cooldown.reason, 100)})"
        for model, cooldown in longest[:_MOST]
    }
    rest = longest[_MOST:]
    return words | ({f"{len(rest)} others": f"up to {duration(rest[0][1].until - standing.now)}"} if rest else {})


# --- our own figures --------------------------------------------------------------------------------------------------


def _budget(budget: Budget, who: Caller) -> list[str]:
    if not budget.daily:
        return [f"{_whose(budget)}: $0, so only free models are asked."]
    if not budget.is_known:
        return [f"{_whose(budget)}: {budget}."]
    bounds = f"{_whose(budget)}: {usd(budget.left)} of {usd(budget.daily)} left today"
    each = f"a call may cost {usd(min(budget.daily, budget.call))}."
    if not _is_own(budget, who):
        return [f"{bounds}, for all callers together; {each}"]
    spent = f"{usd_or_unknown(budget.spent.cost)} spent"
    if budget.spent.held:
        spent += f" and {usd_or_unknown(budget.spent.held)} held for calls whose cost is not known yet"
    return [f"{bounds} ({spent}); {each}"]


def _is_own(budget: Budget, who: Caller) -> bool:
    """Whether what is spent of it is their own affair."""
    return not who.name or budget.spent.whose == who.name


def _whose(budget: Budget) -> str:
    return f"{budget.spent.whose}'s budget" if budget.spent.whose else "Budget"


def _budget_figures(budget: Budget, who: Caller) -> Figures:
    left = budget.left if budget.is_known else Decimal(0)  # nothing that costs is sent
    figures: Figures = {"budget_usd": decimal(budget.daily), "budget_left_usd": decimal(left)}
    if budget.daily:
        figures["budget_of_a_call_usd"] = decimal(min(budget.daily, budget.call))
    if budget.daily and budget.is_known and _is_own(budget, who):
        figures |= {"budget_spent_usd": decimal(budget.spent.cost), "budget_held_usd": decimal(budget.spent.held)}
    return figures


def _spent(sums: Month) -> list[str]:
    lines = []
    for when, by_model in (("today", sums.today), ("this month", sums.month)):
        costs = _costs(by_model)
        if costs:
            each = ", ".join(f"{model} {usd_or_unknown(cost)}" for model, cost in costs.items())
            in_all = f"; {usd_or_unknown(_in_all(by_model))} in all" if len(costs) > 1 else ""
            lines.append(f"Spent {when} by model: {each}{in_all}.")
    return lines


def _spent_figures(sums: Month) -> Figures:
    return {
        "spent_today_usd": {model: decimal(cost) for model, cost in _costs(sums.today).items()},
        "spent_today_in_all_usd": decimal(_in_all(sums.today)),
        "spent_this_month_usd": {model: decimal(cost) for model, cost in _costs(sums.month).items()},
        "spent_this_month_in_all_usd": decimal(_in_all(sums.month)),
    }


def _costs(by_model: Mapping[str, Sum]) -> dict[str, Decimal | None]:
    """What the dearest models cost, those of unknown cost first, and the others together."""
    priced = [(one_line(model, 100), each) for model, each in by_model.items() if each.cost != 0]
    priced.sort(key=lambda one: (one[1].cost is not None, -(one[1].cost or 0), one[0]))
    rest = dict(priced[_MOST:])
    others = {f"{len(rest)} others": _in_all(rest)} if rest else {}
    return {model: each.cost for model, each in priced[:_MOST]} | others


def _in_all(by_model: Mapping[str, Sum]) -> Decimal | None:
    return sum(by_model.values(), Sum()).cost
