"""A caller's share of the free allowance, so that one agent's loop does not starve the others. Blocking."""

import sqlite3

from openrouter_mcp.callers import Caller
from openrouter_mcp.ledger.slots import DAY_S, NEW_DAY_S, day_of, earliest, next_midnight


def not_before(db: sqlite3.Connection, account: str, caller: Caller, at: float, window: float) -> tuple[float, bool]:
    """`at` itself when `caller`, whose share is not nothing, has a request left of it then; else a later moment before
    which they have none, and whether it is the day's share that is used up."""
    if caller.per_day is not None and _used(db, account, caller, at) >= caller.per_day:
        return next_midnight(at) + NEW_DAY_S, True
    if caller.per_minute is None:
        return at, False
    taken = db.execute(
        "SELECT CAST(at AS REAL) AS moment FROM slots WHERE account = ? AND caller = ? AND at > ? ORDER BY moment",
        (account, caller.name, at - window),
    )
    return earliest([moment for (moment,) in taken], at, window, caller.per_minute), False


def left_today(db: sqlite3.Connection, account: str, caller: Caller, now: float) -> int | None:
    """How many requests of the UTC day of `now` are left of the caller's share; None when the day has none."""
    if caller.may_ask_nothing:
        return 0
    return None if caller.per_day is None else max(0, caller.per_day - _used(db, account, caller, now))


def _used(db: sqlite3.Connection, account: str, caller: Caller, now: float) -> int:
    day = day_of(now) * DAY_S
    row = db.execute(
        "SELECT count(*) FROM slots WHERE account = ? AND caller = ? AND at >= ? AND at < ?",
        (account, caller.name, day, day + DAY_S),
    ).fetchone()
    return int(row[0])
