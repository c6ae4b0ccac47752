"""Processes among others on one money book, forked so that all of them are there at once.

`python spending_child.py race PLACE PROCESSES BUDGET AMOUNT TRIES`: each prints a line for each AMOUNT it wanted,
`held` or `refused`. `python spending_child.py hammer PLACE PROCESSES BUDGET PARTS`: each holds PARTS of it for ever,
two by two, and is replaced by another when it dies; a line is `PID what charge`. A PLACE is a folder, or the URL of an
engine.
"""

import os
import random
import sys
from collections.abc import Callable
from decimal import Decimal
from functools import partial

import anyio
import anyio.lowlevel
from ledger_child import placed

from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.records import KeyInfo


def say(line: str) -> None:
    """Print whole lines though others print too."""
    os.write(1, f"{line}\n".encode())


async def _say_nothing() -> KeyInfo:
    return KeyInfo()


async def race(place: str, budget: str, amount: str, tries: str) -> None:
    """Hold AMOUNT so often, and settle at exactly that whatever was held."""
    spending = Ledger("key", placed(place), _say_nothing).spending
    for _ in range(int(tries)):
        held = await spending.hold([("acme/tiny", Decimal(amount))], Decimal(budget))
        say("held" if isinstance(held, list) else "refused")
        if isinstance(held, list):
            await spending.settle(held[0], Decimal(amount))


async def hammer(parent: int, place: str, budget: str, parts: str) -> None:
    """Hold, then settle at something, release or leave open what was held; until `parent` is gone."""
    me, chance = os.getpid(), random.Random(os.getpid())
    spending = Ledger("key", placed(place), _say_nothing).spending
    while os.getppid() == parent:
        held = await spending.hold([("acme/tiny", Decimal(budget) / int(parts))] * 2, Decimal(budget))
        if not isinstance(held, list):
            say(f"{me} refused 0")
            held = []
        for charge in held:
            say(f"{me} held {charge.id}")
        for charge in held:
            say(f"{me} ending {charge.id}")
            match chance.randrange(30):
                case 0:
                    await spending.leave_open(charge, f"gen-{charge.id}")
                case 1 | 2 | 3 | 4 | 5 | 6:
                    await spending.release([charge])
                case _:
                    await spending.settle(charge, charge.amount / 1000)
        await anyio.sleep(0.001)  # SQLite's lock is not fair to those who wait while one never lets go


def fork(run: Callable[[], None]) -> int:
    """A process that does nothing but `run`."""
    if pid := os.fork():
        return pid
    try:
        run()
    finally:
        sys.stderr.flush()
        os._exit(0)


def main() -> None:
    """Do as the arguments say."""
    what, place, processes, *more = sys.argv[1:]
    anyio.run(anyio.lowlevel.checkpoint)  # loads what each of them needs
    placed(place)
    gate, start = os.pipe()
    parent = os.getpid()

    def run() -> None:
        os.close(start)
        os.read(gate, 1)  # until the parent lets all go
        anyio.run(partial(race, place, *more) if what == "race" else partial(hammer, parent, place, *more))

    alive = {fork(run) for _ in range(int(processes))}
    os.close(start)
    while alive:
        ended, status = os.wait()
        alive.discard(ended)
        if os.WIFSIGNALED(status):  # it did not end because nobody listens any more
            start = os.dup(gate)  # closed by the child like the first one
            alive.add(fork(run))
            os.close(start)


if __name__ == "__main__":
    main()
