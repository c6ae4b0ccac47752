"""A budget of the day, and what is left of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from openrouter_mcp.ledger.book import Closure, Spent
from openrouter_mcp.refusals import OverBudget
from openrouter_mcp.text import usd


@dataclass(frozen=True)
class Budget:
    """What may be spent today and in a call, in USD, by all or by one caller; what is, and why the guard is closed if
    it is. Not `is_known` while the book that says what is spent cannot be used."""

    daily: Decimal
    call: Decimal
    spent: Spent
    closures: Sequence[Closure]
    is_known: bool = True

    @property
    def left(self) -> Decimal:
        """What calls may still cost today."""
        return max(Decimal(0), self.daily - self.spent.in_all)

    @property
    def name(self) -> str:
        """Whose it is and how much, in words."""
        whose = f"{self.spent.whose}'s own budget" if self.spent.whose else "the budget"
        held = f" ({usd(self.spent.held)} is held for calls whose cost is not known yet)" if self.spent.held else ""
        return f"{whose} of the day is {usd(self.daily)}{held}"

    def over(self, what: str) -> OverBudget:
        """That it does not bear what a call can cost, in words."""
        return OverBudget(
            f"{what}; {self.name}, of which {usd(self.left)} is left. Nothing was sent. The day ends at 00:00 UTC; "
            "free models can be asked until then."
        )

    def __str__(self) -> str:
        """One line for an agent."""
        if not self.is_known:
            return f"what is left of the day's {usd(self.daily)} is not known while the shared books cannot be used"
        return f"{usd(self.left)} of the day's {usd(self.daily)} left"
