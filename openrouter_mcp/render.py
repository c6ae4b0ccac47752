"""Results as text a model reads at a glance, each with its record for programs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from openrouter_mcp.errors import OpenRouterMCPError
from openrouter_mcp.guard import Budget
from openrouter_mcp.ledger.standing import Standing
from openrouter_mcp.records import Credits, KeyInfo, Model
from openrouter_mcp.text import duration, one_line, usd
from openrouter_mcp.transcript import Answer

_ABILITIES = (("tools", "tools"), ("json", "structured_outputs"), ("reasoning", "reasoning"))


@dataclass(frozen=True)
class Reply:
    """What a tool answers with: the text for the model, the record for programs."""

    text: str
    record: dict[str, object] = field(default_factory=dict)
    is_error: bool = False


def answer(answer: Answer) -> Reply:
    """A warning if there is one, the text, a mark where it is not whole, and a footer line."""
    return Reply(f"{_body(answer)}\n\n[{_footer(answer)}]", record(answer))


def comparison(rows: Sequence[Answer | OpenRouterMCPError]) -> Reply:
    """A table, then the answers under the models' names. An error only when no row has text."""
    records = [record(row) for row in rows]
    table = [["model", "outcome", "seconds", "tokens", "cost"], *(_row(row) for row in rows)]
    sections = [f"## {_name(row)}\n\n{_body(row) if isinstance(row, Answer) else _said(row)}" for row in rows]
    text = "\n\n".join([_table(table), *sections])
    if allowances := [row.allowance for row in rows if row.allowance]:
        text += f"\n\n[{allowances[-1]}]"
    failed = [row for row in rows if not isinstance(row, Answer)]
    if len(failed) < len(rows):
        return Reply(text, {"status": "complete", "rows": records})
    codes = {row.code for row in failed}
    code = codes.pop() if len(codes) == 1 else "upstream"
    head = f"{code}: None of the {len(rows)} models answered; each says why below."
    return Reply(f"{head}\n\n{text}", {"status": "error", "code": code, "rows": records}, is_error=True)


def record(row: Answer | OpenRouterMCPError) -> dict[str, object]:
    """The stable names of design section 7; costs are decimal strings in USD."""
    if isinstance(row, OpenRouterMCPError):
        facts: dict[str, object] = {
            "status": "error",
            "code": row.code,
            "retry_after_s": row.hint_s,
            "attempts": row.attempts,
        }
        return facts | ({"model": _name(row)} if row.model else {})
    return {
        "status": row.status,
        "model": row.model,
        "provider": row.provider,
        "generation_id": row.generation_id,
        "finish_reason": row.finish_reason,
        "prompt_tokens": row.usage.prompt_tokens,
        "completion_tokens": row.usage.completion_tokens,
        "reasoning_tokens": row.usage.reasoning_tokens,
        "cost_usd": None if row.usage.cost is None else f"{row.usage.cost:f}",
        "seconds": round(row.seconds, 3),
        "attempts": row.attempts,
        **({"warning": row.warning} if row.warning else {}),
    }


def free_models(models: Sequence[Model], *, matching: int, free: int) -> Reply:
    """A table of the free models, best first; `matching` of `free` fit the search, `models` are those shown."""
    if not models:
        return Reply(f"No free model matches; {free} are free right now. Leave out `search` to see them.", {"rows": []})
    table = [["id", "context", "abilities", "until"], *(_model_row(model) for model in models)]
    narrow = "" if len(models) == matching else f" {matching - len(models)} more: raise `limit` or narrow by `search`."
    note = f"{len(models)} of {free} free models, best first; $0 per token.{narrow}"
    rows = [{"model": model.id, "context_length": model.context_length} for model in models]
    return Reply(f"{note}\n\n{_table(table)}", {"rows": rows})


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


# --- pieces ---------------------------------------------------------------------------------------------------------


def _body(answer: Answer) -> str:
    warning = f"[warning: {answer.warning}]\n\n" if answer.warning else ""
    return warning + answer.text + (f"\n\n[incomplete: {answer.problem}]" if answer.problem else "")


def _said(failure: OpenRouterMCPError) -> str:
    """A row's failure without what is said once at the end."""
    row = failure.twin()
    row.allowance = ""
    return str(row)


def _footer(answer: Answer) -> str:
    usage = answer.usage
    reasoning = f" ({usage.reasoning_tokens} of them reasoning)" if usage.reasoning_tokens else ""
    parts = [
        _name(answer) + (f" via {one_line(answer.provider, 60)}" if answer.provider else ""),
        f"{usage.prompt_tokens} in + {usage.completion_tokens} out tokens{reasoning}",
        f"{answer.seconds:.1f} s",
        _cost(answer),
    ]
    if answer.attempts > 1:
        parts.append(f"{answer.attempts} requests")
    if answer.allowance:
        parts.append(answer.allowance)
    return ", ".join(parts)


def _cost(answer: Answer) -> str:
    if answer.usage.cost is not None:
        return usd(answer.usage.cost)
    held = f", {usd(answer.held)} stays reserved until OpenRouter tells" if answer.held else ""
    return f"cost unknown{held}"


def _name(row: Answer | OpenRouterMCPError) -> str:
    """The model that answered; where another was asked for, both."""
    if isinstance(row, Answer) and row.served not in ("", *row.models):
        return f"{one_line(row.served, 100)} (asked as {row.models[0]})"
    return one_line(row.model, 100)


def _row(row: Answer | OpenRouterMCPError) -> list[str]:
    if isinstance(row, OpenRouterMCPError):
        return [_name(row), row.code, "-", "-", "-"]
    return [_name(row), row.status, f"{row.seconds:.1f}", str(row.usage.completion_tokens), _usd(row.usage.cost)]


def _model_row(model: Model) -> list[str]:
    abilities = [kind for kind in model.architecture.input_modalities if kind != "text"]
    abilities += [name for name, parameter in _ABILITIES if parameter in model.supported_parameters]
    context = f"{model.context_length // 1000}k" if model.context_length else "-"
    return [model.id, context, one_line(" ".join(abilities), 60) or "-", one_line(model.expiration_date, 10) or "-"]


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Cells joined by bars, unpadded: padding costs tokens and helps no model."""
    return "\n".join(" | ".join(row) for row in rows)


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
