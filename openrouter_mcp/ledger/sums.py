"""What each model was asked, wrote, and cost; a book sums it up by UTC day and caller."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from openrouter_mcp.ledger.amounts import EXACT
from openrouter_mcp.ledger.slots import DAY_S, day_of

KEPT_DAYS = 40
HEALTH_DAYS = 2
MOST = 10**15  # of anything; more is a mistake, and SQLite's integers end somewhere


@dataclass(frozen=True)
class Sum:
    """Requests `asked`, how many `failed` by the model's fault, the tokens of both ways, the `seconds` that those out
    took to write, and the `cost` in USD, None when it is not known."""

    asked: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: Decimal | None = Decimal(0)

    def __add__(self, other: "Sum") -> "Sum":
        """Both together; the cost exactly, in whatever order."""
        return Sum(
            self.asked + other.asked,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
            None if self.cost is None or other.cost is None else EXACT.add(self.cost, other.cost),
        )


@dataclass(frozen=True)
class Ended:
    """A request that has ended, what it `took`, and the `models` it counts for: the one that served or was asked, by
    its catalogue id; where several failed together, each of them."""

    models: tuple[str, ...]
    caller: str
    took: Sum

    @property
    def without_cost(self) -> "Ended":
        """For a request whose cost is booked by its charge."""
        return replace(self, took=replace(self.took, cost=Decimal(0)))


@dataclass(frozen=True)
class Month:
    """What each model came to in the current UTC month, and what of that `today`."""

    month: dict[str, Sum]
    today: dict[str, Sum]


def took(prompt_tokens: int, completion_tokens: int, seconds: float, cost: Decimal | None, *, failed: bool) -> Sum:
    """What one request took. Without the tokens, the seconds say nothing about a speed."""
    return Sum(1, int(failed), prompt_tokens, completion_tokens, max(0.0, seconds) if completion_tokens else 0.0, cost)


def first_of_month(now: float) -> int:
    """The first day of the UTC month that `now` is in, counted from 1970."""
    return day_of(now) - datetime.fromtimestamp(day_of(now) * DAY_S, UTC).day + 1
