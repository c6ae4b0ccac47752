"""Money in the book: what is held for calls under way, what they cost, and whether the guard is closed. Blocking.

Each function is one transaction. Amounts are USD as decimal text, summed exactly. What the file says is not trusted: an
amount that cannot be read counts as more than any budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Decimal

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger import sums
from openrouter_mcp.ledger.slots import day_of
from openrouter_mcp.ledger.sqlite import Book
from openrouter_mcp.ledger.sums import Ended, Sum
from openrouter_mcp.pricing import price
from openrouter_mcp.text import number

_KEPT_DAYS = 2
MOST_INQUIRIES = 4
_FIRST_INQUIRY_S = 5.0  # OpenRouter needs a moment to write a generation down
_FINEST = Decimal("1e-18")
_TOO_MUCH = Decimal("Infinity")


@dataclass(frozen=True)
class Charge:
    """USD held for one request to `model`, in `book`, until it is settled."""

    id: int
    model: str
    amount: Decimal
    book: object = field(repr=False)


@dataclass(frozen=True)
class Spent:
    """A UTC day's money, in USD: what calls cost, by model, and what is held for those whose cost is not known; of one
    caller alone if it says `whose`."""

    by_model: dict[str, Decimal]
    held: Decimal
    whose: str | None = None

    @property
    def cost(self) -> Decimal:
        """What is known to be spent."""
        return sum(self.by_model.values(), Decimal(0))

    @property
    def in_all(self) -> Decimal:
        """What no other call may spend."""
        return self.cost + self.held


@dataclass(frozen=True)
class Closure:
    """Why the guard is closed, and since when (epoch seconds)."""

    at: float
    reason: str


def hold(
    book: Book,
    key: str,
    amounts: Sequence[tuple[str, Decimal]],
    now: float,
    budget: Decimal,
    *,
    batch: str = "",
    caller: Caller = NOBODY,
    known: dict[str | None, Spent] | None = None,
) -> list[Charge] | Spent:
    """Hold each model's amount for the `caller`, all or none; when the day's `budget` does not bear it, or the caller's
    own, what is spent of that already. What is held for a `batch` is promised until it is drawn. `known` is what
    this same transaction has found to be spent by whom."""
    known = {} if known is None else known
    with book.transaction(durable=True) as db:
        db.execute("DELETE FROM charges WHERE day < ?", (day_of(now) - _KEPT_DAYS,))
        account = book.account(db, key)
        wanted = sum((amount for _, amount in amounts), Decimal(0))
        for whose, most in ((None, budget), (caller.name, caller.daily_budget)):
            if most is None:
                continue
            already = known[whose] = known.get(whose) or spent(book, key, now, whose)
            if already.in_all + wanted > most:
                return already
        charges = []
        for model, amount in amounts:
            row = db.execute(
                "INSERT INTO charges (account, day, model, amount, caller) VALUES (?, ?, ?, ?, ?)",
                (account, day_of(now), model, _text(amount), caller.name),
            )
            charges.append(Charge(row.lastrowid or 0, model, amount, book))
        for whose in known.keys() & {None, caller.name}:
            known[whose] = replace(known[whose], held=known[whose].held + wanted)
        if batch:
            db.executemany("INSERT INTO promises (charge, batch) VALUES (?, ?)", [(one.id, batch) for one in charges])
        return charges


def spent(book: Book, key: str, now: float, caller: str | None = None) -> Spent:
    """What is spent and held today, by one caller or all; what was booked for a day that a clock now says is yet to
    come, counts too."""
    by_model: dict[str, Decimal] = {}
    held = Decimal(0)
    for model, amount, cost in book.db.execute(
        "SELECT model, amount, cost FROM charges WHERE account = ? AND day >= ? AND (? IS NULL OR caller = ?)",
        (book.account(book.db, key), day_of(now), caller, caller),
    ):
        if cost is None:
            held += _usd(amount)
        else:
            by_model[str(model)] = by_model.get(str(model), Decimal(0)) + _usd(cost)
    return Spent(by_model, held, caller)


def settle(book: Book, charge_id: int, cost: Decimal, ended: Ended | None = None) -> None:
    """The call cost so much; it `ended` so, if that is not noted yet."""
    with book.transaction() as db:
        _note(book, charge_id, ended)
        row = db.execute("SELECT day, account, model, caller, cost FROM charges WHERE id = ?", (charge_id,)).fetchone()
        if row:
            *place, before = row
            already, exact = Decimal(0) if before is None else price(before), Decimal(_text(cost))
            sums.add(db, tuple(place), Sum(cost=None if already is None else exact - already))
            db.execute("UPDATE charges SET cost = ? WHERE id = ?", (_text(cost), charge_id))


def release(book: Book, charges: Sequence[Charge]) -> None:
    """Nothing was sent for these."""
    with book.transaction() as db:
        db.executemany("DELETE FROM charges WHERE id = ?", [(charge.id,) for charge in charges])


def leave_open(book: Book, charge: Charge, generation: str, now: float, ended: Ended | None = None) -> None:
    """The call ended and its cost is not known: it stays held, and may be asked about by `generation`."""
    with book.transaction() as db:
        _note(book, charge.id, ended)
        db.execute("UPDATE charges SET generation = ?, ended = ? WHERE id = ?", (generation, now, charge.id))


def _note(book: Book, charge_id: int, ended: Ended | None) -> None:
    """What it ended in; its cost is for the model that served, and counts when it is known."""
    row = book.db.execute("SELECT day, account FROM charges WHERE id = ?", (charge_id,)).fetchone()
    if ended and row:
        book.db.execute(
            "UPDATE charges SET model = ?, caller = ? WHERE id = ?", (ended.models[0], ended.caller, charge_id)
        )
        day, account = row
        sums.count(book.db, day, account, ended)


def due(book: Book, key: str, now: float) -> list[tuple[int, str, Decimal]]:
    """Held charges that OpenRouter is to be asked about now, with their generations and amounts; each comes up a few
    times, ever later, for one caller alone."""
    with book.transaction() as db:
        rows = db.execute(
            "SELECT id, generation, amount, ended, inquiries FROM charges "
            "WHERE account = ? AND cost IS NULL AND generation != '' AND inquiries < ?",
            (book.account(db, key), MOST_INQUIRIES),
        ).fetchall()
        found = [
            (int(row), str(generation), _usd(amount))
            for row, generation, amount, ended, inquiries in rows
            if not 0 <= now - (number(ended) or 0.0) < _FIRST_INQUIRY_S * 4.0 ** int(inquiries)
        ]
        db.executemany("UPDATE charges SET inquiries = inquiries + 1 WHERE id = ?", [(row,) for row, *_ in found])
        return found


def close(book: Book, reason: str, now: float) -> None:
    """No process sends anything until a person has acknowledged this."""
    with book.transaction(durable=True) as db:
        db.execute("INSERT INTO closures (at, reason) VALUES (?, ?)", (now, reason))


def closures(book: Book) -> list[Closure]:
    """Why the guard is closed; empty when it is open."""
    rows = book.db.execute("SELECT CAST(at AS REAL), CAST(reason AS TEXT) FROM closures")
    return [Closure(at, reason) for at, reason in rows]


def acknowledge(book: Book, seen: Sequence[Closure]) -> None:
    """A person has `seen` these."""
    with book.transaction(durable=True) as db:
        same = "CAST(at AS REAL) = ? AND CAST(reason AS TEXT) = ?"
        db.executemany(f"DELETE FROM closures WHERE {same}", [(one.at, one.reason) for one in seen])  # noqa: S608


def _text(amount: Decimal) -> str:
    """Exact to an attodollar, rounded up."""
    return f"{amount.quantize(_FINEST, ROUND_CEILING):f}"


def _usd(text: object) -> Decimal:
    amount = price(text)
    return _TOO_MUCH if amount is None else amount.normalize()
