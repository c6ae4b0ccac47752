"""The free allowance, planned: who may send when, across every process of the account.

The facts behind the numbers: https://openrouter.ai/docs/api-reference/limits. OpenRouter counts the account, not the
key, and failed requests like good ones.
"""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread

from openrouter_mcp.errors import DailyQuota, MinuteQuota, ModelBusy, OpenRouterMCPError, Outcome, UnusableBook
from openrouter_mcp.ledger.place import private_file
from openrouter_mcp.ledger.slots import Refusal, Slot, next_midnight
from openrouter_mcp.ledger.sqlite import Book
from openrouter_mcp.ledger.standing import Standing
from openrouter_mcp.wire import KeyInfo

PER_MINUTE = 20
WINDOW_S = 61.0  # a second more than OpenRouter's, for the ways of different length
ALONE_PER_MINUTE = 5  # without a usable book nobody knows what the others send
_BOOK = "ledger.db"
_COUNT_AGE_S = 600.0
_LONGEST_READ_S = 5.0  # a call waits no longer to learn what is left
_LAG_S = 60.0  # OpenRouter's own count may be this late
_FEW = 5
_LONGEST_MINUTE_STOP_S = 90.0
# After a failure a model is left alone for so long, doubled for each further one in a row.
_COOL_S = {Outcome.POOL_LIMIT: 30.0, Outcome.FAILED: 15.0, Outcome.LOST: 15.0, Outcome.EMPTY: 15.0}
_LONGEST_COOL_S = 600.0
_PROBE_S = 30.0

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Ledger:
    """The books of the account that `key` belongs to, in `folder`; without a folder, of this process alone.

    `read_key` asks OpenRouter about the key; `clock` gives epoch seconds; `limit` requests in any `window` seconds.
    """

    def __init__(
        self,
        key: str,
        folder: Path | None,
        read_key: Callable[[], Awaitable[KeyInfo]],
        *,
        limit: int = PER_MINUTE,
        window: float = WINDOW_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = _hash(key)
        self._user = ""
        self._inode = 0
        self._folder = folder
        self._read_key = read_key
        self._limit = limit
        self._window = window
        self._clock = clock
        self._book: Book | None = None
        self._warning = ""
        self._read_at = float("-inf")
        self._must_read = False
        self._one_thread = anyio.CapacityLimiter(1)
        self._one_reader = anyio.Lock()

    async def aclose(self) -> None:
        """Close the book."""
        if self._book is not None:
            await anyio.to_thread.run_sync(self._book.close, limiter=self._one_thread)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def reserve(self, count: int = 1, *, longest_wait: float, spare: int = 0) -> list[Slot]:
        """`count` slots, each at most `longest_wait` seconds away, or none. The caller waits for `slot.at`, and gives
        back what it does not send. `spare` of a minute's requests are left to others.

        Raises:
            MinuteQuota, DailyQuota: at once, with the seconds, when they would come too late.
        """
        started = self._clock()
        await self._read_count_if_due()

        def reserve(book: Book) -> list[Slot] | Refusal:
            now = self._clock()  # not before the book is ours: others may have kept it for a while
            return book.reserve(self._key, count, now, longest_wait - max(0.0, now - started), spare)

        granted = await self._in_book(reserve)
        if isinstance(granted, Refusal):
            refused = _too_late(granted, count)
            refused.allowance = str(await self.standing())
            raise refused
        return granted

    async def give_back(self, slots: Sequence[Slot]) -> None:
        """What was never sent does not count; done even for a caller that is being cancelled."""
        with anyio.CancelScope(shield=True):
            mine = [slot for slot in slots if slot.book is self._book]
            if mine:
                await self._in_book(Book.give_back, mine)

    def wait_for(self, slot: Slot) -> float:
        """Seconds until `slot` may be used; no more than when it was granted, whatever the clock did since."""
        return min(slot.wait, max(0.0, slot.at - self._clock()))

    async def standing(self) -> Standing:
        """What is used and left, without asking OpenRouter."""
        return await self._in_book(self._look)

    def _look(self, book: Book) -> Standing:
        now = self._clock()
        use, cooldowns = book.use(self._key, now), book.cooldowns()
        return Standing(
            use=use,
            per_minute=ALONE_PER_MINUTE if self._warning else self._limit,
            now=now,
            cooldowns={model: cooldown for model, cooldown in cooldowns.items() if cooldown.until > now},
            warning=self._warning,
        )

    # --- what a request taught us -------------------------------------------------------------------------------------

    async def failed(self, model: str, failure: OpenRouterMCPError) -> None:
        """Note for everybody what `failure` says about the account or about `model`."""
        now = self._clock()
        if isinstance(failure, DailyQuota):
            self._must_read = True
            await self._in_book(Book.stop, self._key, next_midnight(now), daily=True)
        elif isinstance(failure, MinuteQuota):
            self._must_read = True
            pause = self._window if failure.hint_s is None else failure.hint_s
            await self._in_book(Book.stop, self._key, now + min(pause, _LONGEST_MINUTE_STOP_S), daily=False)
        elif failure.outcome in _COOL_S:
            before = (await self._in_book(Book.cooldowns)).get(model)
            pause = max(failure.hint_s or 0.0, _COOL_S[failure.outcome] * 2.0 ** (before.failures if before else 0))
            until = now + min(pause, _LONGEST_COOL_S)
            await self._in_book(Book.cool, model, until, _reason(failure))

    async def answered(self, model: str) -> Standing:
        """`model` works; and what is left now."""

        def recover_and_look(book: Book) -> Standing:
            book.recover(model)
            return self._look(book)

        return await self._in_book(recover_and_look)

    async def claim(self, models: Sequence[str]) -> list[str]:
        """Of `models`, those this caller may choose now. One whose cooldown just ended goes to one caller alone, as a
        trial; the others leave it until it has answered."""
        now = self._clock()
        avoided = await self._in_book(Book.probe, models, now, now + _PROBE_S)
        return [model for model in models if model not in avoided]

    # --- OpenRouter's own count ---------------------------------------------------------------------------------------

    async def _read_count_if_due(self) -> None:
        """Ask at first use, every ten minutes, after a free-tier 429, and when few are left."""
        if not await self._is_due():
            return
        async with self._one_reader:
            if await self._is_due():
                await self._read_count()

    async def _is_due(self) -> bool:
        age = self._clock() - self._read_at
        if self._must_read or not 0.0 <= age < _COUNT_AGE_S:
            return True
        if age < _LAG_S:
            return False
        left = (await self._in_book(Book.use, self._key, self._clock())).left
        return left is not None and left <= _FEW

    async def _read_count(self) -> None:
        self._read_at, self._must_read = self._clock(), False
        # An allowance that cannot be read is unknown; the minute's limit holds without it.
        with anyio.move_on_after(_LONGEST_READ_S), suppress(OpenRouterMCPError):
            await self.read_key()

    async def read_key(self) -> KeyInfo:
        """Ask OpenRouter about the key, and note whose it is and what is left.

        Raises:
            OpenRouterMCPError: when it does not say.
        """
        info = await self._read_key()
        now = self._clock()
        self._read_at = now
        if info.creator_user_id and self._user != info.creator_user_id:
            await self._in_book(Book.name, self._key, _hash(info.creator_user_id))
            self._user = info.creator_user_id
        if free := info.free_model_daily_requests:
            await self._in_book(Book.note_count, self._key, free.used, free.limit, now)
        return info

    # --- the book, off the loop ---------------------------------------------------------------------------------------

    async def _in_book(self, method: Callable[Concatenate[Book, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of the book's transactions in the one thread that has it; on this process's own book if the shared
        one cannot be used."""

        def run() -> T:
            if self._book is None:
                self._book = self._open()
            try:
                return method(self._book, *args, **kwargs)
            except (sqlite3.Error, OSError) as error:
                if self._warning:
                    raise  # this process's own book fails only for a fault of ours
                self._book.close()
                self._book = self._alone(error)
                return method(self._book, *args, **kwargs)

        return await anyio.to_thread.run_sync(run, limiter=self._one_thread)

    def _open(self) -> Book:
        if self._folder is None:
            return Book(":memory:", limit=self._limit, window=self._window)
        try:
            path = private_file(self._folder, _BOOK)
            self._inode = path.stat().st_ino
            return Book(path, limit=self._limit, window=self._window)
        except (sqlite3.Error, OSError, UnusableBook) as error:
            return self._alone(error)

    def _alone(self, error: Exception) -> Book:
        """A book for this process only, after a warning; a broken one is set aside first."""
        reason = error.text if isinstance(error, UnusableBook) else f"{type(error).__name__}: {error}"
        if self._folder and getattr(error, "sqlite_errorname", "") in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
            broken, aside = self._folder / _BOOK, self._folder / f"{_BOOK}.broken-{int(self._clock())}"
            with suppress(OSError):
                if broken.stat().st_ino == self._inode:  # else a sibling did so, and what lies there is new
                    broken.replace(aside)
                    reason += f"; it was set aside as {aside.name}"
        self._warning = (
            f"The shared book of requests in {self._folder} cannot be used ({reason}). Until this server is restarted "
            f"it sends at most {ALONE_PER_MINUTE} free requests a minute and does not know what others send."
        )
        logger.warning("%s", self._warning)
        return Book(":memory:", limit=ALONE_PER_MINUTE, window=WINDOW_S)


def _too_late(refusal: Refusal, count: int) -> OpenRouterMCPError:
    if refusal.daily and refusal.left:
        return DailyQuota(
            f"This needs {count} free requests and {refusal.left} are left today: nothing was sent. Ask for less."
        )
    if refusal.daily:
        return DailyQuota(
            "The account's free requests of this day are used up, so nothing was sent.", hint_s=refusal.seconds
        )
    needs = (
        "The minute's free requests are taken" if count == 1 else f"The minute has no room for {count} free requests"
    )
    return MinuteQuota(f"{needs}, so nothing was sent.", hint_s=refusal.seconds)


def _reason(failure: OpenRouterMCPError) -> str:
    """Which failure, in words that hold nothing of the request."""
    return "its provider is overrun" if isinstance(failure, ModelBusy) else failure.outcome.value


def _hash(name: str) -> str:
    """What stands for a key or a user in the book."""
    return hashlib.sha256(f"openrouter-mcp {name}".encode()).hexdigest()[:32]
