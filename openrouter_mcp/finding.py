"""Which models fit what is wanted of them: words to search for, abilities, price, context. Pure."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from openrouter_mcp.choice import Aim, Seen, Task, ranked
from openrouter_mcp.errors import InvalidRequest
from openrouter_mcp.pricing import A_MILLION, plain_prices
from openrouter_mcp.records import MODEL_ID, Model

# What each ability is in the catalogue: of the parameters taken, or of the kinds of content read or written.
_PARAMETERS = {
    "tools": {"tools"},
    "reasoning": {"reasoning"},
    "json": {"response_format", "structured_outputs"},
    "schema": {"structured_outputs"},
}
_READS = ("image", "file", "audio", "video")
_WRITES = {"image_output": "image", "audio_output": "audio"}
ABILITIES = (*_PARAMETERS, *_READS, *_WRITES)
_TASKS = tuple(task for task in Task if task)
# Also with a colon, a comma or brackets before the language; what brackets add to it is left out.
_TRANSLATION = re.compile(r"(?i:translation)[\s:,(]+(?:(?:in)?to\s+)?([^\W\d_][\w '-]{1,39})(?:[()].*)?")
_ORDERS: Mapping[str, Callable[[Model], tuple[float | Decimal, ...]]] = {
    "price": lambda model: (sum(plain_prices(model) or (Decimal("Infinity"),)),),
    "newest": lambda model: (-model.created,),
    "context": lambda model: (-(model.context_length or 0),),
}


@dataclass(frozen=True)
class Wanted:
    """What a model must be: `words` in its id or name, `needs` of `ABILITIES`, at most `max_price` USD per million
    tokens in or out, at least `min_context` tokens of context."""

    words: str = ""
    needs: tuple[str, ...] = ()
    max_price: Decimal | None = None
    min_context: int = 0


def matching(models: Iterable[Model], wanted: Wanted) -> list[Model]:
    """Those of `models` that are all that is wanted.

    Raises:
        InvalidRequest: when a need is none that a model could have.
    """
    for need in wanted.needs:
        if need not in ABILITIES:
            raise InvalidRequest(f"`needs` cannot hold {need[:40]!r}.{_nearest(need, ABILITIES)} {_listed(ABILITIES)}")
    words = {*wanted.words.casefold().split()}
    needs = frozenset(wanted.needs)
    return [
        model
        for model in models
        if (not words or _says(model, words))
        and (model.context_length or 0) >= wanted.min_context
        and (not needs or needs.issubset(abilities(model)))
        and (wanted.max_price is None or _is_within(model, wanted.max_price))
    ]


def abilities(model: Model) -> list[str]:
    """What `model` can do besides reading and writing text, in words of `ABILITIES`."""
    takes, kinds = {*model.supported_parameters}, model.architecture
    return [
        *(name for name, parameters in _PARAMETERS.items() if parameters & takes),
        *(kind for kind in _READS if kind in kinds.input_modalities),
        *(name for name, kind in _WRITES.items() if kind in kinds.output_modalities),
    ]


def read_aim(text: str) -> Aim:
    """The task that `text` names, with the language of a translation.

    Raises:
        InvalidRequest: when it is none we know.
    """
    aim = _aim(text)
    if aim is None:
        raise InvalidRequest(f"{text[:40]!r} is no task.{_nearest(text, _TASKS)} {_listed(_TASKS)}")
    return aim


def _aim(text: str) -> Aim | None:
    said = text.strip()
    if said.casefold() in [*Task]:
        return Aim(Task(said.casefold()))
    match = _TRANSLATION.fullmatch(said)
    return Aim(Task.TRANSLATION, match[1].strip()) if match else None


def in_order(models: Iterable[Model], sort: str, seen: Seen) -> tuple[list[Model], Aim | None]:
    """`models` by price, newest or context, or best first for a task, which is then returned too.

    Raises:
        InvalidRequest: when there is no such order.
    """
    if key := _ORDERS.get(sort.strip().casefold()):
        return sorted(models, key=lambda model: (*key(model), model.id)), None
    aim = _aim(sort)
    if aim is None:
        known = [*_ORDERS, *_TASKS]
        raise InvalidRequest(f"`sort` cannot be {sort[:40]!r}.{_nearest(sort, known)} {_listed(known)}")
    return ranked(models, aim, seen), aim


def is_offered(model: Model) -> bool:
    """Whether it can be asked for by its id: no router, no alias, no id that another reader could take for another."""
    return (
        not model.alias_target and not model.id.startswith("openrouter/") and MODEL_ID.fullmatch(model.id) is not None
    )


def _says(model: Model, words: Collection[str]) -> bool:
    text = f"{model.id} {model.name}".casefold()
    return all(word in text for word in words)


def _is_within(model: Model, ceiling: Decimal) -> bool:
    prices = plain_prices(model)
    return prices is not None and max(prices) * A_MILLION <= ceiling


def _nearest(said: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(said.casefold()[:40], known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def _listed(known: Iterable[str]) -> str:
    return f"Known are {', '.join(known)}."
