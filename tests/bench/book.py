"""What a reservation costs, in a book that holds a day's requests; and our server with a book that holds up nobody.

`python book.py FOLDER` is `openrouter-mcp` with its book in FOLDER and no limit that a measurement could meet: being
paced is not what a call costs. With `--no-look` no call of a tool looks for batches that were left.
"""

import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import anyio
from measures import Row

from openrouter_mcp import cli
from openrouter_mcp.app import open_app
from openrouter_mcp.batch import Batches
from openrouter_mcp.cli import opening
from openrouter_mcp.errors import MinuteQuota
from openrouter_mcp.ledger.allowance import PER_MINUTE, WINDOW_S, Ledger
from openrouter_mcp.ledger.book import Charge
from openrouter_mcp.ledger.spending import Spending
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.records import KeyInfo

_PLENTY = 1_000_000
_DAY = 1000  # the requests of a day, where 10 credits were bought
_STEP_S = WINDOW_S / (PER_MINUTE - 1)  # apart, so that the window is nearly full
_MEDIAN_US, _P99_US = 1000.0, 5000.0


def reservations(runs: int) -> list[Row]:
    """Microseconds of one reservation, `runs` of each kind, on files in the system's folder for temporary ones."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            *_rows("granted reservation, in the book", _in_book(Path(folder) / "granted", runs, is_granted=True)),
            *_rows("refused reservation, in the book", _in_book(Path(folder) / "refused", runs, is_granted=False)),
            *_rows("granted reservation, through the ledger", anyio.run(_in_ledger, folder, runs, True)),
            *_rows("refused reservation, through the ledger", anyio.run(_in_ledger, folder, runs, False)),
            *_rows("money held, then settled, on the disk", anyio.run(_in_spending, folder, runs // 10), aims=False),
        ]


def _rows(name: str, us: list[float], *, aims: bool = True) -> list[Row]:
    """The median and the 99th percentile; without an aim where it is the disk that decides."""
    p99 = statistics.quantiles(us, n=100, method="inclusive")[98]
    return [
        Row(name, "us", us, most=_MEDIAN_US if aims else None),
        Row(f"{name}: 99th percentile", "us", [p99], most=_P99_US if aims else None),
    ]


class _Clock:
    """Epoch seconds that only the measurement moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def _fill(path: Path, account: str, clock: _Clock, *, is_granted: bool) -> None:
    """A day's requests; the next one is granted or, the window full, refused."""
    with closing(SQLiteBook(path, limit=PER_MINUTE, window=WINDOW_S)) as book:
        for _ in range(_DAY):
            clock.now += _STEP_S
            book.reserve(account, 1, clock.now, 0.0, 0)
        while not is_granted and isinstance(book.reserve(account, 1, clock.now, 0.0, 0), list):
            pass


def _in_book(path: Path, runs: int, *, is_granted: bool) -> list[float]:
    clock = _Clock()
    _fill(path, "a", clock, is_granted=is_granted)
    with closing(SQLiteBook(path, limit=PER_MINUTE, window=WINDOW_S)) as book:

        def reserve() -> None:
            if isinstance(book.reserve("a", 1, clock.now, 0.0, 0), list) is not is_granted:
                raise RuntimeError("it is the other kind of reservation that was measured")

        return [_timed(reserve, clock, is_granted=is_granted) for _ in range(runs)]


def _timed(reserve: Callable[[], object], clock: _Clock, *, is_granted: bool) -> float:
    clock.now += _STEP_S if is_granted else 0.0
    begin = time.perf_counter()
    reserve()
    return (time.perf_counter() - begin) * 1e6


async def _in_ledger(folder: str, runs: int, is_granted: bool) -> list[float]:
    """The same through the thread that the event loop is spared by; OpenRouter's word costs nothing here."""
    clock = _Clock()
    state = Path(folder) / f"ledger-{is_granted}"
    ledger = Ledger("any", state, _say_nothing, clock=clock)
    times: list[float] = []
    try:
        await ledger.standing()  # makes the file
        _fill(state / "ledger.db", ledger._key, clock, is_granted=is_granted)
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


async def _in_spending(folder: str, runs: int) -> list[float]:
    """The worst case of one call held and what it cost settled, among those of a day. It waits for the disk."""
    clock = _Clock()
    path, amount, budget = Path(folder) / "spending", Decimal("0.001"), Decimal(1_000_000)
    spending = (ledger := Ledger("any", path, _say_nothing, clock=clock)).spending
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
