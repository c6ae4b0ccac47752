"""Where the book is kept: off the event loop; where the shared one cannot be used, a book of this process alone."""

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread

from openrouter_mcp.errors import UnusableBook
from openrouter_mcp.ledger.money import Charge
from openrouter_mcp.ledger.place import private_file
from openrouter_mcp.ledger.slots import Slot
from openrouter_mcp.ledger.sqlite import Book

ALONE_PER_MINUTE = 5  # without a usable book nobody knows what the others send
_ALONE_WINDOW_S = 61.0
_BOOK = "ledger.db"
_BROKEN, _SEEN = ".broken-", ".acknowledged-"

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Shelf:
    """The book in `folder`, or without one of this process alone. `warning` says why the shared one cannot be used."""

    def __init__(self, folder: Path | None, *, limit: int, window: float, clock: Callable[[], float]) -> None:
        self.warning = ""
        self._folder = folder
        self._limit = limit
        self._window = window
        self._clock = clock
        self._book: Book | None = None
        self._inode = 0
        self._asked_for: dict[str, list[Any]] = {}
        self._one_thread = anyio.CapacityLimiter(1)
        self._one_at_a_time = threading.Lock()  # which anyio's limiter may not keep, up to 4.10

    @property
    def per_minute(self) -> int:
        """How many requests the book allows in its window."""
        return ALONE_PER_MINUTE if self.warning else self._limit

    def holds(self, entry: Slot | Charge) -> bool:
        """Whether `entry` is in this book, not in one that was given up."""
        return entry.book is self._book

    @property
    def set_aside(self) -> list[Path]:
        """Broken books that nobody has acknowledged: what they said was spent is not known."""
        return list(self._folder.glob(f"{_BOOK}{_BROKEN}*")) if self._folder else []

    def forget_set_aside(self, seen: Sequence[Path]) -> None:
        """A person has `seen` that these books broke; the files stay, under another name."""
        for broken in seen:
            broken.replace(broken.with_name(broken.name.replace(_BROKEN, _SEEN)))

    async def aclose(self) -> None:
        """Close the book."""

        def close() -> None:
            with self._one_at_a_time:
                if self._book is not None:
                    self._book.close()

        await anyio.to_thread.run_sync(close, limiter=self._one_thread)

    async def use(self, method: Callable[Concatenate[Book, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of the book's transactions in the one thread that has it; on this process's own book if the shared
        one cannot be used."""

        def run() -> T:
            if self._book is None:
                self._book = self._open()
            try:
                return method(self._book, *args, **kwargs)
            except (sqlite3.Error, OSError) as error:
                if self.warning:
                    raise  # this process's own book fails only for a fault of ours
                self._book.close()
                self._book = self._alone(error)
                return method(self._book, *args, **kwargs)

        def alone() -> T:
            with self._one_at_a_time:
                return run()

        return await anyio.to_thread.run_sync(alone, limiter=self._one_thread)

    async def read(self, what: str, method: Callable[[Book], T]) -> T:
        """As `use`, for what only reads: all who ask for `what` before it has begun get the same answer."""
        answer: list[T] = self._asked_for.setdefault(what, [])

        def read(book: Book) -> T:
            if not answer:
                self._asked_for.pop(what, None)  # first: whoever asks from now on, asks anew
                answer.append(method(book))
            return answer[0]

        return await self.use(read)

    def _open(self) -> Book:
        if self._folder is None:
            return Book(":memory:", limit=self._limit, window=self._window, ticks=self._clock)
        try:
            path = private_file(self._folder, _BOOK)
            self._inode = path.stat().st_ino
            return Book(path, limit=self._limit, window=self._window, ticks=self._clock)
        except (sqlite3.Error, OSError, UnusableBook) as error:
            return self._alone(error)

    def _alone(self, error: Exception) -> Book:
        """A book for this process only, after a warning; a broken one is set aside first."""
        reason = error.text if isinstance(error, UnusableBook) else f"{type(error).__name__}: {error}"
        if self._folder and getattr(error, "sqlite_errorname", "") in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
            broken, aside = self._folder / _BOOK, self._folder / f"{_BOOK}{_BROKEN}{int(self._clock())}"
            with suppress(OSError):
                if broken.stat().st_ino == self._inode:  # else a sibling did so, and what lies there is new
                    broken.replace(aside)
                    reason += f"; it was set aside as {aside.name}"
        self.warning = (
            f"The shared book of requests in {self._folder} cannot be used ({reason}). Until this server is restarted "
            f"it sends at most {ALONE_PER_MINUTE} free requests a minute and does not know what others send."
        )
        logger.warning("%s", self.warning)
        return Book(":memory:", limit=ALONE_PER_MINUTE, window=_ALONE_WINDOW_S, ticks=self._clock)
