"""What one call may cost, and a request that may be sent within it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.pricing import Prices, costs_nothing
from openrouter_mcp.records import FREE_ROUTER, FREE_SUFFIX, Model
from openrouter_mcp.text import about_usd


@dataclass
class Purse:
    """What one tool call may cost, all its attempts together, in USD: the least `limit` there is, whose `name` says
    which it is. `agreed` is how much of it the person need not be asked about; `held` is spent or reserved already.
    `caller` is who pays, and whose share of the free requests it uses."""

    limit: Decimal
    name: str
    agreed: Decimal | None = None
    held: Decimal = Decimal(0)
    caller: Caller = NOBODY

    @property
    def left(self) -> Decimal:
        """What a further request may cost."""
        return max(Decimal(0), self.limit - self.held)

    def take_back(self, amount: Decimal) -> None:
        """So much of what was held is not needed; less than nothing when a call cost more."""
        self.held -= amount


@dataclass(frozen=True)
class Vetted:
    """A request that may be sent, its output limit one that every model and the purse bears (`shortened` when it is the
    purse's). `entries` may serve it (none listed: the free router), at the most at `prices`; it can cost `worst` USD
    and typically costs `typical`."""

    request: ChatRequest
    entries: tuple[Model, ...]
    prices: Prices
    worst: Decimal
    typical: Decimal
    shortened: bool = False

    @property
    def needs_slot(self) -> bool:
        """Whether a free model may serve it, so that it counts against the free allowance."""
        return FREE_ROUTER in (self.request.model, *self.request.fallbacks) or any(
            entry.id.endswith(FREE_SUFFIX) or costs_nothing(entry.pricing) for entry in self.entries
        )

    @property
    def estimate(self) -> str:
        """What it can cost, in words."""
        return f"up to {about_usd(self.worst)}, typically {about_usd(self.typical)}"


def in_words(priced: Sequence[Vetted]) -> str:
    """What a call can cost, for an agent or a person."""
    worst = about_usd(sum((each.worst for each in priced), Decimal(0)))
    typical = about_usd(sum((each.typical for each in priced), Decimal(0)))
    if len(priced) == 1:
        return f"Asking {priced[0].request.model!r} can cost up to {worst}, typically {typical}"
    models = {each.request.model for each in priced}
    if len(models) == 1:
        return f"Asking {models.pop()!r} {len(priced)} times can cost up to {worst}, typically {typical}"
    shares = ", ".join(f"{each.request.model} {about_usd(each.worst)}" for each in priced)
    return f"Asking {len(priced)} models can cost up to {worst} ({shares}), typically {typical}"
