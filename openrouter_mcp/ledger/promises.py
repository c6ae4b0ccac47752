"""What batches still need, in the book: their requests, their money, and who works on each. A lease that is not renewed
ends, so that another process can go on.
"""

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger.book import Charge
from openrouter_mcp.ledger.shelf import Shelf
from openrouter_mcp.ledger.slots import Refusal


class Promises:
    """The batches of the account that the hash `key` belongs to, on `shelf`."""

    def __init__(self, key: str, shelf: Shelf) -> None:
        self._key = key
        self._shelf = shelf

    async def promise(self, batch: str, requests: int, *, spare: int, caller: Caller = NOBODY) -> Refusal | None:
        """Set `requests` of the day aside for a new `batch` of the `caller`. None if that leaves `spare` of it and is
        within their share, else why not.

        Raises:
            BooksAway: when nobody can say, as all that lease and draw do.
        """
        now = self._shelf.now()
        return await self._shelf.need(
            lambda book: book.promise(self._key, batch, requests, now=now, spare=spare, caller=caller)
        )

    async def take(self, batch: str, holder: str) -> bool:
        """Lease `batch` to `holder`, if no other has it. What was held for an earlier one and never drawn is free."""
        return await self._shelf.need(lambda book: book.take(self._key, batch, holder, self._shelf.now()))

    async def renew(self, batch: str, holder: str, requests: int) -> bool:
        """`holder` works on it, with so many requests to come; False when another does."""
        return await self._shelf.need(lambda book: book.renew(batch, holder, requests, self._shelf.now()))

    async def draw(self, charge: Charge) -> bool:
        """From now on `charge` is for a request that may have been sent; False when another holder made it free."""
        return self._shelf.holds(charge) and await self._shelf.need(lambda book: book.draw(charge.id))

    async def leave(self, batch: str, holder: str) -> None:
        """`holder` works on it no more, and another may."""
        await self._shelf.note(lambda book: book.leave(batch, holder))

    async def end(self, batch: str) -> None:
        """Nothing more is asked of it."""
        await self._shelf.note(lambda book: book.end(batch))

    async def is_leased(self, batch: str) -> bool:
        """Whether some process works on it."""
        return await self._shelf.use(lambda book: book.is_leased(batch, self._shelf.now()))
