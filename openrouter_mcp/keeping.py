"""Keeps answers: in an archive that lasts, and in memory where that is not wanted or cannot be written."""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from openrouter_mcp.archive.entry import KEPT_S, Archive, Entry
from openrouter_mcp.archive.redis import RedisArchive
from openrouter_mcp.archive.sqlite import SQLiteArchive
from openrouter_mcp.errors import UnusableBook
from openrouter_mcp.ledger.place import private_file
from openrouter_mcp.pages import Text
from openrouter_mcp.plans import Kept

if TYPE_CHECKING:  # its library is an extra
    from openrouter_mcp.engine import Engine

FILE = "answers.db"
_BROKEN = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_MOST_MISSED = 1000
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Keeping:
    """The answers in a folder or an engine, the `place`, or without one those of this process. `clock` gives epoch
    seconds."""

    def __init__(self, place: "Path | Engine | None", *, clock: Callable[[], float] = time.time) -> None:
        self._place = place
        self._clock = clock
        self._lasting: Archive | None = None
        self._inode = 0
        self._memory: SQLiteArchive | None = None
        self._missed: deque[Callable[[Archive], object]] = deque(maxlen=_MOST_MISSED)
        self._one_thread = anyio.CapacityLimiter(1)
        self._one_at_a_time = threading.Lock()  # which anyio's limiter may not keep, up to 4.10

    @property
    def lasts(self) -> bool:
        """Whether another process finds what is kept."""
        return self._place is not None

    @property
    def away(self) -> str:
        """Why what other processes wrote cannot be read now; empty when it can, as far as is known."""
        return "" if self._place is None or isinstance(self._place, Path) else self._place.away

    @property
    def back_since(self) -> float:
        """Since when (epoch seconds) what other processes write can be read again; 0 if it always could."""
        return 0.0 if self._place is None or isinstance(self._place, Path) else self._place.back_since

    async def aclose(self) -> None:
        """Write what is to be written, if it can be now, and close what is open."""
        await self.mend()

        def close() -> None:
            for archive in (self._lasting, self._memory):
                if archive:
                    archive.close()

        await self._run(close)

    async def save(self, entry: Entry, text: Text) -> bool:
        """Write what is new of the answer. Whether somebody wants it stopped."""
        pages = list(text)

        def save() -> bool:
            if self._memory and self._place:  # there it is from when it could not be written, if it is
                self._memory.forget(entry.answer.id)
            if said := self._from_lasting(lambda archive: archive.save(entry, pages, text.size)):
                return said[0]
            return self._in_memory().save(entry, pages, text.size)

        return await self._run(save)

    async def tidy(self) -> None:
        """Forget what is too old, too many or too much."""
        await self.each(lambda archive: archive.tidy(self._clock()))

    async def find(self, id_: str, owners: Sequence[str], caller: str) -> Entry | None:
        """The answer of that id, if it is `caller`'s and the account's."""
        found = await self.each(lambda archive: archive.find(id_, owners, caller))
        return next((entry for entry in found if entry and self._is_fresh(entry)), None)

    async def same(self, question: str, owners: Sequence[str], caller: str, since: float) -> list[Entry]:
        """The caller's answers to the same `question` asked `since` then (epoch seconds)."""
        found = await self.each(lambda archive: archive.same(question, owners, caller, since))
        return [entry for entries in found for entry in entries]

    async def newest(self, owners: Sequence[str], caller: str, count: int) -> list[Entry]:
        """The caller's latest answers, newest first."""
        found = await self.each(lambda archive: archive.newest(owners, caller, count))
        newest = {entry.answer.id: entry for entries in reversed(found) for entry in entries if self._is_fresh(entry)}
        return sorted(newest.values(), key=lambda entry: -entry.at)[:count]

    async def pages(self, id_: str) -> int:
        """How many pages an answer has."""
        return max(await self.each(lambda archive: archive.pages(id_)), default=0)

    async def page(self, id_: str, number: int) -> str:
        """One page of an answer, counted from 1."""
        return next(filter(None, await self.each(lambda archive: archive.page(id_, number))), "")

    async def text(self, id_: str) -> str:
        """All of an answer."""
        return next(filter(None, await self.each(lambda archive: archive.text(id_))), "")

    async def stop(self, id_: str) -> None:
        """Ask the process that writes the answer to stop."""
        await self.tell(lambda archive: archive.stop(id_))

    async def put(self, method: Callable[[Archive], object]) -> None:
        """Write something new into the archive that lasts; where that cannot be, into the one in memory."""

        def put() -> None:
            if not self._from_lasting(method):
                method(self._in_memory())

        await self._run(put)

    async def tell(self, method: Callable[[Archive], object], kept: Kept | None = None) -> None:
        """Write about what one of the archives holds. What the one that lasts misses is for `mend`: it is said again,
        or else the batch that is `kept` so far lies in memory until then."""

        def tell() -> None:
            if self._place and not (self._say_again() and self._from_lasting(method)):
                if kept:
                    self._in_memory().save_plan(kept.plan)
                    self._in_memory().note(kept.plan.id, kept.rows)
                else:
                    self._missed.append(method)
            if self._memory:
                method(self._memory)

        await self._run(tell)

    async def each(self, method: Callable[[Archive], T]) -> list[T]:
        """What each archive says; the one in memory holds what could not be written, so it comes first."""

        def each() -> list[T]:
            said = [method(self._memory)] if self._memory else []
            return said + self._from_lasting(method)

        return await self._run(each)

    async def mend(self) -> None:
        """Move what could not be written where it belongs, as far as it can be now."""
        while await self._run(self._mend_one):
            pass  # in small steps, so that nobody waits for all of them

    # --- the archives -------------------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        def alone() -> T:
            with self._one_at_a_time:
                return work()

        return await anyio.to_thread.run_sync(alone, limiter=self._one_thread)

    def _mend_one(self) -> bool:
        """Move an answer or a batch, or say again what was missed; whether that went well and there may be more."""
        if self._memory and self._place:
            moved = self._from_lasting(self._memory.hand_over)
            if moved == [False]:
                self._memory.close()
                self._memory = None
            return bool(moved)
        return bool(self._missed) and self._say_again()

    def _say_again(self) -> bool:
        """What the archive that lasts missed, before anything later; whether that is all of it."""
        while self._missed and self._from_lasting(self._missed[0]):
            self._missed.popleft()
        return not self._missed

    def _in_memory(self) -> SQLiteArchive:
        if self._memory is None:
            self._memory = SQLiteArchive(":memory:")
            if self._place:
                where = self._place if isinstance(self._place, Path) else self._place.name
                logger.warning("The answers in %s cannot be written; they are kept in memory for now.", where)
        return self._memory

    def _from_lasting(self, method: Callable[[Archive], T]) -> list[T]:
        """What the archive that lasts says; nothing when there is none that can be used. A broken file is set aside."""
        if self._place is None:
            return []
        with suppress(sqlite3.Error, OSError, UnusableBook):
            try:
                return [method(self._opened(self._place))]
            except sqlite3.Error as error:
                if not getattr(error, "sqlite_errorname", "").startswith(_BROKEN) or not isinstance(self._place, Path):
                    raise
                if self._lasting:
                    self._lasting.close()
                    self._lasting = None
                path = self._place / FILE
                if path.stat().st_ino == self._inode:  # else a sibling did so, and what lies there is new
                    path.replace(path.with_name(f"{FILE}.broken-{int(self._clock())}"))
                return [method(self._opened(self._place))]
        return []

    def _opened(self, place: "Path | Engine") -> Archive:
        if self._lasting is None:
            self._lasting = self._in_file(place) if isinstance(place, Path) else RedisArchive(place)
        return self._lasting

    def _in_file(self, folder: Path) -> SQLiteArchive:
        path = private_file(folder, FILE)
        self._inode = path.stat().st_ino
        return SQLiteArchive(path)

    def _is_fresh(self, entry: Entry) -> bool:
        return self._clock() - entry.at < KEPT_S
