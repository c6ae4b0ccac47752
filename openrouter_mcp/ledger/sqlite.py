"""The book as an SQLite file that many processes share: each method is one transaction. Blocking; call it off the loop.

A rollback journal, not WAL: SQLite up to 3.51.2 can corrupt a WAL that two processes write
(https://sqlite.org/wal.html#walresetbug). Nothing here names a prompt, a key or an account: only hashes.
"""

import sqlite3
from bisect import insort
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from openrouter_mcp.errors import UnusableBook
from openrouter_mcp.ledger.slots import DAY_S, Refusal, Slot, day_of, earliest, next_midnight

VERSION = 1
BUSY_S = 10.0  # how long a sibling may hold the book before it counts as unusable
_LONGEST_WAIT_S = 600.0  # nobody reserves further ahead, so what lies there is a clock that was set back
_KEPT_DAYS = 2
_NOW_S = 1e-3  # so that what is taken this very moment counts as taken
_SCHEMA = """
CREATE TABLE IF NOT EXISTS slots (id INTEGER PRIMARY KEY, account TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS slots_by_time ON slots (account, at);
CREATE TABLE IF NOT EXISTS accounts (
    account TEXT PRIMARY KEY, day INTEGER, day_limit INTEGER, elsewhere INTEGER NOT NULL DEFAULT 0, not_before REAL
);
CREATE TABLE IF NOT EXISTS names (key TEXT PRIMARY KEY, account TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cooldowns (
    model TEXT PRIMARY KEY, until REAL NOT NULL, reason TEXT NOT NULL, failures INTEGER NOT NULL
);
"""


@dataclass(frozen=True)
class Use:
    """What is used: `minute` in the window that ends now, `today` of `day_limit` (None: OpenRouter did not say),
    `elsewhere` of these not through this book. `stopped_until` is when a limit that OpenRouter met us with ends.
    `left` are the free requests left today, None when nobody knows."""

    minute: int
    today: int
    elsewhere: int
    day_limit: int | None
    stopped_until: float
    left: int | None


@dataclass(frozen=True)
class Cooldown:
    """A model better left alone until a moment, why, and after how many failures in a row."""

    until: float
    reason: str
    failures: int


class Book:
    """`path` is the file, or ":memory:" for this process alone; `limit` requests in any `window` seconds."""

    def __init__(self, path: Path | str, *, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        with ExitStack() as unless_prepared:
            unless_prepared.callback(self._db.close)
            self._prepare()
            unless_prepared.pop_all()

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise UnusableBook("the book was written by a newer version of openrouter-mcp")
        self._db.execute("PRAGMA journal_mode=TRUNCATE")
        self._db.execute("PRAGMA synchronous=NORMAL")
        if version < VERSION:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._db:  # commits, or rolls back what raised
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db

    # --- requests -----------------------------------------------------------------------------------------------------

    def reserve(self, account: str, count: int, now: float, longest_wait: float, spare: int) -> list[Slot] | Refusal:
        """`count` slots at once or none, each at most `longest_wait` seconds away; `spare` of the window's requests
        are left to others."""
        with self._transaction() as db:
            self._tidy(db, account, now)
            use = self._use(db, account, now)
            taken = [at for (at,) in db.execute(_TAKEN, (account, now - self._window))]
            slots: list[Slot] = []
            for _ in range(count):
                at = self._next(db, account, taken, max(now, use.stopped_until), max(1, self._limit - spare))
                if at - now > longest_wait:
                    db.executemany("DELETE FROM slots WHERE id = ?", [(slot.id,) for slot in slots])
                    return Refusal(at - now, daily=day_of(at) > day_of(now), left=use.left)
                added = db.execute("INSERT INTO slots (account, at) VALUES (?, ?)", (account, at))
                slots.append(Slot(added.lastrowid or 0, at, self))
                insort(taken, at)
            return slots

    def give_back(self, slots: Iterable[Slot]) -> None:
        """What was never sent does not count."""
        with self._transaction() as db:
            db.executemany("DELETE FROM slots WHERE id = ?", [(slot.id,) for slot in slots])

    def use(self, account: str, now: float) -> Use:
        """What is used now."""
        return self._use(self._db, account, now)

    def _next(self, db: sqlite3.Connection, account: str, taken: list[float], start: float, limit: int) -> float:
        at = earliest(taken, start, self._window, limit)
        use = self._use(db, account, at)
        if use.left == 0:
            at = earliest(taken, next_midnight(at), self._window, limit)
        return at

    def _use(self, db: sqlite3.Connection, account: str, now: float) -> Use:
        day = day_of(now)
        row = db.execute("SELECT day, day_limit, elsewhere, not_before FROM accounts WHERE account = ?", (account,))
        read_day, day_limit, elsewhere, stopped_until = row.fetchone() or (day, None, 0, None)
        elsewhere, stopped_until = elsewhere if read_day == day else 0, stopped_until or 0.0
        today = elsewhere + _count(db, account, day * DAY_S, (day + 1) * DAY_S)
        left = None if day_limit is None else max(0, day_limit - today)
        if stopped_until >= next_midnight(now):
            left = 0
        minute = _count(db, account, now - self._window, now + _NOW_S)
        return Use(minute, today, elsewhere, day_limit, stopped_until, left)

    def _tidy(self, db: sqlite3.Connection, account: str, now: float) -> None:
        """Forget old days; and where the clock was set back, take what lies impossibly far ahead as of this moment."""
        db.execute("DELETE FROM slots WHERE at < ?", (now - _KEPT_DAYS * DAY_S,))
        db.execute("DELETE FROM cooldowns WHERE until < ? OR until > ?", (now - DAY_S, now + DAY_S))
        db.execute(
            "UPDATE slots SET at = ? WHERE account = ? AND at > ?", (now, account, now + self._window + _LONGEST_WAIT_S)
        )
        db.execute(
            "UPDATE accounts SET not_before = NULL WHERE account = ? AND not_before > ?",
            (account, next_midnight(now) + _LONGEST_WAIT_S),
        )

    # --- the account --------------------------------------------------------------------------------------------------

    def account_of(self, key: str) -> str:
        """The account that the hash of a key is known to belong to; that hash itself until it is."""
        row = self._db.execute("SELECT account FROM names WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else key

    def name(self, key: str, account: str) -> None:
        """From now on `key` belongs to `account`, and what was kept under the key's own hash goes with it."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO names (key, account) VALUES (?, ?)", (key, account))
            db.execute("UPDATE slots SET account = ? WHERE account = ?", (account, key))
            db.execute("UPDATE OR IGNORE accounts SET account = ? WHERE account = ?", (account, key))
            db.execute("DELETE FROM accounts WHERE account = ?", (key,))

    def note_count(self, account: str, used: int, limit: int, now: float) -> None:
        """OpenRouter's own count of today: what it exceeds ours by was used elsewhere; its lag never takes away."""
        with self._transaction() as db:
            sent = _count(db, account, day_of(now) * DAY_S, now + _NOW_S)
            db.execute(
                "INSERT INTO accounts (account, day, day_limit, elsewhere) VALUES (?, ?, ?, ?) ON CONFLICT (account) "
                "DO UPDATE SET day = excluded.day, day_limit = excluded.day_limit, elsewhere = excluded.elsewhere",
                (account, day_of(now), limit, max(0, used - sent)),
            )

    def stop(self, account: str, until: float) -> None:
        """OpenRouter met us with a limit: nobody sends before `until`."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO accounts (account, not_before) VALUES (?, ?) ON CONFLICT (account) "
                "DO UPDATE SET not_before = excluded.not_before",
                (account, until),
            )

    # --- models -------------------------------------------------------------------------------------------------------

    def cool(self, model: str, until: float, reason: str) -> None:
        """One more failure of `model`, to be left alone until then."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO cooldowns (model, until, reason, failures) VALUES (?, ?, ?, 1) ON CONFLICT (model) "
                "DO UPDATE SET until = excluded.until, reason = excluded.reason, failures = failures + 1",
                (model, until, reason),
            )

    def cooldowns(self) -> dict[str, Cooldown]:
        """Every model that failed when it was last asked."""
        rows = self._db.execute("SELECT model, until, reason, failures FROM cooldowns")
        return {model: Cooldown(until, reason, failures) for model, until, reason, failures in rows}

    def probe(self, models: Sequence[str], now: float, until: float) -> set[str]:
        """Of `models`, those to leave alone. A cooldown that is over is renewed to `until` by whoever comes first, who
        alone may try the model; its success ends the cooldown, its failure another."""
        with self._transaction() as db:
            rows = dict(db.execute("SELECT model, until FROM cooldowns").fetchall())
            avoided = {model for model in models if rows.get(model, 0.0) > now}
            tried = [(until, model) for model in models if model in rows and model not in avoided]
            db.executemany("UPDATE cooldowns SET until = ? WHERE model = ?", tried)
            return avoided

    def recover(self, model: str) -> None:
        """`model` answered."""
        if self._db.execute("SELECT 1 FROM cooldowns WHERE model = ?", (model,)).fetchone():
            with self._transaction() as db:
                db.execute("DELETE FROM cooldowns WHERE model = ?", (model,))


_TAKEN = "SELECT at FROM slots WHERE account = ? AND at > ? ORDER BY at"


def _count(db: sqlite3.Connection, account: str, start: float, end: float) -> int:
    """Requests from `start` on and before `end`."""
    row = db.execute("SELECT count(*) FROM slots WHERE account = ? AND at >= ? AND at < ?", (account, start, end))
    return int(row.fetchone()[0])
