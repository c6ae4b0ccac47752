"""Models in the book: which failed lately, and are left alone for a while. Blocking; each is one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass

from openrouter_mcp.ledger.sqlite import Book
from openrouter_mcp.text import number


@dataclass(frozen=True)
class Cooldown:
    """A model better left alone until a moment, why, and after how many failures in a row."""

    until: float
    reason: str
    failures: int


def cool(book: Book, model: str, until: float, reason: str) -> None:
    """One more failure of `model`, to be left alone until then."""
    with book.transaction() as db:
        db.execute(
            "INSERT INTO cooldowns (model, until, reason, failures) VALUES (?, ?, ?, 1) ON CONFLICT (model) "
            "DO UPDATE SET until = excluded.until, reason = excluded.reason, failures = failures + 1",
            (model, until, reason),
        )


def cooldowns(book: Book) -> dict[str, Cooldown]:
    """Every model that failed when it was last asked."""
    rows = book.db.execute("SELECT model, until, reason, failures FROM cooldowns")
    return {
        str(model): Cooldown(number(until) or 0.0, str(reason), int(number(failures) or 0))
        for model, until, reason, failures in rows
    }


def probe(book: Book, models: Sequence[str], now: float, until: float) -> set[str]:
    """Of `models`, those to leave alone. A cooldown that is over is renewed to `until` by whoever comes first, who
    alone may try the model; its success ends the cooldown, its failure another."""
    with book.transaction() as db:
        rows = dict(db.execute("SELECT model, until FROM cooldowns").fetchall())
        avoided = {model for model in models if (number(rows.get(model)) or 0.0) > now}
        tried = [(until, model) for model in models if model in rows and model not in avoided]
        db.executemany("UPDATE cooldowns SET until = ? WHERE model = ?", tried)
        return avoided


def recover(book: Book, model: str) -> None:
    """`model` answered."""
    if book.db.execute("SELECT 1 FROM cooldowns WHERE model = ?", (model,)).fetchone():
        with book.transaction() as db:
            db.execute("DELETE FROM cooldowns WHERE model = ?", (model,))
