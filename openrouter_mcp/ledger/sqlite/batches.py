"""What batches still need, in the book: their requests, their money, and who works on each. Blocking; each is one
transaction."""

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger.book import KEPT_DAYS, LEASE_S
from openrouter_mcp.ledger.slots import Refusal, day_of, next_midnight
from openrouter_mcp.ledger.sqlite import shares
from openrouter_mcp.ledger.sqlite.accounts import account_of
from openrouter_mcp.ledger.sqlite.file import File
from openrouter_mcp.text import number

_CLOCK_TOLERANCE_S = 1.0


def promise(
    book: File, account: str, batch: str, requests: int, *, left: int | None, now: float, spare: int, caller: Caller
) -> Refusal | None:
    """`Book.promise`, of an account that has so many requests `left` today."""
    with book.transaction() as db:
        db.execute("DELETE FROM batches WHERE day < ?", (day_of(now) - KEPT_DAYS,))
        db.execute("DELETE FROM promises WHERE batch NOT IN (SELECT id FROM batches)")
        own, promised = shares.left_today(db, account, caller, now), _promised(book, account, now)
        fitting = [] if left is None else [(max(0, left - spare - promised), NOBODY)]
        fitting += [] if own is None else [(max(0, own - _promised(book, account, now, caller.name)), caller)]
        fits, whose = min(fitting, key=lambda one: one[0], default=(requests, NOBODY))
        if requests > fits:
            return Refusal(next_midnight(now) - now, daily=True, left=left, fits=fits, whose=whose)
        db.execute(
            "INSERT INTO batches (id, account, day, holder, until, requests, caller) VALUES (?, ?, ?, '', 0, ?, ?)",
            (batch, account, day_of(now), requests, caller.name),
        )
        return None


def _promised(book: File, account: str, now: float, caller: str | None = None) -> int:
    """How many requests of today the batches of one caller, or of all, still need."""
    row = book.db.execute(
        "SELECT sum(requests) FROM batches WHERE account = ? AND day = ? AND (? IS NULL OR caller = ?)",
        (account, day_of(now), caller, caller),
    ).fetchone()
    return int(number(row[0]) or 0)


def take(book: File, key: str, batch: str, holder: str, now: float) -> bool:
    """`Book.take`."""
    with book.transaction() as db:
        row = db.execute("SELECT holder FROM batches WHERE id = ?", (batch,)).fetchone()
        if row and row[0] != holder:
            if is_leased(book, batch, now):
                return False
            _free(book, batch)
        db.execute(
            "INSERT INTO batches (id, account, day, holder, until, requests) VALUES (?, ?, ?, ?, ?, 0) "
            "ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, until = excluded.until",
            (batch, account_of(db, key), day_of(now), holder, now + LEASE_S),
        )
        return True


def renew(book: File, batch: str, holder: str, requests: int, now: float) -> bool:
    """`Book.renew`."""
    with book.transaction() as db:
        renewed = db.execute(
            "UPDATE batches SET until = ?, requests = ?, day = ? WHERE id = ? AND holder = ?",
            (now + LEASE_S, requests, day_of(now), batch, holder),
        )
        return renewed.rowcount == 1


def draw(book: File, charge: int) -> bool:
    """`Book.draw`."""
    with book.transaction(durable=True) as db:
        drawn = "DELETE FROM promises WHERE charge = ? AND charge IN (SELECT id FROM charges)"
        return db.execute(drawn, (charge,)).rowcount == 1


def leave(book: File, batch: str, holder: str) -> None:
    """`Book.leave`."""
    with book.transaction() as db:
        if db.execute("UPDATE batches SET until = 0 WHERE id = ? AND holder = ?", (batch, holder)).rowcount:
            _free(book, batch)


def end(book: File, batch: str) -> None:
    """`Book.end`."""
    with book.transaction() as db:
        _free(book, batch)
        db.execute("DELETE FROM batches WHERE id = ?", (batch,))


def is_leased(book: File, batch: str, now: float) -> bool:
    """`Book.is_leased`."""
    row = book.db.execute("SELECT until FROM batches WHERE id = ?", (batch,)).fetchone()
    return bool(row) and 0.0 < (number(row[0]) or 0.0) - now <= LEASE_S + _CLOCK_TOLERANCE_S  # more is another clock's


def _free(book: File, batch: str) -> None:
    """What was held for it and never drawn was for requests that were never sent."""
    book.db.execute("DELETE FROM charges WHERE id IN (SELECT charge FROM promises WHERE batch = ?)", (batch,))
    book.db.execute("DELETE FROM promises WHERE batch = ?", (batch,))
