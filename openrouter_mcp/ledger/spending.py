"""The budget of the day, kept across every process of the account: held before a call, settled after it."""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import anyio
import anyio.to_thread

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger import money
from openrouter_mcp.ledger.money import Charge, Closure, Spent
from openrouter_mcp.ledger.shelf import Shelf
from openrouter_mcp.ledger.sqlite import Book
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
class _Wish:
    """Amounts to be held, and what came of it: None while, or where, nothing can be."""

    amounts: Sequence[tuple[str, Decimal]]
    budget: Decimal
    batch: str
    caller: Caller
    held: list[Charge] | Spent | None = None


class Spending:
    """The money of the account that the hash `key` belongs to, on `shelf`.

    `inquire` asks OpenRouter what a generation cost, None when it does not say; `clock` gives epoch seconds.
    """

    def __init__(
        self,
        key: str,
        shelf: Shelf,
        inquire: Callable[[str], Awaitable[Usage | None]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._shelf = shelf
        self._inquire = inquire
        self._clock = clock
        self._closed: list[Closure] = []
        self._wishes = deque[_Wish]()

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
        """
        await self.learn()
        wish = _Wish(amounts, budget, batch, caller)
        self._wishes.append(wish)
        with anyio.CancelScope(shield=True):  # it may be held together with another's, before its own turn comes
            await self._shelf.use(self._hold_together)
        if wish.held is None:
            logger.error(_UNKNOWN, self._shelf.warning or f"{self._shelf.set_aside[0]} was set aside")
            raise CannotReserve
        return wish.held

    def _hold_together(self, book: Book) -> None:
        """All that is wished for by now, in the order it was: the disk is waited for once, not for each."""
        together, known = [*self._wishes], dict[str | None, Spent]()
        now = self._clock()
        if together and not (self._shelf.warning or self._shelf.set_aside):
            with book.transaction(durable=True):
                for wish in together:
                    wish.held = money.hold(
                        book,
                        self._key,
                        wish.amounts,
                        now,
                        wish.budget,
                        batch=wish.batch,
                        caller=wish.caller,
                        known=known,
                    )
        for _ in together:
            self._wishes.popleft()

    async def settle(self, charge: Charge, cost: Decimal, ended: Ended | None = None) -> None:
        """The call cost so much USD, and `ended` so."""
        if self._shelf.holds(charge):
            await self._shelf.use(money.settle, charge.id, cost, ended)

    async def release(self, charges: Sequence[Charge]) -> None:
        """Nothing was sent for these; done even for a caller that is being cancelled."""
        with anyio.CancelScope(shield=True):
            mine = [charge for charge in charges if self._shelf.holds(charge)]
            if mine:
                await self._shelf.use(money.release, mine)

    async def leave_open(self, charge: Charge, generation: str, ended: Ended | None = None) -> None:
        """The call `ended` without a word on its cost, which stays held until OpenRouter tells or the day ends."""
        if self._shelf.holds(charge):
            await self._shelf.use(money.leave_open, charge, generation, self._clock(), ended)

    async def learn(self) -> None:
        """Ask OpenRouter what the calls cost that ended without a word on it, where that is due."""
        with anyio.move_on_after(_LONGEST_INQUIRY_S):
            due = await self._shelf.use(money.due, self._key, self._clock())
            async with anyio.create_task_group() as group:  # or a slow one would keep the others from being asked about
                for one in due:
                    group.start_soon(self._learn, *one)

    async def _learn(self, charge: int, generation: str, amount: Decimal) -> None:
        usage = await self._inquire(generation)
        if usage is None or usage.cost is None:
            return
        with anyio.CancelScope(shield=True):  # what is known is written down
            if usage.cost > amount:
                await self.close(f"generation {generation} cost {usd(usage.cost)}, and {usd(amount)} was held for it")
            await self._shelf.use(money.settle, charge, usage.cost)

    async def spent(self, caller: str | None = None) -> Spent:
        """What is spent and held today, by one caller or all."""
        return await self._shelf.read(
            f"spent by {caller}", lambda book: money.spent(book, self._key, self._clock(), caller)
        )

    # --- the guard's breaker ------------------------------------------------------------------------------------------

    async def close(self, reason: str) -> None:
        """No process that shares the book sends anything until a person has acknowledged this."""
        now = self._clock()
        self._closed.append(Closure(now, reason))
        await self._shelf.use(money.close, reason, now)
        logger.error(_CLOSED, reason)

    async def closures(self) -> list[Closure]:
        """Why the guard is closed; empty when it is open."""
        found = await self._shelf.use(money.closures)
        if self._shelf.warning:  # the book that said so may be gone
            found = [*self._closed, *(one for one in found if one not in self._closed)]
        self._closed = found
        if found:
            logger.error(_CLOSED, found[0].reason)  # perhaps another process's doing
        return found

    @property
    def set_aside(self) -> list[Path]:
        """Broken books that nobody has acknowledged: while there are any, nothing that costs is sent."""
        return self._shelf.set_aside

    async def acknowledge(self, seen: Sequence[Closure], broken: Sequence[Path]) -> None:
        """A person has `seen` why, and that these books are `broken`: send again."""
        await self._shelf.use(money.acknowledge, seen)
        await anyio.to_thread.run_sync(self._shelf.forget_set_aside, broken)
