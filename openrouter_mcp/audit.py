"""The guard's fourth layer: whether a request cost, and was answered by, what had been permitted. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from openrouter_mcp.errors import Outcome
from openrouter_mcp.ledger.sums import Ended, took
from openrouter_mcp.pricing import dearest, is_free
from openrouter_mcp.purse import Vetted
from openrouter_mcp.records import FREE_ROUTER, FREE_SUFFIX, Model
from openrouter_mcp.text import one_line, usd
from openrouter_mcp.wire import Usage

_OF_THE_MODEL = {Outcome.POOL_LIMIT, Outcome.FAILED, Outcome.LOST, Outcome.EMPTY, Outcome.BROKE}


@dataclass(frozen=True)
class End:
    """How a request ended: what OpenRouter says it took, who `served` it as which `generation`, the `outcome` if it
    was a failure; whether it had `begun` to come, the seconds it took to write, and for which `caller` it was."""

    usage: Usage = field(default_factory=Usage)
    served: str = ""
    generation: str = ""
    outcome: Outcome | None = None
    begun: bool = False
    seconds: float = 0.0
    caller: str = ""


def counted(vetted: Vetted, end: End, known: Iterable[Model]) -> Ended:
    """What is to be counted of it, for whom. Without a charge, what a call cost that nobody spoke of is nothing."""
    usage, failed = end.usage, end.outcome in _OF_THE_MODEL
    cost = None if usage.untold else usage.cost or Decimal(0)
    figures = took(usage.prompt_tokens, usage.completion_tokens, end.seconds, cost, failed=failed)
    return Ended(_answering(vetted, end, known), end.caller, figures)


def _answering(vetted: Vetted, end: End, known: Iterable[Model]) -> tuple[str, ...]:
    """The one asked; of several, and of those that the free router takes, whoever served; where none did, all asked."""
    asked = tuple(dict.fromkeys((vetted.request.model, *vetted.request.fallbacks)))
    if asked == (FREE_ROUTER,) or len(asked) > 1:
        may_serve = [*vetted.entries, *(model for model in known if FREE_ROUTER in asked and is_free(model))]
        served = [model.id for model in may_serve if end.served in (model.id, *_names(model))]
        if served:
            return (end.served if end.served in served else served[0],)
    return asked if end.outcome in _OF_THE_MODEL else asked[:1]


def overcharged(vetted: Vetted, usage: Usage) -> str:
    """What is wrong with the cost, if anything: it is above what was reserved, which for a free call is nothing."""
    model = vetted.request.model
    if usage.cost is not None and usage.cost > vetted.worst:
        key = ", the account's own provider key included" if usage.own_key else ""
        return (
            f"a call to {model} cost {usd(usage.cost)}{key}, and {usd(vetted.worst)} was the most it was permitted to"
        )
    if vetted.worst == 0 and usage.untold:
        return f"a call to {model} was permitted as free, and OpenRouter reports a cost for it that cannot be read"
    return ""


def outsider(vetted: Vetted, served: str, known: Iterable[Model]) -> str:
    """What is wrong with who `served`, if anything: a listed model that was not permitted and can be dearer."""
    if _was_permitted(vetted, served):
        return ""
    listed = [model for model in known if served in _names(model)]
    if listed and all(_is_dearer(model, vetted) for model in listed):
        dearer = one_line(listed[0].id, 100)
        return f"{vetted.request.model} was asked, and {dearer} answered, which costs more than was permitted"
    return ""


def unplaced(vetted: Vetted, served: str, known: Iterable[Model]) -> str:
    """A note on who `served` when nobody of that name is listed, so that its price cannot be compared."""
    if not known or _was_permitted(vetted, served) or any(served in _names(model) for model in known):
        return ""
    return f"it was answered by {one_line(served, 100)!r}, which is not listed, so its price could not be compared"


def _was_permitted(vetted: Vetted, served: str) -> bool:
    return served in ("", FREE_ROUTER) or any(served in _names(entry) for entry in vetted.entries)


def _names(model: Model) -> set[str]:
    """What a model calls itself in its answers: its id, or the dated slug that it may share with its twins."""
    dated = [model.canonical_slug] if model.canonical_slug else []
    return {model.id, *dated, *(slug + FREE_SUFFIX for slug in dated if model.id.endswith(FREE_SUFFIX))}


def _is_dearer(model: Model, vetted: Vetted) -> bool:
    prices = dearest(model)
    return not is_free(model) and (prices is None or prices.exceeds(vetted.prices))
