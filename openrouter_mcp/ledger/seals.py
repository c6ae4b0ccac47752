"""The questions to the person that were answered, by their seals, across every process that shares the book: one yes is
for one call, whichever process it comes to."""

import time
from collections.abc import Callable

from openrouter_mcp.ledger.shelf import Shelf
from openrouter_mcp.ledger.sqlite import Book

_KEPT_S = 3600.0  # the SDK lets a seal expire after ten minutes; the rest is for clocks that are set
_SCHEMA = "CREATE TABLE IF NOT EXISTS seals (seal TEXT PRIMARY KEY, until REAL NOT NULL)"


class Seals:
    """Those on `shelf`; `clock` gives epoch seconds."""

    def __init__(self, shelf: Shelf, *, clock: Callable[[], float] = time.time) -> None:
        self._shelf = shelf
        self._clock = clock

    async def use(self, seal: str) -> bool:
        """Note that what goes by `seal` is used now. False when it was before, or when nobody can know."""
        is_first = await self._shelf.use(_use, seal, self._clock())
        return is_first and not self._shelf.warning


def _use(book: Book, seal: str, now: float) -> bool:
    with book.transaction(durable=True) as db:
        db.execute(_SCHEMA)  # where nobody is asked, the book goes without
        db.execute("DELETE FROM seals WHERE until < ?", (now,))
        return db.execute("INSERT OR IGNORE INTO seals VALUES (?, ?)", (seal, now + _KEPT_S)).rowcount == 1
