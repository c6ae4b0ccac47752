"""An SQLite file that many processes share. Blocking.

A rollback journal, not WAL: SQLite up to 3.51.2 can corrupt a WAL that two processes write
(https://sqlite.org/wal.html#walresetbug).
"""

import sqlite3
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from openrouter_mcp.errors import UnusableBook

_BUSY_S = 10.0


class File:
    """The file at `path`, or ":memory:" for this process alone; `upgrade` brings what an older version than `version`
    wrote up to date, or an empty file. A sibling may hold it for `busy_s` seconds before it counts as unusable."""

    def __init__(
        self,
        path: Path | str,
        *,
        version: int,
        upgrade: Callable[[sqlite3.Connection, int], None],
        busy_s: float = _BUSY_S,
    ) -> None:
        self.db = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
        with ExitStack() as unless_prepared:
            unless_prepared.callback(self.db.close)
            self._prepare(version, upgrade)
            unless_prepared.pop_all()

    def _prepare(self, version: int, upgrade: Callable[[sqlite3.Connection, int], None]) -> None:
        found = self._version()
        if found > version:
            raise UnusableBook("it was written by a newer version of openrouter-mcp")
        self.db.execute("PRAGMA journal_mode=TRUNCATE")
        # What is committed survives the end of any process. After a power cut a count of two days may be lost or the
        # book broken; then it is set aside. Waiting for the disk would cost each free request some milliseconds.
        self.db.execute("PRAGMA synchronous=OFF")
        if found < version:
            with self.transaction() as db:
                found = self._version()
                if found < version:  # else a sibling was quicker
                    upgrade(db, found)
                    db.execute(f"PRAGMA user_version={version}")

    def _version(self) -> int:
        return int(self.db.execute("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Generator[sqlite3.Connection]:
        """One transaction, rolled back by whatever raises; within another, a part of it. A `durable` one survives a
        power cut, which costs some milliseconds: promises about money are worth them."""
        if self.db.in_transaction:
            yield self.db
            return
        if durable:
            self.db.execute("PRAGMA synchronous=FULL")
        try:
            with self.db:
                self.db.execute("BEGIN IMMEDIATE")
                yield self.db
        finally:
            if durable:
                self.db.execute("PRAGMA synchronous=OFF")
