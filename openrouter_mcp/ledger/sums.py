"""Daily sums: what each model was asked, wrote, and cost, by UTC day and caller; kept for 40 days. Blocking.

Each function works inside the transaction of whoever calls it. A day is the one that a request was reserved for, as in
the day's count and budget. What the file says is not trusted: an amount that cannot be read is unknown, and so is every
sum with it; any other figure that cannot be read is nothing.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Context, Decimal

from openrouter_mcp.choice import Health
from openrouter_mcp.ledger.slots import DAY_S, day_of
from openrouter_mcp.pricing import price
from openrouter_mcp.text import number

_KEPT_DAYS = 40
_HEALTH_DAYS = 2
_MOST = 10**15  # of anything; more is a mistake, and SQLite's integers end somewhere
_EXACT = Context(prec=100)  # Decimal's own 28 digits would round a large sum
_FINEST = Decimal("1e-18")
_UNKNOWN = "unknown"
SCHEMA = """
CREATE TABLE IF NOT EXISTS sums (
    day INTEGER NOT NULL, account TEXT NOT NULL, model TEXT NOT NULL, caller TEXT NOT NULL,
    asked INTEGER NOT NULL, failed INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL, cost TEXT NOT NULL, PRIMARY KEY (day, account, model, caller)
) WITHOUT ROWID;
"""
Place = tuple[int, str, str, str]  # day, account, model, caller
_COLUMNS = "asked, failed, prompt_tokens, completion_tokens, seconds, cost"


@dataclass(frozen=True)
class Sum:
    """Requests `asked`, how many `failed` by the model's fault, the tokens of both ways, the `seconds` that those out
    took to write, and the `cost` in USD, None when it is not known."""

    asked: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: Decimal | None = Decimal(0)

    def __add__(self, other: "Sum") -> "Sum":
        """Both together; the cost exactly, in whatever order."""
        return Sum(
            self.asked + other.asked,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
            None if self.cost is None or other.cost is None else _EXACT.add(self.cost, other.cost),
        )


@dataclass(frozen=True)
class Ended:
    """A request that has ended, what it `took`, and the `models` it counts for: the one that served or was asked, by
    its catalogue id; where several failed together, each of them."""

    models: tuple[str, ...]
    caller: str
    took: Sum

    @property
    def without_cost(self) -> "Ended":
        """For a request whose cost is booked by its charge."""
        return replace(self, took=replace(self.took, cost=Decimal(0)))


@dataclass(frozen=True)
class Month:
    """What each model came to in the current UTC month, and what of that `today`."""

    month: dict[str, Sum]
    today: dict[str, Sum]


def add(db: sqlite3.Connection, place: Place, more: Sum) -> None:
    """Add `more` to the sum of a place, and forget the days that are too old."""
    where = "WHERE day = ? AND account = ? AND model = ? AND caller = ?"
    row = db.execute(f"SELECT {_COLUMNS} FROM sums {where}", place).fetchone()  # noqa: S608 - our own names
    if row is None:
        db.execute("DELETE FROM sums WHERE day < ? - ?", (place[0], _KEPT_DAYS))
    *figures, cost = astuple((_read(row) if row else Sum()) + more)
    values = (*place, *(min(figure, _MOST) for figure in figures), _UNKNOWN if cost is None else _text(cost))
    db.execute("INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def count(db: sqlite3.Connection, day: int, account: str, ended: Ended) -> None:
    """Count a request that has ended."""
    for model in ended.models:
        add(db, (day, account, model, ended.caller), ended.took)


def rename(db: sqlite3.Connection, before: str, account: str) -> None:
    """What was kept for the account `before` belongs to `account`."""
    rows = db.execute(f"SELECT day, model, caller, {_COLUMNS} FROM sums WHERE account = ?", (before,)).fetchall()  # noqa: S608
    for day, model, caller, *row in rows:
        add(db, (day, account, model, caller), _read(row))
    db.execute("DELETE FROM sums WHERE account = ?", (before,))


def take_over(db: sqlite3.Connection) -> None:
    """Sum up what the charges cost of a book from before there were sums."""
    settled = db.execute("SELECT day, account, model, cost FROM charges WHERE cost IS NOT NULL").fetchall()
    for day, account, model, cost in settled:
        add(db, (day, account, model, ""), Sum(cost=price(cost)))


def health(db: sqlite3.Connection, account: str, now: float) -> dict[str, Health]:
    """How each model did, for all callers of the account, that was asked today or yesterday."""
    found = _total(db, account, day_of(now) - _HEALTH_DAYS + 1)
    return {
        model: Health(each.asked, each.failed, each.completion_tokens / each.seconds if each.seconds else None)
        for model, each in found.items()
        if each.asked
    }


def month(db: sqlite3.Connection, account: str, now: float, caller: str | None) -> Month:
    """The sums of the UTC month and day that `now` is in, of `caller` or of all."""
    first = day_of(now) - datetime.fromtimestamp(day_of(now) * DAY_S, UTC).day + 1
    return Month(_total(db, account, first, caller), _total(db, account, day_of(now), caller))


def _total(db: sqlite3.Connection, account: str, since: int, caller: str | None = None) -> dict[str, Sum]:
    """By model, from a day on; what was booked for a day that a clock now says is yet to come, counts too."""
    total: dict[str, Sum] = {}
    rows: Iterable[tuple[object, ...]] = db.execute(
        f"SELECT model, {_COLUMNS} FROM sums WHERE day >= ? AND account = ? AND (? IS NULL OR caller = ?)",  # noqa: S608
        (since, account, caller, caller),
    )
    for model, *row in rows:
        total[str(model)] = total.get(str(model), Sum()) + _read(row)
    return total


def _text(amount: Decimal) -> str:
    """Exact to an attodollar, rounded up."""
    return f"{amount.quantize(_FINEST, ROUND_CEILING, context=_EXACT):f}"


def _read(row: Iterable[object]) -> Sum:
    *figures, said = row
    asked, failed, prompt, completion, seconds = (min(number(figure) or 0.0, _MOST) for figure in figures)
    cost = price(said)
    exact = None if cost is None else cost.normalize(_EXACT)
    return Sum(int(asked), int(failed), int(prompt), int(completion), seconds, exact)


def took(prompt_tokens: int, completion_tokens: int, seconds: float, cost: Decimal | None, *, failed: bool) -> Sum:
    """What one request took. Without the tokens, the seconds say nothing about a speed."""
    return Sum(1, int(failed), prompt_tokens, completion_tokens, max(0.0, seconds) if completion_tokens else 0.0, cost)
