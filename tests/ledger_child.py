# ruff: noqa: T201 - what happened, a line each, is this program's one answer
"""A process among others on one book: `send` reserves, waits for its slots and sends; `hammer` only reserves, for ever.

`python ledger_child.py send FOLDER LIMIT WINDOW COUNT` begins at the first line of stdin and prints of each request
when it was asked for, its slot, and the status it was answered with. `hammer FOLDER LIMIT WINDOW` is silent.
"""

import itertools
import os
import sys
import threading
import time
from pathlib import Path


def hammer(folder: str, limit: str, window: str) -> None:
    """Reserve, give every third back, look, and go on until killed; say so once it has begun."""
    from openrouter_mcp.ledger.sqlite.book import SQLiteBook  # alone, so that a process is there at once

    book = SQLiteBook(Path(folder) / "ledger.db", limit=int(limit), window=float(window))
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


async def send(folder: str, limit: str, window: str, count: str) -> None:
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
    ledger = Ledger(key, Path(folder), client.key, limit=int(limit), window=float(window))
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
            reply = await upstream.post(f"{settings.base_url}/chat/completions", json=question)
            print(f"{asked:.6f} {slot.at:.6f} {reply.status_code}", flush=True)
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
