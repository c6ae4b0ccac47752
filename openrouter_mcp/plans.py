"""Batches: what is to be asked, and what came of each prompt. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.text import one_line
from openrouter_mcp.transcript import Answer


class State(StrEnum):
    """How a batch stands: still to be asked, all of it asked, or stopped by whoever wanted it."""

    OPEN = ""
    DONE = "done"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Plan:
    """A batch: `prompts` to be asked as `request` is. `caller` of the account `owner` wants it, since `at` (epoch
    seconds), for at most `max_cost` USD (None: what the user's settings say); the person agreed to `agreed`."""

    id: str
    owner: str
    caller: str
    at: float
    request: ChatRequest
    prompts: tuple[str, ...]
    max_cost: Decimal | None
    agreed: Decimal

    def places(self) -> Iterator[int]:
        """The places of the prompts that are asked: the first of identical ones."""
        return (place for place in range(len(self.prompts)) if self.first(place) == place)

    def first(self, place: int) -> int:
        """The first place that has the same prompt."""
        return self.prompts.index(self.prompts[place])

    def question(self, place: int) -> ChatRequest:
        """What is asked for the prompt there."""
        return replace(self.request, prompt=self.prompts[place])


@dataclass(frozen=True)
class Kept:
    """A batch as far as it is: the facts of each answer that was begun, by the place of its prompt."""

    plan: Plan
    state: State
    rows: dict[int, Answer]

    @property
    def settled(self) -> dict[int, Answer]:
        """Those that will not be asked (again)."""
        return {place: row for place, row in self.rows.items() if not row.running}

    @property
    def first_words(self) -> str:
        """Of the first prompt."""
        return one_line(self.plan.prompts[0], 60)
