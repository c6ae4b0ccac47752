"""Models as tables."""

from collections.abc import Sequence
from decimal import Decimal

from openrouter_mcp.choice import ANYTHING, Aim, Seen, Task, days_left, strength, why_first
from openrouter_mcp.finding import abilities
from openrouter_mcp.pricing import A_MILLION, plain_prices
from openrouter_mcp.records import Model
from openrouter_mcp.render.reply import Reply, table
from openrouter_mcp.text import about_usd, duration, one_line, time_of_day

_MOST_CHARACTERS = 2800  # of a table; an agent reads it whole
_EXPIRY_SHOWN_DAYS = 30


def free_models(models: Sequence[Model], limit: int, *, free: int, aim: Aim, seen: Seen, about: str = "") -> Reply:
    """The first `limit` of `models`, best first for the aim; `free` are free in all. `about` is to be said
    of the list."""
    if not models:
        return Reply(
            f"No free model matches; {free} are free right now. Ask for less to see them.{about}", {"rows": []}
        )
    head = ["id", "context", "abilities", _index(aim), "here lately", "until"]
    rows = [
        [
            model.id,
            _context(model),
            " ".join(abilities(model)) or "-",
            _strength(model, aim),
            health(model, seen),
            until(model, seen) or "-",
        ]
        for model in models[:limit]
    ]
    shown, lines = _fitting(head, rows)
    note = f"{shown} of {free} free models, best first{_for(aim)}; $0 per token."
    first = f" {models[0].id} is first: {why_first(models[0], aim, seen)}."
    record = [_free_row(model, aim, seen) for model in models[:shown]]
    more = _more(len(models) - shown, shown == limit)
    return Reply(f"{note}{first}{more}{about}\n\n{lines}", {"rows": record})


def found_models(
    models: Sequence[Model], limit: int, *, priced: int, aim: Aim | None, budget: Decimal, seen: Seen, about: str = ""
) -> Reply:
    """The first `limit` of `models` in the order they come in, best first for the aim if there is one; `priced` have
    a price. `about` is to be said of the list."""
    poor = (
        "" if budget else " This server's budget is $0, so it refuses all of them: list_free_models has what it asks."
    )
    if not models:
        return Reply(f"None of {priced} priced models matches. Ask for less.{poor}{about}", {"rows": []})
    head = ["id", "$/M in", "$/M out", "context", "abilities", _index(aim or ANYTHING), "until"]
    rows = [
        [
            model.id,
            *_prices(model),
            _context(model),
            " ".join(abilities(model)) or "-",
            _strength(model, aim or ANYTHING),
            until(model, seen) or "-",
        ]
        for model in models[:limit]
    ]
    shown, lines = _fitting(head, rows)
    note = f"{shown} of {priced} priced models{', best first' if aim else ''}{_for(aim)}."
    record = [
        {"model": model.id, "usd_per_million": dict(zip(("in", "out"), _prices(model), strict=True))}
        for model in models[:shown]
    ]
    more = _more(len(models) - shown, shown == limit)
    return Reply(f"{note}{more}{poor}{about}\n\n{lines}", {"rows": record})


def health(model: Model, seen: Seen) -> str:
    """How calls to the model went here lately."""
    if model.id in seen.cooling:
        return f"busy for {duration(seen.cooling[model.id])}"
    known = seen.health.get(model.id)
    if known is None or not known.asked:
        return "-"
    speed = f", {known.tokens_per_s:.0f} tokens/s" if known.tokens_per_s else ""
    return f"{known.asked - known.failed} of {known.asked} ok{speed}"


def until(model: Model, seen: Seen) -> str:
    """The day it may be taken away, if that is near."""
    days = days_left(model, seen)
    if days is None or days > _EXPIRY_SHOWN_DAYS:
        return ""
    return one_line(model.expiration_date, 10) + (" (past)" if days < 0 else "")


def _fitting(head: list[str], rows: list[list[str]]) -> tuple[int, str]:
    """How many of the rows fit a table that is read whole, one at least, and that table."""
    size, shown = len(" | ".join(head)), 0
    for row in rows:
        size += len(" | ".join(row)) + 1
        if shown and size > _MOST_CHARACTERS:
            break
        shown += 1
    return shown, table([head, *rows[:shown]])


def _more(count: int, is_limited: bool) -> str:
    """How many are not shown, and what would show them: a higher limit only where it is that which cut them off."""
    higher = ", or raise `limit`" if is_limited else ""
    return f" {count} more: narrow by `search`, `needs` or another field{higher}." if count else ""


def _for(aim: Aim | None) -> str:
    if not aim or aim.task is Task.ANY:
        return ""
    return f" for {aim.task}{f' ({one_line(aim.language, 40)})' if aim.language else ''}"


def _index(aim: Aim) -> str:
    return "coding" if aim.task is Task.CODE else "intelligence"


def _strength(model: Model, aim: Aim) -> str:
    index = strength(model, aim.task)
    return "-" if index is None else f"{index:g}"


def _context(model: Model) -> str:
    tokens = model.context_length or 0
    return f"{tokens // 1000}k" if tokens > 0 else "-"


def _prices(model: Model) -> list[str]:
    """In and out, USD per million tokens, overrides aside."""
    prices = plain_prices(model)
    return ["?", "?"] if prices is None else [about_usd(amount * A_MILLION).lstrip("$") for amount in prices]


def _free_row(model: Model, aim: Aim, seen: Seen) -> dict[str, object]:
    known = seen.health.get(model.id)
    return {
        "model": model.id,
        "context_length": model.context_length,
        "abilities": abilities(model),
        "strength": strength(model, aim.task),
        "cooling_s": seen.cooling.get(model.id),
        "asked": known.asked if known else 0,
        "failed": known.failed if known else 0,
        "tokens_per_s": known.tokens_per_s if known else None,
        "expires": one_line(model.expiration_date, 10) or None,
    }


def about_the_list(skipped: int, stale_since: float | None) -> str:
    """What the reader should know of it: `skipped` rows could not be read, it is of `stale_since` (epoch seconds) if
    that is long ago."""
    about = f" {skipped} unreadable {'row' if skipped == 1 else 'rows'} left out." if skipped else ""
    if stale_since is not None:
        about += (
            f" List as of {time_of_day(stale_since)}, OpenRouter could not be reached for a newer one: "
            "until it can, these models cannot be asked."
        )
    return about
