"""A process among others on one money book: `python callers_child.py FOLDER BUDGET NAME OWN AMOUNT TRIES`.

From the first line of stdin on, NAME, whose own budget of the day is OWN (`-`: none), wants AMOUNT so often. A line
each: `held`, which is settled at exactly that, or `refused`.
"""
# ruff: noqa: T201 - what happened, a line each, is this program's one answer

import sys
from decimal import Decimal
from functools import partial
from pathlib import Path

import anyio

from openrouter_mcp.callers import Caller
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.records import KeyInfo


async def _say_nothing() -> KeyInfo:
    return KeyInfo()


async def main(folder: str, budget: str, name: str, own: str, *wanted: str) -> None:
    """Do as the arguments say."""
    ledger = Ledger("key", Path(folder), _say_nothing)
    caller = Caller(name, daily_budget=None if own == "-" else Decimal(own))
    print("ready", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    amount, tries = wanted
    for _ in range(int(tries)):
        held = await ledger.spending.hold([("acme/tiny", Decimal(amount))], Decimal(budget), caller=caller)
        print("held" if isinstance(held, list) else "refused", flush=True)
        if isinstance(held, list):
            await ledger.spending.settle(held[0], Decimal(amount))
    await ledger.aclose()


if __name__ == "__main__":
    anyio.run(partial(main, *sys.argv[1:]))
