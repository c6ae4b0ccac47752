"""What batches still need, in the book: their requests, their money, and who works on each. A lease that is not renewed
ends, so that another process can go on.
"""

import time
from collections.abc import Callable

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger import shares
from openrouter_mcp.ledger.money import Charge
from openrouter_mcp.ledger.shelf import Shelf
from openrouter_mcp.ledger.slots import Refusal, day_of, next_midnight
from openrouter_mcp.ledger.sqlite import Book
from openrouter_mcp.text import number

LEASE_S = 30.0
_CLOCK_TOLERANCE_S = 1.0
_KEPT_DAYS = 2


class Promises:
    """The batches of the account that the hash `key` belongs to, on `shelf`. `clock` gives epoch seconds."""

    def __init__(self, key: str, shelf: Shelf, *, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._shelf = shelf
        self._clock = clock

    async def promise(self, batch: str, requests: int, *, spare: int, caller: Caller = NOBODY) -> Refusal | None:
        """Set `requests` of the day aside for a new `batch` of the `caller`. None if that leaves `spare` of it and is
        within their share, else why not."""
        now = self._clock()
        return await self._shelf.use(
            lambda book: _promise(book, self._key, batch, requests, now=now, spare=spare, caller=caller)
        )

    async def take(self, batch: str, holder: str) -> bool:
        """Lease `batch` to `holder`, if no other has it. What was held for an earlier one and never drawn is free."""
        return await self._shelf.use(_take, self._key, batch, holder, self._clock)

    async def renew(self, batch: str, holder: str, requests: int) -> bool:
        """`holder` works on it, with so many requests to come; False when another does."""
        return await self._shelf.use(_renew, batch, holder, requests, self._clock())

    async def draw(self, charge: Charge) -> bool:
        """From now on `charge` is for a request that may have been sent; False when another holder made it free."""
        return self._shelf.holds(charge) and await self._shelf.use(_draw, charge)

    async def leave(self, batch: str, holder: str) -> None:
        """`holder` works on it no more, and another may."""
        await self._shelf.use(_leave, batch, holder)

    async def end(self, batch: str) -> None:
        """Nothing more is asked of it."""
        await self._shelf.use(_end, batch)

    async def is_leased(self, batch: str) -> bool:
        """Whether some process works on it."""
        return await self._shelf.use(lambda book: _is_leased(book, batch, self._clock()))


# --- one transaction each; blocking -----------------------------------------------------------------------------------


def _promise(
    book: Book, key: str, batch: str, requests: int, *, now: float, spare: int, caller: Caller
) -> Refusal | None:
    with book.transaction() as db:
        db.execute("DELETE FROM batches WHERE day < ?", (day_of(now) - _KEPT_DAYS,))
        db.execute("DELETE FROM promises WHERE batch NOT IN (SELECT id FROM batches)")
        account, left = book.account(db, key), book.use(key, now).left
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


def _promised(book: Book, account: str, now: float, caller: str | None = None) -> int:
    """How many requests of today the batches of one caller, or of all, still need."""
    row = book.db.execute(
        "SELECT sum(requests) FROM batches WHERE account = ? AND day = ? AND (? IS NULL OR caller = ?)",
        (account, day_of(now), caller, caller),
    ).fetchone()
    return int(number(row[0]) or 0)


def _take(book: Book, key: str, batch: str, holder: str, clock: Callable[[], float]) -> bool:
    with book.transaction() as db:
        now = clock()  # not before the book is ours: a lease given meanwhile would seem another clock's
        row = db.execute("SELECT holder FROM batches WHERE id = ?", (batch,)).fetchone()
        if row and row[0] != holder:
            if _is_leased(book, batch, now):
                return False
            _free(book, batch)
        db.execute(
            "INSERT INTO batches (id, account, day, holder, until, requests) VALUES (?, ?, ?, ?, ?, 0) "
            "ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, until = excluded.until",
            (batch, book.account(db, key), day_of(now), holder, now + LEASE_S),
        )
        return True


def _renew(book: Book, batch: str, holder: str, requests: int, now: float) -> bool:
    with book.transaction() as db:
        renewed = db.execute(
            "UPDATE batches SET until = ?, requests = ?, day = ? WHERE id = ? AND holder = ?",
            (now + LEASE_S, requests, day_of(now), batch, holder),
        )
        return renewed.rowcount == 1


def _draw(book: Book, charge: Charge) -> bool:
    with book.transaction(durable=True) as db:
        return db.execute("DELETE FROM promises WHERE charge = ?", (charge.id,)).rowcount == 1


def _leave(book: Book, batch: str, holder: str) -> None:
    with book.transaction() as db:
        if db.execute("UPDATE batches SET until = 0 WHERE id = ? AND holder = ?", (batch, holder)).rowcount:
            _free(book, batch)


def _end(book: Book, batch: str) -> None:
    with book.transaction() as db:
        _free(book, batch)
        db.execute("DELETE FROM batches WHERE id = ?", (batch,))


def _is_leased(book: Book, batch: str, now: float) -> bool:
    row = book.db.execute("SELECT until FROM batches WHERE id = ?", (batch,)).fetchone()
    return bool(row) and 0.0 < (number(row[0]) or 0.0) - now <= LEASE_S + _CLOCK_TOLERANCE_S  # more is another clock's


def _free(book: Book, batch: str) -> None:
    """What was held for it and never drawn was for requests that were never sent."""
    book.db.execute("DELETE FROM charges WHERE id IN (SELECT charge FROM promises WHERE batch = ?)", (batch,))
    book.db.execute("DELETE FROM promises WHERE batch = ?", (batch,))
