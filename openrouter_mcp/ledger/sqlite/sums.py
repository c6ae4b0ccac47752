"""Daily sums: what each model was asked, wrote, and cost, by UTC day and caller; kept for 40 days. Blocking.

Each function works inside the transaction of whoever calls it. A day is the one that a request was reserved for, as in
the day's count and budget. What the file says is not trusted: an amount that cannot be read is unknown, and so is every
sum with it; any other figure that cannot be read is nothing.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple

from openrouter_mcp.choice import Health
from openrouter_mcp.ledger.amounts import EXACT, written
from openrouter_mcp.ledger.slots import day_of
from openrouter_mcp.ledger.sqlite.accounts import account_of
from openrouter_mcp.ledger.sqlite.file import File
from openrouter_mcp.ledger.sums import HEALTH_DAYS, KEPT_DAYS, MOST, Ended, Month, Sum, first_of_month
from openrouter_mcp.pricing import price
from openrouter_mcp.text import number

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


def add(db: sqlite3.Connection, place: Place, more: Sum) -> None:
    """Add `more` to the sum of a place, and forget the days that are too old."""
    where = "WHERE day = ? AND account = ? AND model = ? AND caller = ?"
    row = db.execute(f"SELECT {_COLUMNS} FROM sums {where}", place).fetchone()  # noqa: S608 - our own names
    if row is None:
        db.execute("DELETE FROM sums WHERE day < ? - ?", (place[0], KEPT_DAYS))
    *figures, cost = astuple((_read(row) if row else Sum()) + more)
    values = (*place, *(min(figure, MOST) for figure in figures), _UNKNOWN if cost is None else written(cost))
    db.execute("INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def count(book: File, key: str, day: int, ended: Ended) -> None:
    """`Book.count`."""
    with book.transaction() as db:
        note(db, day, account_of(db, key), ended)


def note(db: sqlite3.Connection, day: int, account: str, ended: Ended) -> None:
    """Count a request of the account that has ended."""
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
    found = _total(db, account, day_of(now) - HEALTH_DAYS + 1)
    return {
        model: Health(each.asked, each.failed, each.completion_tokens / each.seconds if each.seconds else None)
        for model, each in found.items()
        if each.asked
    }


def month(book: File, key: str, now: float, caller: str | None) -> Month:
    """`Book.month`."""
    account = account_of(book.db, key)
    return Month(_total(book.db, account, first_of_month(now), caller), _total(book.db, account, day_of(now), caller))


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


def _read(row: Iterable[object]) -> Sum:
    *figures, said = row
    asked, failed, prompt, completion, seconds = (min(number(figure) or 0.0, MOST) for figure in figures)
    cost = price(said)
    exact = None if cost is None else cost.normalize(EXACT)
    return Sum(int(asked), int(failed), int(prompt), int(completion), seconds, exact)
