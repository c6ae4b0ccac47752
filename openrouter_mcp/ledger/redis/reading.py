"""What the script says, as the book's own types. Pure."""

from collections.abc import Sequence
from decimal import Decimal

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.choice import Health
from openrouter_mcp.ledger.amounts import EXACT
from openrouter_mcp.ledger.book import Cooldown, Spent, Use
from openrouter_mcp.ledger.slots import Refusal, day_of
from openrouter_mcp.ledger.sums import MOST, Month, Sum, first_of_month
from openrouter_mcp.pricing import price
from openrouter_mcp.text import number

_TOO_MUCH = Decimal("Infinity")


def count(said: str) -> int | None:
    """A number of requests; None when it is not known."""
    return int(float(said)) if said else None


def use(said: Sequence[str]) -> Use:
    """What is used."""
    minute, today, elsewhere, day_limit, stopped_until, day_stopped_until, left = said
    return Use(
        minute=int(float(minute)),
        today=int(float(today)),
        elsewhere=int(float(elsewhere)),
        day_limit=count(day_limit),
        stopped_until=float(stopped_until),
        day_stopped_until=float(day_stopped_until),
        left=count(left),
    )


def refusal(said: Sequence[object], caller: Caller) -> Refusal:
    """Why something was refused to `caller`."""
    _, seconds, daily, left, fits, whose = map(str, said)
    return Refusal(
        float(seconds),
        daily=daily == "1",
        left=count(left),
        fits=int(float(fits)),
        whose=caller if whose == "own" else NOBODY,
    )


def cooldowns(said: Sequence[str]) -> dict[str, Cooldown]:
    """Every model that failed when it was last asked, out of model, moment, "COUNT REASON", ..."""
    found = {}
    for model, until, failed in zip(said[::3], said[1::3], said[2::3], strict=True):
        failures, _, reason = failed.partition(" ")
        found[model] = Cooldown(number(until) or 0.0, reason, int(number(failures) or 0))
    return found


def usd(said: str) -> Decimal:
    """An amount; what cannot be read is more than any other."""
    amount = price(said)
    return _TOO_MUCH if amount is None else amount.normalize(EXACT)


def spent(said: Sequence[str], caller: str | None) -> Spent:
    """What is spent by `caller` or all, out of what is held, model, cost, ..."""
    held, *rest = said
    by_model: dict[str, Decimal] = {}
    for model, cost in zip(rest[::2], rest[1::2], strict=True):
        by_model[model] = EXACT.add(by_model.get(model, Decimal(0)), usd(cost))
    return Spent(by_model, usd(held), caller)


# --- daily sums, out of day, "CALLER MODEL", "asked failed prompt completion seconds cost", ... -----------------------


def month(said: Sequence[str], now: float, caller: str | None) -> Month:
    """The sums of the UTC month and day that `now` is in, of `caller` or of all."""
    return Month(_total(said, first_of_month(now), caller), _total(said, day_of(now), caller))


def health(said: Sequence[str]) -> dict[str, Health]:
    """How each model did."""
    return {
        model: Health(each.asked, each.failed, each.completion_tokens / each.seconds if each.seconds else None)
        for model, each in _total(said, 0).items()
        if each.asked
    }


def _total(said: Sequence[str], since: int, caller: str | None = None) -> dict[str, Sum]:
    """By model, from a day on. In one order, so that seconds come to the same sum each time."""
    total: dict[str, Sum] = {}
    rows = ((int(day), *whose.split(" ", 1)[::-1], each) for day, whose, each in zip(*[iter(said)] * 3, strict=True))
    for day, model, by, each in sorted(rows):
        if day >= since and caller in (None, by):
            total[model] = total.get(model, Sum()) + _sum(each)
    return total


def _sum(said: str) -> Sum:
    *figures, cost = [*said.split(" "), *[""] * 6][:6]
    asked, failed, prompt, completion, seconds = (min(number(figure) or 0.0, MOST) for figure in figures)
    usd = price(cost)
    exact = None if usd is None else usd.normalize(EXACT)
    return Sum(int(asked), int(failed), int(prompt), int(completion), seconds, exact)
