"""The only issuer of a Permit: the checked, final request. Three layers, each enough by itself to keep a request free:

1. Grammar and catalogue: the id carries the one suffix `:free` and is byte for byte an entry read minutes ago.
2. Price: every price of that entry is exactly zero.
3. The wire: a body built field by field, which tells OpenRouter itself to refuse anything that costs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from openrouter_mcp import choice
from openrouter_mcp.catalog import Catalog, find, similar
from openrouter_mcp.errors import InvalidRequest, NotFree, TooLarge, UnknownModel
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.slots import Slot
from openrouter_mcp.pricing import FREE_ROUTER, FREE_SUFFIX, MODEL_ID, costs_nothing, is_free, per_million
from openrouter_mcp.records import Model
from openrouter_mcp.wire import ChatRequest, chat_body

MAX_PROMPT_BYTES = 1024 * 1024
_MAX_ID = 200
# USD per million tokens, per request and per item; strings, as the API's schema has them. OpenRouter refuses to route
# where a price is higher: https://openrouter.ai/docs/guides/routing/provider-selection#max-price
_NOTHING = {"prompt": "0", "completion": "0", "request": "0", "image": "0", "audio": "0"}
# An account may switch these on for every request; both cost money even on free models.
_PAID_PLUGINS_OFF = ({"id": "web", "enabled": False}, {"id": "fusion", "enabled": False})
_ROUTERS = frozenset({"auto", "auto-beta", "fusion", "pareto-code", "bodybuilder"})


@dataclass
class Permit:
    """One request that may be sent, once, when its `slot` has come. Nothing can be added to its body."""

    models: tuple[str, ...]
    max_tokens: int
    slot: Slot
    _body: bytes = field(repr=False)
    spent: bool = False

    def spend(self) -> bytes:
        """The body, for the one send this permit is good for.

        Raises:
            RuntimeError: on a second use; every attempt needs a permit of its own.
        """
        if self.spent:
            raise RuntimeError("a permit is good for one request")
        self.spent = True
        return self._body


async def permit(
    request: ChatRequest,
    catalog: Catalog,
    ledger: Ledger,
    *,
    time_left: Callable[[], float],
    slot: Slot | None = None,
    spare: int = 0,
) -> Permit:
    """Check the final `request`, count it, and permit it. `slot` is one reserved before; else one is taken that is at
    most `time_left()` seconds away and leaves `spare` of the minute's requests to others.

    Raises:
        OpenRouterMCPError: as `check` does; MinuteQuota, DailyQuota: when it would have to wait too long.
    """
    request = await check(request, catalog)
    body = chat_body(request, max_price=_NOTHING, plugins=_PAID_PLUGINS_OFF)
    if slot is None:
        (slot,) = await ledger.reserve(longest_wait=time_left(), spare=spare)
    return Permit((request.model, *request.fallbacks), request.max_tokens, slot, body)


async def check(request: ChatRequest, catalog: Catalog) -> ChatRequest:
    """`request` as it may be sent, its output limit within every model's own.

    Raises:
        NotFree: when it could cost money.
        UnknownModel: when there is no such model.
        CannotVerifyPrice: when the catalogue cannot be read.
        InvalidRequest, TooLarge: when it cannot be sent as it is.
    """
    _check_size(request)
    limits = [request.max_tokens]
    for model in (request.model, *request.fallbacks):  # whichever may serve
        if model != FREE_ROUTER:
            entry = await _free_entry(model, catalog)
            limits += [limit for limit in [entry.top_provider.max_completion_tokens] if limit and limit > 0]
    return replace(request, max_tokens=min(limits))


def _check_size(request: ChatRequest) -> None:
    if not request.prompt.strip():
        raise InvalidRequest("The prompt is empty. Send the question or task in `prompt`.")
    size = len(request.prompt.encode("utf-8", "replace")) + len(request.system.encode("utf-8", "replace"))
    if size > MAX_PROMPT_BYTES:
        raise TooLarge(f"The prompt has {size} bytes; the limit is {MAX_PROMPT_BYTES}. Send a shorter one, or parts.")
    if not request.model or len(request.model) > _MAX_ID:
        raise InvalidRequest(f"A model's id has 1 to {_MAX_ID} characters; list_free_models shows the ids.")
    if request.max_tokens < 1:
        raise InvalidRequest("max_tokens must be 1 or more.")


async def _free_entry(model: str, catalog: Catalog) -> Model:
    """The catalogue's entry for `model`, if it is free."""
    known = await catalog.trusted()
    reason = _cannot_be_free(model)
    if reason:
        raise NotFree(model, reason, _two_free(known))
    if not MODEL_ID.fullmatch(model):
        raise UnknownModel(model, similar(model, known))
    entry = find(model, known)
    if not entry.id.endswith(FREE_SUFFIX):
        raise NotFree(model, _costs(entry), _free_twin(entry, known) or _two_free(known))
    if not is_free(entry):
        raise NotFree(model, "is listed with a price that is not plainly zero", _two_free(known))
    return entry


def _cannot_be_free(model: str) -> str:
    """Why an id can be refused by its form alone; empty when it may be looked up."""
    author, _, name = model.partition("/")
    if model.startswith("@") or "@preset" in model:
        return "is a preset: what it would run and cost is not known beforehand"
    if model.startswith("~"):
        return "is an alias that OpenRouter may point elsewhere at any time"
    if author == "openrouter" and name.partition(":")[0] in _ROUTERS:
        return "is a router that picks priced models"
    suffixes = model.split(":")[1:]
    if len(suffixes) > 1 or (suffixes and suffixes[0] in ("online", "nitro", "floor", "exacto")):
        return "carries a routing suffix, which can lead to a billed tier or a paid extra"
    return ""


def _costs(entry: Model) -> str:
    if costs_nothing(entry.pricing):
        return "is priced at zero today but is not a `:free` variant, so its price may change unannounced"
    cost = per_million(entry)
    return f"costs {cost}" if cost else "has no fixed price"


def _free_twin(entry: Model, known: dict[str, Model]) -> list[str]:
    twin = known.get(entry.id.partition(":")[0] + FREE_SUFFIX)
    return [twin.id] if twin and is_free(twin) else []


def _two_free(known: dict[str, Model]) -> list[str]:
    return [model.id for model in choice.different_families(choice.free_ranked(known.values()), 2)]
