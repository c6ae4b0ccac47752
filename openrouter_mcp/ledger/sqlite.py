"""The book as an SQLite file that many processes share: each method is one transaction. Blocking; call it off the loop.

A rollback journal, not WAL: SQLite up to 3.51.2 can corrupt a WAL that two processes write
(https://sqlite.org/wal.html#walresetbug). Nothing here names a prompt, a key or an account: only hashes.
"""

import sqlite3
import time
from bisect import insort
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.errors import UnusableBook
from openrouter_mcp.ledger import shares, sums
from openrouter_mcp.ledger.slots import DAY_S, NEW_DAY_S, Refusal, Slot, day_of, earliest, next_midnight
from openrouter_mcp.text import number

VERSION = 5
_FIRST_WITH_SUMS = 4
BUSY_S = 10.0  # how long a sibling may hold the book before it counts as unusable
_LONGEST_MINUTE_STOP_S = 90.0
_LONGEST_COOLDOWN_S = 600.0
_KEPT_DAYS = 2
_MOST = 10**9  # requests a day; more is a mistake, and SQLite's integers end somewhere
_CLOCK_TOLERANCE_S = 0.01
_NOW_S = 1e-3  # so that what is taken this very moment counts as taken
_SCHEMA = """
CREATE TABLE IF NOT EXISTS slots (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, at REAL NOT NULL, made REAL NOT NULL,
    caller TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS slots_by_time ON slots (account, at);
CREATE TABLE IF NOT EXISTS accounts (
    account TEXT PRIMARY KEY, day INTEGER, day_limit INTEGER, elsewhere INTEGER,
    minute_stop REAL NOT NULL DEFAULT 0, day_stop REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS names (key TEXT PRIMARY KEY, account TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cooldowns (
    model TEXT PRIMARY KEY, until REAL NOT NULL, reason TEXT NOT NULL, failures INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS charges (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, day INTEGER NOT NULL, model TEXT NOT NULL,
    amount TEXT NOT NULL, cost TEXT, generation TEXT NOT NULL DEFAULT '', ended REAL,
    inquiries INTEGER NOT NULL DEFAULT 0, caller TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS charges_by_day ON charges (account, day);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, account TEXT NOT NULL, day INTEGER NOT NULL, holder TEXT NOT NULL, until REAL NOT NULL,
    requests INTEGER NOT NULL, caller TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS promises (charge INTEGER PRIMARY KEY, batch TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS closures (at REAL NOT NULL, reason TEXT NOT NULL);
"""
_TAKEN = "SELECT CAST(at AS REAL) AS moment FROM slots WHERE account = ? AND at > ? ORDER BY moment"


@dataclass(frozen=True)
class Use:
    """What is used: `minute` in the window that ends now, `today` of `day_limit` (None: OpenRouter did not say),
    `elsewhere` of these not through this book. `stopped_until` is when the minute's limit ends that OpenRouter met us
    with, `day_stopped_until` the day's (0: none is in force). `left` are the free requests left today, None when nobody
    knows."""

    minute: int
    today: int
    elsewhere: int
    day_limit: int | None
    stopped_until: float
    day_stopped_until: float
    left: int | None


class Book:
    """`path` is the file, or ":memory:" for this process alone; `limit` requests in any `window` seconds. `ticks`
    counts the seconds that a sibling kept us waiting for the book."""

    def __init__(
        self, path: Path | str, *, limit: int, window: float, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._window = window
        self._ticks = ticks
        self.db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        with ExitStack() as unless_prepared:
            unless_prepared.callback(self.db.close)
            self._prepare()
            unless_prepared.pop_all()

    def _prepare(self) -> None:
        version = self.db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise UnusableBook("the book was written by a newer version of openrouter-mcp")
        self.db.execute("PRAGMA journal_mode=TRUNCATE")
        # What is committed survives the end of any process. After a power cut a count of two days may be lost or the
        # book broken; then it is set aside. Waiting for the disk would cost each free request some milliseconds.
        self.db.execute("PRAGMA synchronous=OFF")
        if version < VERSION:
            with self.transaction() as db:
                _upgrade(db)

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

    # --- requests -----------------------------------------------------------------------------------------------------

    def reserve(
        self, key: str, count: int, now: float, longest_wait: float, spare: int, *, caller: Caller = NOBODY
    ) -> list[Slot] | Refusal:
        """`count` slots at once or none, each at most `longest_wait` seconds away; `spare` of the window's requests
        are left to others. They are the `caller`'s, and no more than their share."""
        asked = self._ticks()
        with self.transaction() as db:
            waited = self._ticks() - asked
            now += waited if waited > _CLOCK_TOLERANCE_S else 0.0  # or the slot would be older than its request
            account = self.account(db, key)
            self._tidy(db, account, now)
            left = self._use(db, account, now).left
            if caller.may_ask_nothing:
                return Refusal(next_midnight(now) - now, daily=True, left=left, whose=caller)
            taken = [at for (at,) in db.execute(_TAKEN, (account, now - self._window))]
            limit, slots, late = max(1, self._limit - spare), list[Slot](), list[tuple[Caller, bool]]()
            for _ in range(count):
                at, why = self._next_for(db, account, caller, taken, now, limit=limit, longest_wait=longest_wait)
                late += [why] if why else []
                row = db.execute(
                    "INSERT INTO slots (account, at, made, caller) VALUES (?, ?, ?, ?)", (account, at, now, caller.name)
                )
                slots.append(Slot(row.lastrowid or 0, at, at - now, self))
                insort(taken, at)
            if late:
                _delete(db, slots)
                whose = late[0][0]
                daily = any(of_day for by, of_day in late if by == whose)
                return Refusal(slots[-1].wait, daily=daily, left=left, fits=count - len(late), whose=whose)
            return slots

    def give_back(self, slots: Iterable[Slot]) -> None:
        """What was never sent does not count."""
        with self.transaction() as db:
            _delete(db, slots)

    def use(self, key: str, now: float) -> Use:
        """What is used now."""
        return self._use(self.db, self.account(self.db, key), now)

    def _next_for(
        self,
        db: sqlite3.Connection,
        account: str,
        caller: Caller,
        taken: list[float],
        now: float,
        *,
        limit: int,
        longest_wait: float,
    ) -> tuple[float, tuple[Caller, bool] | None]:
        """The next moment with room for all together and in the caller's share; and, when that is too late, whose limit
        made it so (nobody's: the account's) and whether it is that of the day."""
        at, why = now, None
        while True:
            shared, of_day = self._next(db, account, taken, at, limit)
            own, of_own_day = shares.not_before(db, account, caller, shared, self._window)
            for moment, reason in ((shared, (NOBODY, of_day)), (own, (caller, of_own_day))):
                why = reason if why is None and moment - now > longest_wait else why
            if own == shared:
                return own, why
            at = own  # from then on, the limits of all together count again

    def _next(
        self, db: sqlite3.Connection, account: str, taken: list[float], now: float, limit: int
    ) -> tuple[float, bool]:
        """The next moment with room, and whether it is the day's count that put it off."""
        at = earliest(taken, max(now, self._use(db, account, now).stopped_until), self._window, limit)
        for put_off in (False, True):
            use = self._use(db, account, at)
            if use.left != 0:
                return at, put_off
            at = earliest(taken, use.day_stopped_until or next_midnight(at) + NEW_DAY_S, self._window, limit)
        return at, True

    def _use(self, db: sqlite3.Connection, account: str, now: float) -> Use:
        day = day_of(now)
        row = db.execute(
            "SELECT day, day_limit, elsewhere, minute_stop, day_stop FROM accounts WHERE account = ?", (account,)
        ).fetchone() or (day, None, 0, 0.0, 0.0)
        read_day, day_limit, elsewhere, minute_stop, day_stop = map(number, row)  # whatever the file holds
        elsewhere = elsewhere or 0 if read_day == day else 0
        today = int(elsewhere) + _count(db, account, day * DAY_S, (day + 1) * DAY_S)
        left = None if day_limit is None else max(0, int(day_limit) - today)
        return Use(
            minute=_count(db, account, now - self._window, now + _NOW_S),
            today=today,
            elsewhere=int(elsewhere),
            day_limit=None if day_limit is None else int(day_limit),
            stopped_until=minute_stop or 0.0,
            day_stopped_until=day_stop if day_stop and day_stop > now else 0.0,
            left=0 if (day_stop or 0.0) > now else left,
        )

    def _tidy(self, db: sqlite3.Connection, account: str, now: float) -> None:
        """Forget old days; and where the clock was set back, take what was to come later as of this moment."""
        db.execute("DELETE FROM slots WHERE at < ?", (now - _KEPT_DAYS * DAY_S,))
        db.execute(
            "UPDATE slots SET at = min(at, ?), made = ? WHERE account = ? AND made > ?",
            (now, now, account, now + 1.0),
        )
        db.execute("DELETE FROM cooldowns WHERE until < ? OR until > ?", (now - DAY_S, now + _LONGEST_COOLDOWN_S))
        stops = {"minute_stop": now + _LONGEST_MINUTE_STOP_S, "day_stop": next_midnight(now) + NEW_DAY_S}
        for column, latest in stops.items():
            stop = f"UPDATE accounts SET {column} = 0 WHERE account = ? AND {column} > ?"  # noqa: S608 - our own names
            db.execute(stop, (account, latest))

    # --- the account --------------------------------------------------------------------------------------------------

    @staticmethod
    def account(db: sqlite3.Connection, key: str) -> str:
        """The account that the hash of a key is known to belong to; that hash itself until it is."""
        row = db.execute("SELECT account FROM names WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else key

    def name(self, key: str, account: str) -> None:
        """From now on `key` belongs to `account`, and what was kept under the key's own hash goes with it."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO names (key, account) VALUES (?, ?)", (key, account))
            for table in ("slots", "charges", "batches"):
                db.execute(f"UPDATE {table} SET account = ? WHERE account = ?", (account, key))  # noqa: S608 - ours
            sums.rename(db, key, account)
            db.execute("UPDATE OR IGNORE accounts SET account = ? WHERE account = ?", (account, key))
            rest = db.execute("SELECT minute_stop, day_stop FROM accounts WHERE account = ?", (key,)).fetchone()
            if rest:
                merge = "SET minute_stop = max(minute_stop, ?), day_stop = max(day_stop, ?) WHERE account = ?"
                db.execute(f"UPDATE accounts {merge}", (*rest, account))
                db.execute("DELETE FROM accounts WHERE account = ?", (key,))

    def note_count(self, key: str, used: int, limit: int, now: float) -> None:
        """OpenRouter's own count of today: what it exceeds ours by was used elsewhere; its lag never takes away."""
        used, limit = min(used, _MOST), min(limit, _MOST)
        with self.transaction() as db:
            account = self.account(db, key)
            sent = _count(db, account, day_of(now) * DAY_S, now + _NOW_S)
            elsewhere = max(self._use(db, account, now).elsewhere, used - sent)
            db.execute(
                "INSERT INTO accounts (account, day, day_limit, elsewhere) VALUES (?, ?, ?, ?) ON CONFLICT (account) "
                "DO UPDATE SET day = excluded.day, day_limit = excluded.day_limit, elsewhere = excluded.elsewhere",
                (account, day_of(now), limit, elsewhere),
            )

    def stop(self, key: str, until: float, *, daily: bool) -> None:
        """OpenRouter met us with the minute's or the day's limit: nobody sends before `until`."""
        column = "day_stop" if daily else "minute_stop"
        with self.transaction() as db:
            stop = (
                f"INSERT INTO accounts (account, {column}) VALUES (?, ?) ON CONFLICT (account) "  # noqa: S608 - our own names
                f"DO UPDATE SET {column} = max({column}, excluded.{column})"
            )
            db.execute(stop, (self.account(db, key), until))


def _upgrade(db: sqlite3.Connection) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version >= VERSION:
        return  # a sibling was quicker
    for statement in f"{_SCHEMA}{sums.SCHEMA}PRAGMA user_version={VERSION}".split(";"):
        db.execute(statement)
    for table in ("charges", "slots", "batches"):  # which did not always say whose they are
        if not any(name == "caller" for _, name, *_ in db.execute(f"PRAGMA table_info({table})")):
            db.execute(f"ALTER TABLE {table} ADD COLUMN caller TEXT NOT NULL DEFAULT ''")
    if 0 < version < _FIRST_WITH_SUMS:
        sums.take_over(db)


def _delete(db: sqlite3.Connection, slots: Iterable[Slot]) -> None:
    db.executemany("DELETE FROM slots WHERE id = ?", [(slot.id,) for slot in slots])


def _count(db: sqlite3.Connection, account: str, start: float, end: float) -> int:
    """Requests from `start` on and before `end`."""
    row = db.execute("SELECT count(*) FROM slots WHERE account = ? AND at >= ? AND at < ?", (account, start, end))
    return int(row.fetchone()[0])
