"""The budget of the day, kept across every process of the account: held before a call, settled after it."""

import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import anyio

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger.book import Book, Charge, Closure, Spent, Wish
from openrouter_mcp.ledger.shelf import Shelf
from openrouter_mcp.ledger.sums import Ended
from openrouter_mcp.refusals import CannotReserve
from openrouter_mcp.text import usd
from openrouter_mcp.wire import Usage

logger = logging.getLogger(__name__)
_REOPEN = "When you know why, `openrouter-mcp doctor --acknowledge` opens it again."
_CLOSED = f"The guard against surprise bills is closed and nothing is sent: %s. {_REOPEN}"
_UNKNOWN = f"What was spent today is not known, so nothing that costs is sent: %s. {_REOPEN}"
_LONGEST_INQUIRY_S = 5.0  # what a call waits at most to learn what earlier ones cost


@dataclass(eq=False)
class _Asked:
    """What is to be held, and what came of it: None while, or where, nothing can be, and `why`."""

    wish: Wish
    held: list[Charge] | Spent | None = None
    why: str = ""


class Spending:
    """The money of the account that the hash `key` belongs to, on `shelf`.

    `inquire` asks OpenRouter what a generation cost, None when it does not say.
    """

    def __init__(self, key: str, shelf: Shelf, inquire: Callable[[str], Awaitable[Usage | None]]) -> None:
        self._key = key
        self._shelf = shelf
        self._inquire = inquire
        self._holder = secrets.token_hex(8)
        self._open = dict[int, str]()  # charges, and as what generation each runs, if that is noted
        self._closed: list[Closure] = []
        self._asked = deque[_Asked]()

    async def hold(
        self,
        amounts: Sequence[tuple[str, Decimal]],
        budget: Decimal,
        *,
        batch: str = "",
        caller: Caller = NOBODY,
    ) -> list[Charge] | Spent:
        """Hold the worst case of each model for the `caller`, all or none; when the day's `budget` (USD) does not bear
        it, or the caller's own, what is spent of that already. For a `batch` it is promised until it is drawn.

        Raises:
            CannotReserve: when there is no book that says what was spent.
            BooksAway: while nobody can say.
        """
        await self.learn()
        asked = _Asked(Wish(amounts, budget, batch, caller, self._holder))
        self._asked.append(asked)
        with anyio.CancelScope(shield=True):  # it may be held together with another's, before its own turn comes
            await self._shelf.need(lambda book: self._hold_together(book, asked), money=True)
        if asked.held is None:
            logger.error(_UNKNOWN, asked.why)
            raise CannotReserve
        if not isinstance(asked.held, Spent):
            self._open |= {charge.id: "" for charge in asked.held}
        return asked.held

    def _hold_together(self, book: Book, asked: _Asked) -> None:
        """All that is wished for by now, in the order it was, unless `asked` was so with another's."""
        if asked not in self._asked:
            return
        together, answered = [*self._asked], [asked]  # alone when nobody can say: the others ask for themselves
        try:
            why = self._shelf.broken or "; ".join(book.doubts())
            wishes = [one.wish for one in together]
            said = [None] * len(together) if why else book.hold(self._key, wishes, self._shelf.now())
            for one, held in zip(together, said, strict=True):
                one.held, one.why = held, why
            answered = together
        finally:
            for one in answered:
                self._asked.remove(one)

    async def settle(self, charge: Charge, cost: Decimal, ended: Ended | None = None) -> None:
        """The call cost so much USD, and `ended` so."""
        self._open.pop(charge.id, None)
        await self._shelf.note(lambda book: book.settle(charge.id, cost, ended), charge)

    async def release(self, charges: Sequence[Charge]) -> None:
        """Nothing was sent for these; done even for a caller that is being cancelled."""
        with anyio.CancelScope(shield=True):
            for charge in charges:
                self._open.pop(charge.id, None)
                await self._shelf.note(lambda book, id_=charge.id: book.release([id_]), charge)  # type: ignore[misc]

    async def leave_open(self, charge: Charge, generation: str, ended: Ended | None = None) -> None:
        """The call `ended` without a word on its cost, which stays held until OpenRouter tells or the day ends."""
        self._open.pop(charge.id, None)
        now = self._shelf.now()
        await self._shelf.note(lambda book: book.leave_open(charge.id, generation, now, ended), charge)

    async def show_life(self, charge: Charge | None = None, generation: str = "") -> None:
        """Say that this process is there, if it holds anything: else others settle that in its place. Also that the
        request for which `charge` is held runs as `generation`, by which they could ask what it cost."""
        if self._open:
            await self._shelf.use(lambda book: book.alive(self._holder, self._shelf.now()))
        if charge and generation and self._open.get(charge.id) == "":
            self._open[charge.id] = generation
            await self._shelf.note(lambda book: book.note_generation(charge.id, generation), charge)

    async def learn(self) -> None:
        """Ask OpenRouter what the calls cost that ended without a word on it, where that is due."""
        with anyio.move_on_after(_LONGEST_INQUIRY_S):
            due = await self._shelf.use(lambda book: book.due(self._key, self._shelf.now(), self._holder))
            async with anyio.create_task_group() as group:  # or a slow one would keep the others from being asked about
                for one in due:
                    group.start_soon(self._learn, *one)

    async def _learn(self, charge: int, generation: str, amount: Decimal) -> None:
        usage = await self._inquire(generation)
        if usage is None or (cost := usage.cost) is None:
            return
        with anyio.CancelScope(shield=True):  # what is known is written down
            if cost > amount:
                await self.close(f"generation {generation} cost {usd(cost)}, and {usd(amount)} was held for it")
            await self._shelf.note(lambda book: book.settle(charge, cost))

    async def spent(self, caller: str | None = None) -> Spent:
        """What is spent and held today, by one caller or all."""
        return await self._shelf.read(
            f"spent by {caller}", lambda book: book.spent(self._key, self._shelf.now(), caller)
        )

    @property
    def is_known(self) -> bool:
        """Whether the book that says what is spent can be used."""
        return not self._shelf.warning

    # --- the guard's breaker ------------------------------------------------------------------------------------------

    async def close(self, reason: str) -> None:
        """No process that shares the book sends anything until a person has acknowledged this."""
        now = self._shelf.now()
        self._closed.append(Closure(now, reason))
        await self._shelf.note(lambda book: book.shut(reason, now))
        logger.error(_CLOSED, reason)

    async def closures(self, *, for_sure: bool = False) -> list[Closure]:
        """Why the guard is closed; empty when it is open.

        Raises:
            BooksAway: when that is wanted `for_sure` and nobody can say.
        """
        ask = self._shelf.need if for_sure else self._shelf.use
        found, is_all = await ask(lambda book: (book.closures(), self._shelf.is_shared(book)))
        if not is_all:  # the book that said so may be gone
            found = [*self._closed, *(one for one in found if one not in self._closed)]
        self._closed = found
        if found:
            logger.error(_CLOSED, found[0].reason)  # perhaps another process's doing
        return found

    async def doubts(self) -> list[str]:
        """Books that were lost and that nobody has acknowledged: while there are any, nothing that costs is sent."""
        return await self._shelf.use(lambda book: book.doubts())

    async def acknowledge(self, seen: Sequence[Closure], doubts: Sequence[str]) -> None:
        """A person has `seen` why, and these `doubts`: send again.

        Raises:
            BooksAway: when that cannot be written down.
        """
        await self._shelf.need(lambda book: book.acknowledge(seen), money=True)
        await self._shelf.need(lambda book: book.forget_doubts(doubts), money=True)
