"""The account's standing as text."""

from decimal import Decimal

from openrouter_mcp.guard import Budget
from openrouter_mcp.ledger.standing import Standing
from openrouter_mcp.records import Credits, KeyInfo
from openrouter_mcp.render.reply import Reply
from openrouter_mcp.text import duration, one_line, usd


def credits(  # noqa: A001 - OpenRouter's noun
    key: KeyInfo, balance: Credits | None, standing: Standing, budget: Budget, *, unread: str = ""
) -> Reply:
    """What the key may still do. A balance OpenRouter does not show is unknown, never $0; `unread` says why it did not
    say anything."""
    left = None if balance is None else balance.total_credits - balance.total_usage
    closed = [f"THE GUARD IS CLOSED, nothing is sent: {budget.closures[0].reason}."] if budget.closures else []
    lines = [*closed, *_allowance_lines(standing), *_budget_lines(budget)]
    if unread:
        lines.append(f"Key limit, spending and balance: unknown, OpenRouter did not say ({unread}).")
    else:
        lines += [_limit_line(key), _usage_line(key)]
        lines.append(
            "Balance: unknown; OpenRouter shows it to management keys only." if left is None else _balance(left)
        )
    if key.expires_at:
        lines.append(f"The key expires: {one_line(key.expires_at, 40)}.")
    use = standing.use
    return Reply(
        "\n".join(lines),
        {
            "free_requests": {"used": use.today, "limit": use.day_limit, "remaining": use.left},
            "free_requests_this_minute": {"used": use.minute, "limit": standing.per_minute},
            "cooldowns": {model: cooldown.reason for model, cooldown in standing.cooldowns.items()},
            "budget_usd": f"{budget.daily:f}",
            "budget_left_usd": f"{budget.left:f}",
            "spent_today_usd": {model: f"{cost:f}" for model, cost in budget.spent.by_model.items()},
            "guard": "closed" if budget.closures else "open",
            "key_limit_usd": _decimal(key.limit),
            "key_remaining_usd": _decimal(key.limit_remaining),
            "usage_daily_usd": _decimal(key.usage_daily),
            "usage_monthly_usd": _decimal(key.usage_monthly),
            "balance_usd": _decimal(left),
        },
    )


def _allowance_lines(standing: Standing) -> list[str]:
    use = standing.use
    source = "OpenRouter's count" if use.day_limit is not None else "counted here; OpenRouter did not say"
    elsewhere = f", {use.elsewhere} of them not through this server" if use.elsewhere else ""
    line = str(standing)
    lines = [
        f"{line[0].upper()}{line[1:]} ({source}{elsewhere}).",
        f"This minute: {use.minute} of {standing.per_minute} used.",
    ]
    if use.stopped_until > standing.now:
        pause = duration(use.stopped_until - standing.now)
        lines.append(f"OpenRouter's limit of the minute is met: nothing is sent for {pause}.")
    if standing.cooldowns:
        cooling = (
            f"{one_line(model, 100)} for {duration(cooldown.until - standing.now)} ({cooldown.reason})"
            for model, cooldown in sorted(standing.cooldowns.items())
        )
        lines.append(f"Not chosen for now: {', '.join(cooling)}.")
    return [*lines, *([f"Warning: {standing.warning}"] if standing.warning else [])]


def _budget_lines(budget: Budget) -> list[str]:
    if not budget.daily:
        money = "Budget: $0, so only free models are asked."
    else:
        held = f" and {usd(budget.spent.held)} held for calls whose cost is not known yet" if budget.spent.held else ""
        money = (
            f"Budget: {usd(budget.left)} of {usd(budget.daily)} left today ({usd(budget.spent.cost)} spent{held}); "
            f"a call may cost {usd(budget.call)}."
        )
    by_model = ", ".join(f"{one_line(model, 100)} {usd(cost)}" for model, cost in budget.spent.by_model.items())
    return [money, *([f"Spent today by model: {by_model}."] if by_model else [])]


def _balance(left: Decimal) -> str:
    return f"Balance: {_usd(left)}."


def _limit_line(key: KeyInfo) -> str:
    if key.limit is None:
        return (
            "Warning: the key has no credit limit of its own, so nothing bounds what else uses it. Tell the user that "
            "https://openrouter.ai/settings/keys can set one."
        )
    resets = f", resets {one_line(key.limit_reset, 20)}" if key.limit_reset else ""
    return f"Key limit: {_usd(key.limit_remaining)} of {_usd(key.limit)} left{resets}."


def _usage_line(key: KeyInfo) -> str:
    return f"Spent with this key: {_usd(key.usage_daily)} today, {_usd(key.usage_monthly)} this month (UTC)."


def _usd(amount: Decimal | None) -> str:
    return "unknown" if amount is None else usd(amount)


def _decimal(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"
