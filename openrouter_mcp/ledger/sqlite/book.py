"""The book of requests, money, models and batches in an SQLite file. Nothing here names a prompt, a key or an account:
only hashes."""

import sqlite3
import time
from bisect import insort
from collections.abc import Callable, Sequence
from pathlib import Path

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.ledger.book import (
    KEPT_DAYS,
    LONGEST_COOLDOWN_S,
    LONGEST_MINUTE_STOP_S,
    MOST_REQUESTS,
    Look,
    Use,
)
from openrouter_mcp.ledger.slots import DAY_S, NEW_DAY_S, Refusal, Slot, day_of, earliest, next_midnight
from openrouter_mcp.ledger.sqlite import accounts, batches, models, money, schema, seals, shares, sums
from openrouter_mcp.ledger.sqlite.accounts import account_of
from openrouter_mcp.ledger.sqlite.file import File
from openrouter_mcp.text import number

BROKEN, _SEEN = ".broken-", ".acknowledged-"  # a book that was set aside; one that a person has acknowledged
_CLOCK_TOLERANCE_S = 0.01
_NOW_S = 1e-3  # so that what is taken this very moment counts as taken
_TAKEN = "SELECT CAST(at AS REAL) AS moment FROM slots WHERE account = ? AND at > ? ORDER BY moment"


class SQLiteBook(File):
    """`path` is the file, or ":memory:" for this process alone; `limit` requests in any `window` seconds. `ticks`
    counts the seconds that a sibling kept us waiting for the book."""

    def __init__(
        self, path: Path | str, *, limit: int, window: float, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path if isinstance(path, Path) else None
        self._limit = limit
        self._window = window
        self._ticks = ticks
        super().__init__(path, version=schema.VERSION, upgrade=schema.upgrade)

    # What the other rooms do, each by a function whose first argument is the book.
    cool, probe, recover = models.cool, models.probe, models.recover
    account, stop = accounts.account, accounts.stop
    count, month = sums.count, sums.month
    hold, spent, settle, release, leave_open = money.hold, money.spent, money.settle, money.release, money.leave_open
    alive, note_generation, due = money.alive, money.note_generation, money.due
    shut, closures, acknowledge = money.shut, money.closures, money.acknowledge
    renew, draw, leave, end, is_leased = batches.renew, batches.draw, batches.leave, batches.end, batches.is_leased
    seal = seals.seal

    # --- requests -----------------------------------------------------------------------------------------------------

    def reserve(
        self, key: str, count: int, now: float, longest_wait: float, spare: int, *, caller: Caller = NOBODY
    ) -> list[Slot] | Refusal:
        """`Book.reserve`."""
        asked = self._ticks()
        with self.transaction() as db:
            now += self._waited(asked)  # or the slot would be older than its request
            account = account_of(db, key)
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

    def give_back(self, slots: Sequence[Slot]) -> None:
        """`Book.give_back`."""
        with self.transaction() as db:
            _delete(db, slots)

    def use(self, key: str, now: float) -> Use:
        """`Book.use`."""
        return self._use(self.db, account_of(self.db, key), now)

    def look(self, key: str, now: float) -> Look:
        """`Book.look`."""
        return Look(self.use(key, now), models.cooldowns(self), sums.health(self.db, account_of(self.db, key), now))

    def share_left(self, key: str, caller: Caller, now: float) -> int | None:
        """`Book.share_left`."""
        return shares.left_today(self.db, account_of(self.db, key), caller, now)

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
        db.execute("DELETE FROM slots WHERE at < ?", (now - KEPT_DAYS * DAY_S,))
        db.execute(
            "UPDATE slots SET at = min(at, ?), made = ? WHERE account = ? AND made > ?",
            (now, now, account, now + 1.0),
        )
        db.execute("DELETE FROM cooldowns WHERE until < ? OR until > ?", (now - DAY_S, now + LONGEST_COOLDOWN_S))
        stops = {"minute_stop": now + LONGEST_MINUTE_STOP_S, "day_stop": next_midnight(now) + NEW_DAY_S}
        for column, latest in stops.items():
            stop = f"UPDATE accounts SET {column} = 0 WHERE account = ? AND {column} > ?"  # noqa: S608 - our own names
            db.execute(stop, (account, latest))

    def _waited(self, since: float) -> float:
        """For how many seconds siblings kept the book."""
        waited = self._ticks() - since
        return waited if waited > _CLOCK_TOLERANCE_S else 0.0

    # --- batches ------------------------------------------------------------------------------------------------------

    def promise(self, key: str, batch: str, requests: int, *, now: float, spare: int, caller: Caller) -> Refusal | None:
        """`Book.promise`."""
        with self.transaction() as db:
            account, left = account_of(db, key), self.use(key, now).left
            return batches.promise(self, account, batch, requests, left=left, now=now, spare=spare, caller=caller)

    def take(self, key: str, batch: str, holder: str, now: float) -> bool:
        """`Book.take`."""
        asked = self._ticks()
        with self.transaction():
            now += self._waited(asked)  # or a lease given meanwhile would seem another clock's
            return batches.take(self, key, batch, holder, now)

    # --- books that broke ---------------------------------------------------------------------------------------------

    def doubts(self) -> list[str]:
        """`Book.doubts`: the broken books that lie beside this one."""
        return [_doubt(broken) for broken in self._broken()]

    def forget_doubts(self, seen: Sequence[str]) -> None:
        """`Book.forget_doubts`; the files stay, under another name."""
        for broken in self._broken():
            if _doubt(broken) in seen:
                broken.replace(broken.with_name(broken.name.replace(BROKEN, _SEEN)))

    def _broken(self) -> list[Path]:
        return sorted(self._path.parent.glob(f"{self._path.name}{BROKEN}*")) if self._path else []

    # --- the account --------------------------------------------------------------------------------------------------

    def name(self, key: str, account: str) -> None:
        """`Book.name`."""
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
        """`Book.note_count`."""
        used, limit = min(used, MOST_REQUESTS), min(limit, MOST_REQUESTS)
        with self.transaction() as db:
            account = account_of(db, key)
            sent = _count(db, account, day_of(now) * DAY_S, now + _NOW_S)
            elsewhere = max(self._use(db, account, now).elsewhere, used - sent)
            db.execute(
                "INSERT INTO accounts (account, day, day_limit, elsewhere) VALUES (?, ?, ?, ?) ON CONFLICT (account) "
                "DO UPDATE SET day = excluded.day, day_limit = excluded.day_limit, elsewhere = excluded.elsewhere",
                (account, day_of(now), limit, elsewhere),
            )


def _doubt(broken: Path) -> str:
    return f"{broken} broke and was set aside"


def _delete(db: sqlite3.Connection, slots: Sequence[Slot]) -> None:
    db.executemany("DELETE FROM slots WHERE id = ?", [(slot.id,) for slot in slots])


def _count(db: sqlite3.Connection, account: str, start: float, end: float) -> int:
    """Requests from `start` on and before `end`."""
    row = db.execute("SELECT count(*) FROM slots WHERE account = ? AND at >= ? AND at < ?", (account, start, end))
    return int(row.fetchone()[0])
