"""Money in the book: what is held for calls under way, what they cost, and whether the guard is closed. Blocking.

Each function is one transaction. Amounts are USD as decimal text, summed exactly. What the file says is not trusted: an
amount that cannot be read counts as more than any budget.
"""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from openrouter_mcp.ledger.amounts import written
from openrouter_mcp.ledger.book import (
    DEAD_S,
    FIRST_INQUIRY_S,
    KEPT_DAYS,
    MOST_INQUIRIES,
    Charge,
    Closure,
    Spent,
    Wish,
)
from openrouter_mcp.ledger.slots import day_of
from openrouter_mcp.ledger.sqlite import sums
from openrouter_mcp.ledger.sqlite.accounts import account_of
from openrouter_mcp.ledger.sqlite.file import File
from openrouter_mcp.ledger.sums import Ended, Sum
from openrouter_mcp.pricing import price
from openrouter_mcp.text import number

_TOO_MUCH = Decimal("Infinity")


def hold(book: File, key: str, wishes: Sequence[Wish], now: float) -> list[list[Charge] | Spent]:
    """`Book.hold`: the disk is waited for once, not for each."""
    known: dict[str | None, Spent] = {}
    with book.transaction(durable=True) as db:
        db.execute("DELETE FROM charges WHERE day < ?", (day_of(now) - KEPT_DAYS,))
        return [_hold(book, key, wish, now, known) for wish in wishes]


def _hold(book: File, key: str, wish: Wish, now: float, known: dict[str | None, Spent]) -> list[Charge] | Spent:
    """One wish's; `known` is what this transaction has found to be spent by whom."""
    db, caller = book.db, wish.caller
    wanted = sum((amount for _, amount in wish.amounts), Decimal(0))
    for whose, most in ((None, wish.budget), (caller.name, caller.daily_budget)):
        if most is None:
            continue
        already = known[whose] = known.get(whose) or spent(book, key, now, whose)
        if already.in_all + wanted > most:
            return already
    account, charges = account_of(db, key), []
    for model, amount in wish.amounts:
        row = db.execute(
            "INSERT INTO charges (account, day, model, amount, caller, holder) VALUES (?, ?, ?, ?, ?, ?)",
            (account, day_of(now), model, written(amount), caller.name, wish.holder),
        )
        charges.append(Charge(row.lastrowid or 0, model, amount, book))
    for whose in known.keys() & {None, caller.name}:
        known[whose] = replace(known[whose], held=known[whose].held + wanted)
    if wish.batch:
        db.executemany("INSERT INTO promises (charge, batch) VALUES (?, ?)", [(one.id, wish.batch) for one in charges])
    if wish.holder:
        alive(book, wish.holder, now)
    return charges


def spent(book: File, key: str, now: float, caller: str | None = None) -> Spent:
    """`Book.spent`."""
    by_model: dict[str, Decimal] = {}
    held = Decimal(0)
    for model, amount, cost in book.db.execute(
        "SELECT model, amount, cost FROM charges WHERE account = ? AND day >= ? AND (? IS NULL OR caller = ?)",
        (account_of(book.db, key), day_of(now), caller, caller),
    ):
        if cost is None:
            held += _usd(amount)
        else:
            by_model[str(model)] = by_model.get(str(model), Decimal(0)) + _usd(cost)
    return Spent(by_model, held, caller)


def settle(book: File, charge: int, cost: Decimal, ended: Ended | None = None) -> None:
    """`Book.settle`."""
    with book.transaction() as db:
        _note(book, charge, ended)
        row = db.execute("SELECT day, account, model, caller, cost FROM charges WHERE id = ?", (charge,)).fetchone()
        if row:
            *place, before = row
            already, exact = Decimal(0) if before is None else price(before), Decimal(written(cost))
            sums.add(db, tuple(place), Sum(cost=None if already is None else exact - already))
            db.execute("UPDATE charges SET cost = ? WHERE id = ?", (written(cost), charge))


def release(book: File, charges: Sequence[int]) -> None:
    """`Book.release`."""
    with book.transaction() as db:
        db.executemany("DELETE FROM charges WHERE id = ?", [(charge,) for charge in charges])


def leave_open(book: File, charge: int, generation: str, now: float, ended: Ended | None = None) -> None:
    """`Book.leave_open`."""
    with book.transaction() as db:
        _note(book, charge, ended)
        db.execute("UPDATE charges SET generation = ?, ended = ? WHERE id = ?", (generation, now, charge))


def alive(book: File, holder: str, now: float) -> None:
    """`Book.alive`."""
    with book.transaction() as db:
        db.execute("INSERT OR REPLACE INTO holders VALUES (?, ?)", (holder, now))


def note_generation(book: File, charge: int, generation: str) -> None:
    """`Book.note_generation`."""
    with book.transaction() as db:
        db.execute("UPDATE charges SET generation = ? WHERE id = ?", (generation, charge))


def _note(book: File, charge: int, ended: Ended | None) -> None:
    """What it ended in; its cost is for the model that served, and counts when it is known."""
    row = book.db.execute("SELECT day, account FROM charges WHERE id = ?", (charge,)).fetchone()
    if ended and row:
        book.db.execute(
            "UPDATE charges SET model = ?, caller = ? WHERE id = ?", (ended.models[0], ended.caller, charge)
        )
        day, account = row
        sums.note(book.db, day, account, ended)


def due(book: File, key: str, now: float, holder: str = "") -> list[tuple[int, str, Decimal]]:
    """`Book.due`."""
    with book.transaction() as db:
        _end_abandoned(book, now, holder)
        rows = db.execute(
            "SELECT id, generation, amount, ended, inquiries FROM charges "
            "WHERE account = ? AND cost IS NULL AND ended IS NOT NULL AND generation != '' AND inquiries < ?",
            (account_of(db, key), MOST_INQUIRIES),
        ).fetchall()
        found = [
            (int(row), str(generation), _usd(amount))
            for row, generation, amount, ended, inquiries in rows
            if not 0 <= now - (number(ended) or 0.0) < FIRST_INQUIRY_S * 4.0 ** int(inquiries)
        ]
        db.executemany("UPDATE charges SET inquiries = inquiries + 1 WHERE id = ?", [(row,) for row, *_ in found])
        return found


def _end_abandoned(book: File, now: float, holder: str) -> None:
    """End what was held by processes that are gone; what was promised to a batch and not drawn was never sent."""
    db = book.db
    db.execute("DELETE FROM holders WHERE seen < ?", (now - DEAD_S,))
    left = db.execute(
        "SELECT id, generation, amount FROM charges WHERE cost IS NULL AND ended IS NULL AND holder NOT IN ('', ?) "
        "AND holder NOT IN (SELECT holder FROM holders) AND id NOT IN (SELECT charge FROM promises)",
        (holder,),
    ).fetchall()
    for charge, generation, amount in left:
        if generation:
            db.execute("UPDATE charges SET ended = ? WHERE id = ?", (now, charge))
        elif (usd := _usd(amount)) != _TOO_MUCH:
            settle(book, charge, usd)


def shut(book: File, reason: str, now: float) -> None:
    """`Book.shut`."""
    with book.transaction(durable=True) as db:
        db.execute("INSERT INTO closures (at, reason) VALUES (?, ?)", (now, reason))


def closures(book: File) -> list[Closure]:
    """`Book.closures`."""
    rows = book.db.execute("SELECT CAST(at AS REAL), CAST(reason AS TEXT) FROM closures")
    return [Closure(at, reason) for at, reason in rows]


def acknowledge(book: File, seen: Sequence[Closure]) -> None:
    """`Book.acknowledge`."""
    with book.transaction(durable=True) as db:
        same = "CAST(at AS REAL) = ? AND CAST(reason AS TEXT) = ?"
        db.executemany(f"DELETE FROM closures WHERE {same}", [(one.at, one.reason) for one in seen])  # noqa: S608


def _usd(text: object) -> Decimal:
    amount = price(text)
    return _TOO_MUCH if amount is None else amount.normalize()
