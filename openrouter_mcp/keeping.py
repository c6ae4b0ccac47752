"""Keeps answers: in the archive on disk, and in memory where that is not wanted or cannot be written."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from openrouter_mcp.archive import KEPT_S, Archive, Entry
from openrouter_mcp.errors import UnusableBook
from openrouter_mcp.ledger.place import private_file
from openrouter_mcp.pages import Text

FILE = "answers.db"
_BROKEN = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Keeping:
    """The answers in `folder`, or without one those of this process. `clock` gives epoch seconds."""

    def __init__(self, folder: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._disk: Archive | None = None
        self._inode = 0
        self._memory: Archive | None = None
        self._one_thread = anyio.CapacityLimiter(1)
        self._one_at_a_time = threading.Lock()  # which anyio's limiter may not keep, up to 4.10

    @property
    def lasts(self) -> bool:
        """Whether another process finds what is kept."""
        return self._folder is not None

    async def aclose(self) -> None:
        """Close what is open."""

        def close() -> None:
            for archive in (self._disk, self._memory):
                if archive:
                    archive.close()

        await self._run(close)

    async def save(self, entry: Entry, text: Text) -> bool:
        """Write what is new of the answer. Whether somebody wants it stopped."""
        pages = list(text)

        def save() -> bool:
            if self._memory and self._folder:  # there it is from when it could not be written, if it is
                self._memory.forget(entry.answer.id)
            if said := self._from_disk(lambda disk: disk.save(entry, pages, text.size)):
                return said[0]
            if self._folder and not self._memory:
                logger.warning("The answers in %s cannot be written; they are kept in memory for now.", self._folder)
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
        await self.each(lambda archive: archive.stop(id_))

    async def put(self, method: Callable[[Archive], T]) -> None:
        """Write into the archive on disk; where that cannot be, into the one in memory."""

        def put() -> None:
            if not self._from_disk(method):
                method(self._in_memory())

        await self._run(put)

    async def each(self, method: Callable[[Archive], T]) -> list[T]:
        """What each archive says; the one in memory holds what could not be written, so it comes first."""

        def each() -> list[T]:
            said = [method(self._memory)] if self._memory else []
            return said + self._from_disk(method)

        return await self._run(each)

    # --- the archives -------------------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        def alone() -> T:
            with self._one_at_a_time:
                return work()

        return await anyio.to_thread.run_sync(alone, limiter=self._one_thread)

    def _in_memory(self) -> Archive:
        self._memory = self._memory or Archive(":memory:")
        return self._memory

    def _from_disk(self, method: Callable[[Archive], T]) -> list[T]:
        """What the archive on disk says; nothing when there is none that can be used. A broken file is set aside."""
        if self._folder is None:
            return []
        with suppress(sqlite3.Error, OSError, UnusableBook):
            try:
                return [method(self._on_disk(self._folder))]
            except sqlite3.Error as error:
                if not getattr(error, "sqlite_errorname", "").startswith(_BROKEN):
                    raise
                if self._disk:
                    self._disk.close()
                    self._disk = None
                path = self._folder / FILE
                if path.stat().st_ino == self._inode:  # else a sibling did so, and what lies there is new
                    path.replace(path.with_name(f"{FILE}.broken-{int(self._clock())}"))
                return [method(self._on_disk(self._folder))]
        return []

    def _on_disk(self, folder: Path) -> Archive:
        if self._disk is None:
            path = private_file(folder, FILE)
            self._inode = path.stat().st_ino
            self._disk = Archive(path)
        return self._disk

    def _is_fresh(self, entry: Entry) -> bool:
        return self._clock() - entry.at < KEPT_S
