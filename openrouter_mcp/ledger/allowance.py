"""The free allowance, planned: who may send when, across every process of the account.

The facts behind the numbers: https://openrouter.ai/docs/api-reference/limits. OpenRouter counts the account, not the
key, and failed requests like good ones.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.choice import Seen
from openrouter_mcp.errors import (
    BadKey,
    DailyQuota,
    MinuteQuota,
    ModelBusy,
    NoKey,
    OpenRouterMCPError,
    Outcome,
)
from openrouter_mcp.ledger.book import LONGEST_MINUTE_STOP_S, Book
from openrouter_mcp.ledger.promises import Promises
from openrouter_mcp.ledger.seals import Seals
from openrouter_mcp.ledger.shelf import Shelf
from openrouter_mcp.ledger.slots import NEW_DAY_S, Refusal, Slot, day_of, next_midnight, too_late
from openrouter_mcp.ledger.spending import Spending
from openrouter_mcp.ledger.standing import Standing
from openrouter_mcp.ledger.sums import Ended, Month
from openrouter_mcp.records import KeyInfo
from openrouter_mcp.wire import Usage

if TYPE_CHECKING:
    from openrouter_mcp.engine import Engine  # whose library few have

PER_MINUTE = 20
WINDOW_S = 61.0  # a second more than OpenRouter's, for the ways of different length
_LATE_S = 0.5  # a slot is for its moment: used later, it would stand in the wrong window
_COUNT_AGE_S = 600.0
_LONGEST_READ_S = 5.0  # a call waits no longer to learn what is left
_LAG_S = 60.0  # OpenRouter's own count may be this late
_FEW = 5
# After a failure a model is left alone for so long, doubled for each further one in a row.
_COOL_S = {Outcome.POOL_LIMIT: 30.0, Outcome.FAILED: 15.0, Outcome.LOST: 15.0, Outcome.EMPTY: 15.0}
_PROBE_S = 30.0


async def _nobody_knows(_: str) -> Usage | None:
    return None


class Ledger:
    """The books of the account that `key` belongs to, in the folder or on the engine at `place`; without one, of this
    process alone.

    `read_key` asks OpenRouter about the key, `inquire` what a generation cost; `clock` gives epoch seconds; `limit`
    requests in any `window` seconds. `spending` is the money, `promises` what batches still need, `seals` which
    answers of the person were used.
    """

    def __init__(
        self,
        key: str,
        place: "Path | Engine | None",
        read_key: Callable[[], Awaitable[KeyInfo]],
        *,
        limit: int = PER_MINUTE,
        window: float = WINDOW_S,
        clock: Callable[[], float] = time.time,
        inquire: Callable[[str], Awaitable[Usage | None]] = _nobody_knows,
    ) -> None:
        self._key = _hash(key)
        self._user = ""
        self._read_key = read_key
        self._limit = limit
        self._window = window
        self._shelf = Shelf(place, limit=limit, window=window, clock=clock)
        self.now = self._shelf.now
        self.promises = Promises(self._key, self._shelf)
        self.spending = Spending(self._key, self._shelf, inquire)
        self.seals = Seals(self._shelf)
        self._read_at = float("-inf")
        self._must_read = False
        self._last: Standing | None = None
        self._one_reader = anyio.Lock()

    async def aclose(self) -> None:
        """Close the book."""
        await self._shelf.aclose()

    async def mend(self) -> None:
        """Write down what was to be while the engine was away, if it is back."""
        await self._shelf.mend()

    async def owners(self) -> tuple[str, ...]:
        """By what the account goes: its own name as far as it is known (a new book does not know it yet), the key's."""
        mine = (_hash(self._user),) if self._user else ()
        return await self._shelf.use(lambda book: (*mine, book.account(self._key), self._key))

    # --- requests -----------------------------------------------------------------------------------------------------

    async def reserve(
        self, count: int = 1, *, longest_wait: float, spare: int = 0, caller: Caller = NOBODY
    ) -> list[Slot]:
        """`count` slots, each at most `longest_wait` seconds away, or none. Who asks waits for `slot.at`, and gives
        back what is not sent. `spare` of a minute's requests are left to others; they are of the `caller`'s share.

        Raises:
            MinuteQuota, DailyQuota: at once, with the seconds, when they would come too late.
            BooksAway: when nobody can say.
        """
        started = self.now()
        await self.refresh()

        def reserve(book: Book) -> list[Slot] | Refusal:
            now = self.now()  # not before the book is ours: others may have kept it for a while
            return book.reserve(self._key, count, now, longest_wait - max(0.0, now - started), spare, caller=caller)

        granted = await self._shelf.need(reserve)
        if isinstance(granted, Refusal):
            refused = too_late(granted, count, self._shelf.per_minute)
            refused.allowance = str(await self.standing())
            raise refused
        return granted

    async def give_back(self, slots: Sequence[Slot]) -> None:
        """What was never sent does not count; done even for a caller that is being cancelled."""
        with anyio.CancelScope(shield=True):
            for slot in slots:
                await self._shelf.note(lambda book, slot=slot: book.give_back([slot]), slot)  # type: ignore[misc]

    async def missed(self, slot: Slot) -> bool:
        """Whether `slot`, whose moment has come, may not be used: that moment is past already, or OpenRouter has met
        somebody with a limit since it was granted."""
        if self.now() - slot.at > _LATE_S:
            return True
        if slot.wait <= 0.0:
            return False
        standing = await self.standing()
        return standing.use.day_stopped_until > 0.0 or standing.use.stopped_until > standing.now

    async def left_of_share(self, caller: Caller) -> int | None:
        """How many of today's free requests are left of the caller's share; None when the day has none."""
        return await self._shelf.use(lambda book: book.share_left(self._key, caller, self.now()))

    def wait_for(self, slot: Slot) -> float:
        """Seconds until `slot` may be used; no more than when it was granted, whatever the clock did since."""
        return min(slot.wait, max(0.0, slot.at - self.now()))

    async def standing(self) -> Standing:
        """What is used and left, without asking OpenRouter."""
        return await self._shelf.use(self._look)

    @property
    def seen(self) -> Seen:
        """What was known of the models when this process last looked into the book."""
        return Seen() if self._last is None else self._last.seen

    def _look(self, book: Book) -> Standing:
        now = self.now()
        look = book.look(self._key, now)
        self._last = Standing(
            use=look.use,
            per_minute=self._shelf.per_minute,
            now=now,
            cooldowns={model: cooldown for model, cooldown in look.cooldowns.items() if cooldown.until > now},
            warning=self._shelf.warning,
            health=look.health,
            is_away=self._shelf.is_away,
        )
        return self._last

    # --- what a request taught us -------------------------------------------------------------------------------------

    async def failed(self, models: Sequence[str], failure: OpenRouterMCPError) -> None:
        """Note for everybody what `failure` says about the account, or about the `models` that were asked."""
        now = self.now()
        if isinstance(failure, DailyQuota):
            self._must_read = True
            # A clock a little fast meets yesterday's limit today: OpenRouter's own reset is the truer end.
            until = next_midnight(now) if failure.hint_s is None else min(next_midnight(now), now + failure.hint_s)
            await self._shelf.note(lambda book: book.stop(self._key, until + NEW_DAY_S, daily=True))
        elif isinstance(failure, MinuteQuota):
            self._must_read = True
            pause = self._window if failure.hint_s is None else failure.hint_s
            stop = now + min(pause, LONGEST_MINUTE_STOP_S)
            await self._shelf.note(lambda book: book.stop(self._key, stop, daily=False))
        elif shortest := _COOL_S.get(failure.outcome):
            hint = failure.hint_s or 0.0
            await self._shelf.note(
                lambda book: book.cool(models, now, shortest=shortest, hint=hint, reason=_reason(failure))
            )

    async def answered(self, models: Sequence[str], served: str) -> Standing:
        """Of the `models` asked, the one that `served` works, by whatever name it calls itself; and what is left."""

        def recover_and_look(book: Book) -> Standing:
            book.recover(models[0] if len(models) == 1 else served)
            return self._look(book)

        return await self._shelf.use(recover_and_look)

    async def ended(self, ended: Ended, slot: Slot | None) -> None:
        """Count a request for which no money was held, on the day of its `slot`."""

        day = day_of(slot.at if slot else self.now())
        await self._shelf.note(lambda book: book.count(self._key, day, ended))

    async def month(self, caller: str | None = None) -> Month:
        """What each model was asked, wrote and cost in this UTC month and today, for `caller` or for all."""
        return await self._shelf.use(lambda book: book.month(self._key, self.now(), caller))

    async def claim(self, models: Sequence[str]) -> list[str]:
        """Of `models`, those this caller may choose now. One whose cooldown just ended goes to one caller alone, as a
        trial; the others leave it until it has answered."""
        now = self.now()
        avoided = await self._shelf.use(lambda book: book.probe(models, now, now + _PROBE_S))
        return [model for model in models if model not in avoided]

    # --- OpenRouter's own count ---------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Learn whose the key is and what is left, from OpenRouter: at first use, every ten minutes, after a free-tier
        429, and when few are left."""
        if not await self._is_due():
            return
        async with self._one_reader:
            if await self._is_due():
                await self._read_count()

    async def _is_due(self) -> bool:
        age = self.now() - self._read_at
        if self._must_read or not 0.0 <= age < _COUNT_AGE_S:
            return True
        if age < _LAG_S:
            return False
        left = (await self._shelf.use(lambda book: book.use(self._key, self.now()))).left
        return left is not None and left <= _FEW

    async def _read_count(self) -> None:
        self._must_read = False
        # An allowance that cannot be read is unknown; the minute's limit holds without it.
        with anyio.move_on_after(_LONGEST_READ_S), suppress(OpenRouterMCPError):
            await self.read_key()
        self._read_at = self.now()  # not before: who comes meanwhile waits for the answer too

    async def read_key(self) -> KeyInfo:
        """Ask OpenRouter about the key, and note whose it is and what is left.

        Raises:
            OpenRouterMCPError: when it does not say.
        """
        info = await self._read_key()
        now = self.now()
        self._read_at = now
        if info.creator_user_id and self._user != info.creator_user_id:
            user = _hash(info.creator_user_id)
            await self._shelf.note(lambda book: book.name(self._key, user))
            self._user = info.creator_user_id
        if free := info.free_model_daily_requests:
            used, limit = free.used, free.limit

            def note_count(book: Book) -> None:
                if day_of(self.now()) == day_of(now):  # it may be written down late, and is nothing to another day
                    book.note_count(self._key, used, limit, now)

            await self._shelf.note(note_count)
        return info

    async def try_read_key(self) -> tuple[KeyInfo, str]:
        """What OpenRouter says about the key, and why it does not.

        Raises:
            NoKey, BadKey: when there is nothing to ask about.
        """
        try:
            return await self.read_key(), ""
        except (NoKey, BadKey):
            raise
        except OpenRouterMCPError as failure:
            return KeyInfo(), f"{failure.code}: {failure.text}"


def _reason(failure: OpenRouterMCPError) -> str:
    """Which failure, in words that hold nothing of the request."""
    return "its provider is overrun" if isinstance(failure, ModelBusy) else failure.outcome.value


def _hash(name: str) -> str:
    """What stands for a key or a user in the book."""
    return hashlib.sha256(f"openrouter-mcp {name}".encode()).hexdigest()[:32]
