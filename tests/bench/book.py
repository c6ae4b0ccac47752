"""What a reservation costs, in a book that holds a day's requests; and our server with a book that holds up nobody.

`python book.py FOLDER` is `openrouter-mcp` with its book in FOLDER and no limit that a measurement could meet: being
paced is not what a call costs. With `--no-look` no call of a tool looks for batches that were left.
"""

import functools
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio
from measures import Row

from openrouter_mcp import cli
from openrouter_mcp.app import open_app
from openrouter_mcp.batch import Batches
from openrouter_mcp.cli import opening
from openrouter_mcp.errors import MinuteQuota
from openrouter_mcp.ledger.allowance import PER_MINUTE, WINDOW_S, Ledger
from openrouter_mcp.ledger.book import Book, Charge
from openrouter_mcp.ledger.spending import Spending
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.records import KeyInfo

if TYPE_CHECKING:
    from openrouter_mcp.engine import Engine

Place: TypeAlias = "Path | Engine"  # of a book
_PLENTY = 1_000_000
_DAY = 1000  # the requests of a day, where 10 credits were bought
_STEP_S = WINDOW_S / (PER_MINUTE - 1)  # apart, so that the window is nearly full
_MEDIAN_US, _P99_US = 1000.0, 5000.0


class Clock:
    """Epoch seconds that only the measurement moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def reservations(runs: int) -> list[Row]:
    """Microseconds of one reservation, `runs` of each kind, on files in the system's folder for temporary ones."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()
        return [
            *reserving(runs, lambda _: Path(folder) / f"{next(numbers)}"),
            *holding(runs // 10, "on the disk", Path(folder) / "spending"),
        ]


def reserving(runs: int, new: Callable[[Clock], Place], where: str = "") -> list[Row]:
    """The same at `new` places, each of which is empty and goes by the clock it is given; what they are is `where`."""
    rows = []
    for way, measure in (("in the book", _in_book), ("through the ledger", _in_ledger)):
        for kind, is_granted in (("granted", True), ("refused", False)):
            clock = Clock()
            us = anyio.run(measure, new(clock), clock, runs, is_granted)
            rows += _rows(f"{kind} reservation, {way}{where}", us)
    return rows


def holding(runs: int, where: str, place: Place) -> list[Row]:
    """Microseconds of money held and settled at a `place` that is empty."""
    return _rows(f"money held, then settled, {where}", anyio.run(_in_spending, place, runs), aims=False)


def _rows(name: str, us: list[float], *, aims: bool = True) -> list[Row]:
    """The median and the 99th percentile; without an aim where it is the disk that decides."""
    p99 = statistics.quantiles(us, n=100, method="inclusive")[98]
    return [
        Row(name, "us", us, most=_MEDIAN_US if aims else None),
        Row(f"{name}: 99th percentile", "us", [p99], most=_P99_US if aims else None),
    ]


def _book_at(place: Place) -> Book:
    if isinstance(place, Path):
        place.mkdir(exist_ok=True)
        return SQLiteBook(place / "ledger.db", limit=PER_MINUTE, window=WINDOW_S)
    from openrouter_mcp.ledger.redis.book import RedisBook  # whose library the server measured is not to import

    return RedisBook(place, limit=PER_MINUTE, window=WINDOW_S)


def _fill(place: Place, account: str, clock: Clock, *, is_granted: bool) -> None:
    """A day's requests; the next one is granted or, the window full, refused."""
    with closing(_book_at(place)) as book:
        for _ in range(_DAY):
            clock.now += _STEP_S
            book.reserve(account, 1, clock.now, 0.0, 0)
        while not is_granted and isinstance(book.reserve(account, 1, clock.now, 0.0, 0), list):
            pass


async def _in_book(place: Place, clock: Clock, runs: int, is_granted: bool) -> list[float]:
    _fill(place, "a", clock, is_granted=is_granted)
    with closing(_book_at(place)) as book:

        def reserve() -> None:
            if isinstance(book.reserve("a", 1, clock.now, 0.0, 0), list) is not is_granted:
                raise RuntimeError("it is the other kind of reservation that was measured")

        return [_timed(reserve, clock, is_granted=is_granted) for _ in range(runs)]


def _timed(reserve: Callable[[], object], clock: Clock, *, is_granted: bool) -> float:
    clock.now += _STEP_S if is_granted else 0.0
    begin = time.perf_counter()
    reserve()
    return (time.perf_counter() - begin) * 1e6


async def _in_ledger(place: Place, clock: Clock, runs: int, is_granted: bool) -> list[float]:
    """The same through the thread that the event loop is spared by; OpenRouter's word costs nothing here."""
    ledger = Ledger("any", place, _say_nothing, clock=clock)
    times: list[float] = []
    try:
        await ledger.standing()  # makes the file
        _fill(place, ledger._key, clock, is_granted=is_granted)
        for _ in range(runs + 1):
            clock.now += _STEP_S if is_granted else 0.0
            begin = time.perf_counter()
            was_granted = await _reserve(ledger)
            times.append((time.perf_counter() - begin) * 1e6)
            if was_granted is not is_granted:
                raise RuntimeError("it is the other kind of reservation that was measured")
    finally:
        await ledger.aclose()
    return times[1:]


async def _in_spending(place: Place, runs: int) -> list[float]:
    """The worst case of one call held and what it cost settled, among those of a day. It waits for the disk."""
    amount, budget = Decimal("0.001"), Decimal(1_000_000)
    spending = (ledger := Ledger("any", place, _say_nothing)).spending
    times: list[float] = []
    try:
        (first, *_) = await _hold(spending, [("acme/tiny", amount)] * _DAY, budget)
        await spending.settle(first, amount)
        for _ in range(runs + 1):
            begin = time.perf_counter()
            (charge,) = await _hold(spending, [("acme/tiny", amount)], budget)
            await spending.settle(charge, amount / 2)
            times.append((time.perf_counter() - begin) * 1e6)
    finally:
        await ledger.aclose()
    return times[1:]


async def _hold(spending: Spending, amounts: list[tuple[str, Decimal]], budget: Decimal) -> list[Charge]:
    held = await spending.hold(amounts, budget)
    assert isinstance(held, list)  # the budget is never used up
    return held


async def _reserve(ledger: Ledger) -> bool:
    try:
        await ledger.reserve(longest_wait=0.0)
    except MinuteQuota:
        return False
    return True


async def _say_nothing() -> KeyInfo:
    return KeyInfo()


def main() -> None:
    """Serve over stdio until stdin ends."""
    os.environ["OPENROUTER_MCP_STATE_DIR"] = os.environ["OPENROUTER_MCP_CACHE_DIR"] = sys.argv[1]
    opening.open_app = functools.partial(open_app, per_minute=_PLENTY)  # type: ignore[attr-defined]
    if "--no-look" in sys.argv:
        Batches.wake = lambda *_: None  # type: ignore[method-assign]
    sys.exit(cli.main([]))


if __name__ == "__main__":
    main()
