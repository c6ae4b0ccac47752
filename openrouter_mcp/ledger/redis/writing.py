"""What the script is told, out of the book's own types: JSON objects, where amounts and ids are text. Pure."""

from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from openrouter_mcp.callers import Caller
from openrouter_mcp.ledger.amounts import EXACT, written
from openrouter_mcp.ledger.book import Wish
from openrouter_mcp.ledger.sums import Ended

_FINEST = Decimal("1e-18")
_MOST_USD = Decimal(10**15 - 1)  # the script reads no longer numbers


def share(caller: Caller) -> dict[str, Any]:
    """What part of the free requests is theirs."""
    limits = {"per_day": caller.per_day, "per_minute": caller.per_minute}
    known = {name: most for name, most in limits.items() if most is not None}
    return {"name": caller.name, "may_ask_nothing": caller.may_ask_nothing, **known}


def ending(ended: Ended) -> dict[str, Any]:
    """How a request ended."""
    took = ended.took
    return {
        "models": list(ended.models),
        "caller": ended.caller,
        "figures": [took.asked, took.failed, took.prompt_tokens, took.completion_tokens, took.seconds],
        "cost": "unknown" if took.cost is None else written(took.cost),
    }


def wished(wish: Wish, ids: Sequence[int]) -> dict[str, Any]:
    """What is to be held under `ids`, and the room that the budgets must leave for it."""
    wanted = sum((amount for _, amount in wish.amounts), Decimal(0))
    own = wish.caller.daily_budget
    return {
        "ids": [str(one) for one in ids],
        "models": [model for model, _ in wish.amounts],
        "amounts": [written(amount) for _, amount in wish.amounts],
        "room": _room(wish.budget - wanted),
        "caller": wish.caller.name,
        **({} if own is None else {"own_room": _room(own - wanted)}),
        **({"batch": wish.batch} if wish.batch else {}),
        **({"holder": wish.holder} if wish.holder else {}),
    }


def _room(amount: Decimal) -> str:
    """What may be spent besides, rounded down; empty when that is less than nothing."""
    if amount < 0:
        return ""
    return f"{min(amount, _MOST_USD).quantize(_FINEST, ROUND_FLOOR, context=EXACT):f}"
