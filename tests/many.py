"""What the tests about batches share: prompts, a sandbox that fails some of them, and what was asked in all."""

from collections.abc import Collection
from typing import Any

import anyio
import anyio.lowlevel
from calls import Clock, some_turns
from mcp import Client
from support import Time, ask

from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.writing import Waits

MODEL = "acme/tiny:free"
AT_ONCE = Waits(plain=0)  # tools hand over at once
SAYS = "No real model has read this."


class Picky(Sandbox):
    """A sandbox on the clock of the server that spoils what is asked, by its prompt."""

    def __init__(self, at: Time) -> None:
        super().__init__(clock=at.clock)
        self.spoiled: dict[str, Fault] = {}
        self.sent_at: list[float] = []

    def take(self, path: str, models: Collection[str | None] = (None,)) -> Fault | None:
        """The next fault queued, or the one for the prompt."""
        if models == (None,) and self.requests[-1].body:
            self.sent_at.append(self.clock())
            return super().take(path, models) or self.spoiled.get(asked(self)[-1])
        return super().take(path, models)


def tasks(count: int, first: int = 1) -> list[str]:
    """So many prompts, each another."""
    return [f"Task {number}." for number in range(first, first + count)]


def asked(sandbox: Sandbox) -> list[str]:
    """The prompts that arrived, in that order."""
    return [chat.body["messages"][-1]["content"] for chat in sandbox.chats]


def outcomes(record: dict[str, Any]) -> list[str]:
    """Of each prompt on a page, its status or the code of its failure."""
    return [row.get("code") or row["status"] for row in record["rows"]]


async def ended(client: Client, id_: str, **arguments: Any) -> tuple[str, dict[str, Any], bool]:
    """The batch, once nothing more of it is asked."""
    with anyio.fail_after(10):
        while True:
            said = await ask(client, "read_answer", id=id_, **arguments)
            if said[1]["status"] != "running":
                return said
            await anyio.lowlevel.checkpoint()


async def passed(at: Clock, seconds: float) -> None:
    """Let them pass, in steps as short as a server's signs of life."""
    for _ in range(round(seconds / 5)):
        at.jump(5)
        await some_turns()
