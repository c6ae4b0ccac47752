"""What the user decided about money, models and privacy."""

from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from openrouter_mcp.records import FREE_ROUTER, FREE_SUFFIX


class Privacy(StrEnum):
    """The least that providers must promise about what they are sent."""

    ANY = "any"
    NO_TRAINING = "no-training"
    ZERO_RETENTION = "zero-retention"

    @property
    def floor(self) -> dict[str, object]:
        """As OpenRouter is told: https://openrouter.ai/docs/guides/routing/provider-selection."""
        if self is Privacy.ANY:
            return {}
        return {"data_collection": "deny"} | ({"zdr": True} if self is Privacy.ZERO_RETENTION else {})


@dataclass(frozen=True)
class Policy:
    """What may be spent, in USD, and on whom. A budget of zero is what makes a server free-only; `confirm_above` None
    never asks. `allowed` and `denied` hold ids or `vendor/`; an empty `allowed` allows all."""

    daily_budget: Decimal = Decimal(0)
    call_budget: Decimal = Decimal(0)
    confirm_above: Decimal | None = None
    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    default_model: str = ""
    privacy: Privacy = Privacy.ANY

    def admits(self, model: str) -> bool:
        """Whether the lists let `model` be asked. To deny an id is to deny its variants (`:free`) too."""
        vendor, base = model.partition("/")[0] + "/", model.partition(":")[0]
        if {model, base, vendor} & {*self.denied}:
            return False
        if self.restricts and model == FREE_ROUTER:  # it would pick from all
            return model in self.allowed and not self.denied
        return not self.allowed or bool({model, vendor} & {*self.allowed})

    @property
    def restricts(self) -> bool:
        """Whether some models are not to be asked."""
        return bool(self.allowed or self.denied)

    def without_money(self) -> "Policy":
        """The same lists, and nothing to spend."""
        is_free = self.default_model == FREE_ROUTER or self.default_model.endswith(FREE_SUFFIX)
        free_default = self.default_model if is_free else ""
        return replace(self, daily_budget=Decimal(0), call_budget=Decimal(0), default_model=free_default)
