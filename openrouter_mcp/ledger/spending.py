"""The budget of the day, kept across every process of the account: held before a call, settled after it."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from pathlib import Path

import anyio
import anyio.to_thread

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

    async def hold(
        self, amounts: Sequence[tuple[str, Decimal]], budget: Decimal, *, batch: str = ""
    ) -> list[Charge] | Spent:
        """Hold the worst case of each model, all or none; when the day's `budget` (USD) does not bear it, what is spent
        already. For a `batch` it is promised until it is drawn.

        Raises:
            CannotReserve: when there is no book that says what was spent.
        """
        await self.learn()

        def hold(book: Book) -> list[Charge] | Spent | None:
            if self._shelf.warning or self._shelf.set_aside:
                return None
            return money.hold(book, self._key, amounts, self._clock(), budget, batch=batch)

        held = await self._shelf.use(hold)
        if held is None:
            logger.error(_UNKNOWN, self._shelf.warning or f"{self._shelf.set_aside[0]} was set aside")
            raise CannotReserve
        return held

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

    async def spent(self) -> Spent:
        """What is spent and held today."""
        return await self._shelf.use(lambda book: money.spent(book, self._key, self._clock()))

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
