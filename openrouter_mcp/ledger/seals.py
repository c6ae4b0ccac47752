"""The questions to the person that were answered, by their seals, across every process that shares the book: one yes is
for one call, whichever process it comes to."""

from openrouter_mcp.ledger.shelf import Shelf
from openrouter_mcp.refusals import BooksAway


class Seals:
    """Those on `shelf`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def use(self, seal: str) -> bool:
        """Note that what goes by `seal` is used now. False when it was before, or when nobody can know."""
        try:
            is_first = await self._shelf.need(lambda book: book.seal(seal, self._shelf.now()), money=True)
        except BooksAway:
            return False
        return is_first and not self._shelf.broken
