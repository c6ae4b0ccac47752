"""The sandbox's account: free requests really counted, and a bill."""

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from openrouter_mcp.sandbox import faults
from openrouter_mcp.sandbox.faults import Fault


@dataclass(kw_only=True)
class Account:
    """What one OpenRouter account may do. Tests set the fields; money is in USD, times in seconds."""

    per_minute: int = 20
    window_s: float = 60.0
    per_day: int = 50
    bought: Decimal = Decimal(5)  # credits ever bought; the balance is this minus the bill
    bill: Decimal = Decimal(0)
    default_model: str = "acme/tiny"  # serves a request that names no model: paid, so that it shows on the bill
    default_plugins: list[str] = field(default_factory=list)  # "web", "fusion": on unless a request disables them
    allows_free: bool = True  # False: the data policy excludes every free model
    credits: Literal["forbidden", "real", "zero"] = "forbidden"  # what GET /credits says
    management: bool = False  # what /key says of the key
    limit: Decimal | None = None  # the key's own cap; None: no cap
    limit_reset: str | None = None
    budgets: list[dict[str, Any]] = field(default_factory=list)
    newer_key_fields: bool = True  # False: a /key as before September 2026, without the free quota and budgets
    user: str = "user_sandbox"
    generations: dict[str, dict[str, Any]] = field(default_factory=dict)
    _recent: deque[float] = field(default_factory=deque, repr=False)
    _days: dict[float, int] = field(default_factory=dict, repr=False)

    @property
    def balance(self) -> Decimal:
        return self.bought - self.bill

    def used_today(self, now: float) -> int:
        return self._days.get(faults.next_midnight(now), 0)

    def count_free(self, now: float) -> Fault | None:
        """Count one free request, or say why it is refused. What fails later stays counted, as at OpenRouter."""
        while self._recent and self._recent[0] <= now - self.window_s:
            self._recent.popleft()
        midnight = faults.next_midnight(now)
        if self.used_today(now) >= self.per_day:
            text = "free-models-per-day. Add 10 credits to unlock 1000 free model requests per day"
            high = self.bought >= 10
            return faults.rate_limit("free-models-per-day-high-balance" if high else text, self.per_day, midnight)
        if len(self._recent) >= self.per_minute:
            oldest = self._recent[0] if self._recent else now
            return faults.rate_limit("free-models-per-min.", self.per_minute, oldest + self.window_s)
        self._recent.append(now)
        self._days[midnight] = self.used_today(now) + 1
        return None

    def affords(self, prompt: Decimal, token: Decimal, tokens: int) -> Fault | None:
        """The credit check before a call: `prompt` and the price of an output `token` in USD, `tokens` at most."""
        if self.balance < 0:
            return faults.negative_balance()
        worst = prompt + token * tokens
        if worst > 0 and self.limit is not None and self.bill >= self.limit:
            return faults.key_limit()
        if worst > self.balance:
            affordable = max(Decimal(0), self.balance - prompt) / token if token else Decimal(0)
            return faults.no_credit(tokens, int(affordable))
        return None

    def key(self, now: float) -> dict[str, Any]:
        """The `data` of GET /key."""
        spent = float(self.bill)
        limit = None if self.limit is None else float(self.limit)
        left = None if limit is None else max(0.0, limit - spent)
        data: dict[str, Any] = {
            "label": "sk-or-v1-san...box",
            "limit": limit,
            "limit_remaining": left,
            "limit_reset": self.limit_reset,
            "include_byok_in_limit": False,
            "is_free_tier": self.bought == 0,
            "is_management_key": self.management,
            "is_provisioning_key": self.management,
            "creator_user_id": self.user,
            "expires_at": None,
            "rate_limit": {"requests": -1, "interval": "10s", "note": "This field is deprecated and safe to ignore."},
        }
        for period in ("", "_daily", "_weekly", "_monthly"):
            data[f"usage{period}"] = spent
            data[f"byok_usage{period}"] = 0.0
        return data | (self._newer(now) if self.newer_key_fields else {})

    def _newer(self, now: float) -> dict[str, Any]:
        used = self.used_today(now)
        budgets = list(self.budgets)
        if self.limit is not None:
            left = max(Decimal(0), self.limit - self.bill)
            budgets.append(budget("key_limit", self.limit, left, self.limit_reset))
        return {
            "free_model_daily_requests": {
                "used": used,
                "limit": self.per_day,
                "remaining": max(0, self.per_day - used),
            },
            "budgets": budgets,
            "effective_budget": min(budgets, key=lambda row: float(row["remaining_usd"]), default=None),
            "allowed_data_regions": ["global"],
            "organization_id": None,
            "workspace_id": None,
        }


def budget(scope: str, limit: Decimal, left: Decimal, reset: str | None = None) -> dict[str, Any]:
    """One entry of `/key`'s `budgets`, in USD."""
    return {
        "scope": scope,
        "limit_usd": float(limit),
        "spend_usd": float(limit - left),
        "remaining_usd": float(left),
        "reset_interval": reset,
        "resets_at": None,
        "guardrail_id": None,
        "budget_id": None,
        "include_byok": False,
    }
