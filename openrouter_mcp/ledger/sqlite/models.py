"""Models in the book: which failed lately, and are left alone for a while. Blocking; each is one transaction."""

from collections.abc import Sequence

from openrouter_mcp.ledger.book import LONGEST_COOLDOWN_S, Cooldown
from openrouter_mcp.ledger.sqlite.file import File
from openrouter_mcp.text import number


def cool(book: File, models: Sequence[str], now: float, *, shortest: float, hint: float, reason: str) -> None:
    """`Book.cool`."""
    with book.transaction() as db:
        before = cooldowns(book)
        for model in models:
            failures = before[model].failures if model in before else 0
            pause = min(max(hint, shortest * 2.0 ** min(failures, 10)), LONGEST_COOLDOWN_S)
            db.execute(
                "INSERT INTO cooldowns (model, until, reason, failures) VALUES (?, ?, ?, 1) ON CONFLICT (model) "
                "DO UPDATE SET until = excluded.until, reason = excluded.reason, failures = failures + 1",
                (model, now + pause, reason),
            )


def cooldowns(book: File) -> dict[str, Cooldown]:
    """Every model that failed when it was last asked."""
    rows = book.db.execute("SELECT model, until, reason, failures FROM cooldowns")
    return {
        str(model): Cooldown(number(until) or 0.0, str(reason), int(number(failures) or 0))
        for model, until, reason, failures in rows
    }


def probe(book: File, models: Sequence[str], now: float, until: float) -> set[str]:
    """`Book.probe`."""
    with book.transaction() as db:
        rows = dict(db.execute("SELECT model, until FROM cooldowns").fetchall())
        avoided = {model for model in models if (number(rows.get(model)) or 0.0) > now}
        tried = [(until, model) for model in models if model in rows and model not in avoided]
        db.executemany("UPDATE cooldowns SET until = ? WHERE model = ?", tried)
        return avoided


def recover(book: File, model: str) -> None:
    """`Book.recover`."""
    if book.db.execute("SELECT 1 FROM cooldowns WHERE model = ?", (model,)).fetchone():
        with book.transaction() as db:
            db.execute("DELETE FROM cooldowns WHERE model = ?", (model,))
