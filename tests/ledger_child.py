# ruff: noqa: T201 - what happened, a line each, is this program's one answer
"""A process among others on one book: `send` reserves, waits for its slots and sends; `hammer` only reserves, for ever.

`python ledger_child.py send PLACE LIMIT WINDOW COUNT AHEAD` begins at the first line of stdin and prints of each one
when it was asked for, its slot, when it was sent, and the status it was answered with; its own clock is AHEAD seconds
fast. `hammer PLACE LIMIT WINDOW` is silent. A PLACE is a folder, or the URL of an engine.
"""

import itertools
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where they are used, so that a process is there at once
    from openrouter_mcp.engine import Engine
    from openrouter_mcp.ledger.book import Book


def placed(place: str, ahead: float = 0.0) -> "Path | Engine":
    """The folder, or the engine as a process sees it whose clock is so many seconds `ahead`."""
    if "://" not in place:
        return Path(place)
    from openrouter_mcp.engine import Engine

    engine = Engine(place, clock=lambda: time.time() + ahead)
    engine.try_again()  # as every server does first
    return engine


def book_at(place: str, limit: int, window: float) -> "Book":
    """The book there, without a ledger around it."""
    found = placed(place)
    if isinstance(found, Path):
        from openrouter_mcp.ledger.sqlite.book import SQLiteBook

        return SQLiteBook(found / "ledger.db", limit=limit, window=window)
    from openrouter_mcp.ledger.redis.book import RedisBook

    return RedisBook(found, limit=limit, window=window)


def hammer(place: str, limit: str, window: str) -> None:
    """Reserve, give every third back, look, and go on until killed; say so once it has begun."""
    book = book_at(place, int(limit), float(window))
    parent, pause = os.getppid(), threading.Event()
    for number in itertools.count():
        if os.getppid() != parent:
            return  # whoever was to kill it is gone
        slots = book.reserve("a", 1, time.time(), 0.5, 0)
        if isinstance(slots, list) and number % 3 == 0:
            book.give_back(slots)
        book.note_count("a", book.use("a", time.time()).today, 1_000_000, time.time())
        if number == 0:
            print("ready", flush=True)
        pause.wait(0.001)  # SQLite's lock is not fair to those who wait while one never lets go


async def send(place: str, limit: str, window: str, count: str, ahead: str) -> None:
    """`count` questions to the upstream that the environment names."""
    import anyio
    import httpx2

    from openrouter_mcp.client import OpenRouter
    from openrouter_mcp.errors import DailyQuota
    from openrouter_mcp.ledger.allowance import Ledger
    from openrouter_mcp.settings import load

    settings = load()
    assert settings.key
    client = OpenRouter(settings)
    key = settings.key.get_secret_value()
    behind_or_ahead = float(ahead)
    ledger = Ledger(
        key, placed(place, behind_or_ahead), client.key, limit=int(limit), window=float(window),
        clock=lambda: time.time() + behind_or_ahead,
    )  # fmt: skip
    question = {"model": "acme/tiny:free", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=30) as upstream:
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        for _ in range(int(count)):
            asked = time.time()
            try:
                (slot,) = await ledger.reserve(longest_wait=600)
            except DailyQuota:
                print("refused", flush=True)
                continue
            await anyio.sleep(ledger.wait_for(slot))
            sent = time.time()
            reply = await upstream.post(f"{settings.base_url}/chat/completions", json=question)
            print(f"{asked:.6f} {slot.at:.6f} {sent:.6f} {reply.status_code}", flush=True)
        if warning := (await ledger.standing()).warning:
            print(f"warning {warning}", flush=True)
    await ledger.aclose()
    await client.aclose()


def main() -> None:
    """Do as the arguments say."""
    what, *arguments = sys.argv[1:]
    if what == "hammer":
        hammer(*arguments)
    else:
        import anyio

        anyio.run(lambda: send(*arguments))


if __name__ == "__main__":
    main()
