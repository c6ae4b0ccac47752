"""How an account stands with its free requests."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from openrouter_mcp.choice import Health, Seen
from openrouter_mcp.ledger.book import Cooldown, Use
from openrouter_mcp.ledger.slots import next_midnight
from openrouter_mcp.text import time_of_day

PER_DAY = 50  # of an account that never bought credits


@dataclass(frozen=True)
class Standing:
    """The allowance as of `now` (epoch seconds). `warning` says why the book cannot be used; then the figures are this
    process's alone. It `is_away` when the engine that has it cannot be asked just now."""

    use: Use
    per_minute: int
    now: float
    cooldowns: dict[str, Cooldown]
    warning: str
    health: Mapping[str, Health]
    is_away: bool = False

    @property
    def seen(self) -> Seen:
        """What is to be known of models before one is chosen."""
        cooling = {model: cooldown.until - self.now for model, cooldown in self.cooldowns.items()}
        return Seen(cooling, self.health, datetime.fromtimestamp(self.now, UTC).date())

    @property
    def share_left(self) -> float:
        """What part of the day's free requests is left; all of it when nobody knows."""
        return 1.0 if self.use.left is None else self.use.left / max(1, self.use.day_limit or PER_DAY)

    def __str__(self) -> str:
        """One line for an agent."""
        if self.is_away:
            return "how many free requests are left is not known while the shared books cannot be used"
        returns = f"the count restarts at {time_of_day(next_midnight(self.now))}"
        if self.use.left is None:
            return f"{self.use.today} free requests used today; {returns}"
        of = "" if self.use.day_limit is None else f" of {self.use.day_limit}"
        return f"{self.use.left}{of} free requests left today; {returns}"
