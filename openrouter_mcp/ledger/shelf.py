"""Where the book is kept: off the event loop; where the shared one cannot be used, a book of this process alone.

A broken file is given up until the server is restarted. An engine that is away is tried again: what was to be written
down meanwhile is written when it is back.
"""

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from openrouter_mcp.errors import EngineAway, UnusableBook
from openrouter_mcp.ledger.book import Book, Charge
from openrouter_mcp.ledger.place import private_file
from openrouter_mcp.ledger.slots import Slot
from openrouter_mcp.ledger.sqlite.book import BROKEN, SQLiteBook
from openrouter_mcp.refusals import BooksAway
from openrouter_mcp.text import time_of_day

if TYPE_CHECKING:
    from openrouter_mcp.engine import Engine  # whose library few have

ALONE_PER_MINUTE = 5  # without a usable book nobody knows what the others send
_ALONE_WINDOW_S = 61.0
_BOOK = "ledger.db"

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Shelf:
    """The book in the folder or on the engine at `place`; without one, of this process alone. `clock` gives epoch
    seconds."""

    def __init__(self, place: "Path | Engine | None", *, limit: int, window: float, clock: Callable[[], float]) -> None:
        self._folder = place if isinstance(place, Path) else None
        self._engine = None if isinstance(place, Path) else place
        self._goes_on_alone = self._engine is not None and self._engine.is_spared
        self._limit = limit
        self._window = window
        self._clock = clock
        self.broken = ""  # why the shared file was given up
        self._shared: Book | None = None
        self._alone: Book | None = None
        self._inode = 0
        self._later = deque[Callable[[Book], object]]()
        self._asked_for: dict[str, list[Any]] = {}
        self._one_thread = anyio.CapacityLimiter(1)
        self._one_at_a_time = threading.Lock()  # which anyio's limiter may not keep, up to 4.10

    def now(self) -> float:
        """Epoch seconds by the clock that the book goes by."""
        return self._engine.now() if self._engine else self._clock()

    @property
    def is_away(self) -> bool:
        """Whether the engine cannot be used now."""
        return bool(self._engine and self._engine.away)

    @property
    def warning(self) -> str:
        """Why the shared book cannot be used; empty when it can."""
        if self._engine and self._engine.away:
            alone = f"at most {ALONE_PER_MINUTE} free requests a minute are sent, and nothing that costs"
            sent = alone if self._goes_on_alone else "nothing is sent"
            return (
                f"The shared books cannot be used since {time_of_day(self._engine.away_since)} ({self._engine.away}). "
                f"Until they are back {sent}. They are tried again every second."
            )
        return self.broken

    @property
    def per_minute(self) -> int:
        """How many requests the book allows in its window."""
        return ALONE_PER_MINUTE if self.warning else self._limit

    def holds(self, entry: Slot | Charge) -> bool:
        """Whether `entry` is in a book of ours, not in one that was given up."""
        return entry.book in (self._shared, self._alone)

    def is_shared(self, book: Book) -> bool:
        """Whether others have `book` too, as far as it is for many."""
        return book is not self._alone

    async def aclose(self) -> None:
        """Write what is to be written, and close the book, and the engine behind it."""
        await self.mend()

        def close() -> None:
            for book in (self._shared, self._alone):
                if book is not None:
                    book.close()
            if self._engine is not None:
                self._engine.close()

        await self._in_the_thread(close)

    async def use(self, method: Callable[[Book], T]) -> T:
        """One of the book's transactions, in the one thread that has it; on this process's own book if the shared one
        cannot be used."""

        def use() -> T:
            with suppress(EngineAway):
                return self._on_shared(method)
            return method(self._stand_in())

        return await self._in_the_thread(use)

    async def need(self, method: Callable[[Book], T], *, money: bool = False) -> T:
        """As `use`, for what nobody may do without the others knowing.

        Raises:
            BooksAway: when the engine is away, and this process does not go on alone; with `money` it never does.
        """

        def need() -> T:
            try:
                return self._on_shared(method)
            except EngineAway as error:
                if self._goes_on_alone and not money:
                    return method(self._stand_in())
                since = self._engine.away_since if self._engine and self._engine.away else self.now()
                raise BooksAway(error.text, time_of_day(since)) from error

        return await self._in_the_thread(need)

    async def note(self, method: Callable[[Book], object], entry: Slot | Charge | None = None) -> None:
        """As `use`, for what is to be written down: while the engine is away, when it is back. What concerns an `entry`
        of a book that was given up is not."""

        def note() -> None:
            if entry is not None and entry.book is not self._shared:
                if entry.book is self._alone is not None:
                    method(self._alone)
                return
            try:
                self._on_shared(method)
            except EngineAway:
                self._later.append(method)
                if entry is None:
                    method(self._stand_in())

        await self._in_the_thread(note)

    async def read(self, what: str, method: Callable[[Book], T]) -> T:
        """As `use`, for what only reads: all who ask for `what` before it has begun get the same answer."""
        answer: list[T] = self._asked_for.setdefault(what, [])

        def read(book: Book) -> T:
            if not answer:
                self._asked_for.pop(what, None)  # first: whoever asks from now on, asks anew
                answer.append(method(book))
            return answer[0]

        return await self.use(read)

    async def mend(self) -> None:
        """Write down what was to be while the engine was away, if it is back."""

        def mend() -> None:
            with suppress(EngineAway):
                self._on_shared(lambda _: None)

        if self._later and self._engine and not self._engine.away:
            await self._in_the_thread(mend)

    # --- the books ----------------------------------------------------------------------------------------------------

    async def _in_the_thread(self, work: Callable[[], T]) -> T:
        def alone() -> T:
            with self._one_at_a_time:
                return work()

        return await anyio.to_thread.run_sync(alone, limiter=self._one_thread)

    def _on_shared(self, method: Callable[[Book], T]) -> T:
        """On the shared book, once it has what was to be written before; on this process's own once a file is given
        up."""
        if self.broken:
            return method(self._stand_in())
        try:
            if self._shared is None:
                self._shared = self._open()
            while self._later:  # else it could say that nothing stands in the way of what costs
                self._later[0](self._shared)
                self._later.popleft()
            return method(self._shared)
        except EngineAway:
            raise
        except (sqlite3.Error, OSError, UnusableBook) as error:
            if self._folder is None:
                raise  # this process's own book fails only for a fault of ours
            if self._shared is not None:
                self._shared.close()
                self._shared = None
            self._give_up(error)
            return method(self._stand_in())

    def _stand_in(self) -> Book:
        if self._alone is None:
            self._alone = SQLiteBook(":memory:", limit=ALONE_PER_MINUTE, window=_ALONE_WINDOW_S, ticks=self._clock)
        return self._alone

    def _open(self) -> Book:
        if self._engine is not None:
            from openrouter_mcp.ledger.redis.book import RedisBook  # an extra, which few have

            return RedisBook(self._engine, limit=self._limit, window=self._window)
        if self._folder is None:
            return SQLiteBook(":memory:", limit=self._limit, window=self._window, ticks=self._clock)
        path = private_file(self._folder, _BOOK)
        self._inode = path.stat().st_ino
        return SQLiteBook(path, limit=self._limit, window=self._window, ticks=self._clock)

    def _give_up(self, error: Exception) -> None:
        """After a warning; a broken file is set aside first."""
        reason = error.text if isinstance(error, UnusableBook) else f"{type(error).__name__}: {error}"
        if self._folder and getattr(error, "sqlite_errorname", "") in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
            broken, aside = self._folder / _BOOK, self._folder / f"{_BOOK}{BROKEN}{int(self._clock())}"
            with suppress(OSError):
                if broken.stat().st_ino == self._inode:  # else a sibling did so, and what lies there is new
                    broken.replace(aside)
                    reason += f"; it was set aside as {aside.name}"
        self.broken = (
            f"The shared book of requests in {self._folder} cannot be used ({reason}). Until this server is restarted "
            f"it sends at most {ALONE_PER_MINUTE} free requests a minute and does not know what others send."
        )
        logger.warning("%s", self.broken)
