"""Whether a request may be sent at all, and the most it can cost: the guard's first two layers, each enough by itself.

1. Grammar and catalogue: the id is byte for byte an entry read minutes ago; where nothing may be spent it carries the
   one suffix `:free`.
2. Price: the worst case, over every price the entry lists, fits what may be spent; where that is nothing, every price
   is exactly zero.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from openrouter_mcp import choice
from openrouter_mcp.catalog import Catalog, find, similar
from openrouter_mcp.errors import InvalidRequest, OpenRouterMCPError, TooLarge, UnknownModel
from openrouter_mcp.pricing import (
    Prices,
    costs_nothing,
    dearest,
    is_free,
    most_prompt_tokens,
    per_million,
    typical_cost,
)
from openrouter_mcp.records import FREE_ROUTER, FREE_SUFFIX, MODEL_ID, Model
from openrouter_mcp.refusals import NoBound, NotAllowed, NotFree, OverBudget
from openrouter_mcp.settings import Policy
from openrouter_mcp.text import about_usd, encodable, usd
from openrouter_mcp.wire import ChatRequest

MAX_PROMPT_BYTES = 1024 * 1024
_MAX_ID = 200
_FEWEST_TOKENS = 512  # an answer cut to less by the budget is not worth its price
_ROUTING_SUFFIXES = frozenset({"online", "nitro", "floor", "exacto"})


@dataclass
class Purse:
    """What one tool call may cost, all its attempts together, in USD: the least `limit` there is, whose `name` says
    which it is. `agreed` is how much of it the person need not be asked about; `held` is spent or reserved already."""

    limit: Decimal
    name: str
    agreed: Decimal | None = None
    held: Decimal = Decimal(0)

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
        return not self.entries or any(
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


async def vet(request: ChatRequest, catalog: Catalog, policy: Policy, purse: Purse) -> Vetted:
    """`request` as it may be sent.

    Raises:
        NotFree, OverBudget, NoBound: when it could cost more than `purse` has.
        NotAllowed: when the user's lists exclude a model.
        UnknownModel: when there is no such model.
        CannotVerifyPrice, Network: when the catalogue cannot be read.
        InvalidRequest, TooLarge: when it cannot be sent as it is.
    """
    check_prompt(request)
    _check_model(request)
    asked = (request.model, *request.fallbacks)  # whichever may serve
    known = await catalog.trusted() if asked != (FREE_ROUTER,) else {}
    around = _Around(known, policy, purse)
    entries = [entry for model in asked for entry in _listed(model, request, around)]
    limits = [entry.top_provider.max_completion_tokens for entry in entries]
    max_tokens = min([request.max_tokens, *(limit for limit in limits if limit and limit > 0)])
    request = replace(request, max_tokens=max_tokens)
    return _within(_priced(request, entries, around), purse, around)


@dataclass(frozen=True)
class _Around:
    """What a model is judged by."""

    known: dict[str, Model]
    policy: Policy
    purse: Purse

    def admitted(self) -> list[Model]:
        return [model for model in self.known.values() if self.policy.admits(model.id)]

    def two_free(self) -> list[str]:
        return _ids(choice.free_ranked(self.admitted()))

    def two_priced(self, request: ChatRequest) -> list[str]:
        """Two that the purse bears, the most capable first."""
        tokens, least = _prompt_tokens(request), min(_FEWEST_TOKENS, request.max_tokens)
        bounded = [(model, dearest(model)) for model in self.admitted() if not _unlisted(model.id)]
        bearable = [
            model for model, prices in bounded
            if prices and prices != Prices() and prices.cost(tokens, least) <= self.purse.left
        ]  # fmt: skip
        return _ids(choice.ranked(bearable))

    def refusal(self, model: str, reason: str, request: ChatRequest) -> OpenRouterMCPError:
        """`model` cannot be bounded, for a `reason` that nothing changes."""
        if self.purse.limit:
            return NoBound(model, reason, self.two_priced(request))
        return NotFree(model, reason, self.purse.name, self.two_free())


def check_prompt(request: ChatRequest) -> None:
    """Raise InvalidRequest or TooLarge where no model could be asked this."""
    if not request.prompt.strip():
        raise InvalidRequest("The prompt is empty. Send the question or task in `prompt`.")
    size = sum(len(text.encode("utf-8", "replace")) for _, text in request.messages)
    if size > MAX_PROMPT_BYTES:
        raise TooLarge(f"The prompt has {size} bytes; the limit is {MAX_PROMPT_BYTES}. Send a shorter one, or parts.")
    if request.max_tokens < 1:
        raise InvalidRequest("max_tokens must be 1 or more.")


def _check_model(request: ChatRequest) -> None:
    if not request.model or len(request.model) > _MAX_ID:
        raise InvalidRequest(f"A model's id has 1 to {_MAX_ID} characters; list_free_models shows the ids.")


# --- grammar and catalogue --------------------------------------------------------------------------------------------


def _listed(model: str, request: ChatRequest, around: _Around) -> list[Model]:
    """The catalogue's entry for `model`; none for the free router, which needs no entry."""
    if model == FREE_ROUTER:
        if not around.policy.admits(model):
            raise NotAllowed(model, around.two_free())
        return []
    if reason := _unlisted(model):
        raise around.refusal(model, reason, request)
    if not MODEL_ID.fullmatch(model):
        raise UnknownModel(model, similar(model, around.known))
    entry = find(model, around.known)
    if entry.alias_target:
        raise around.refusal(model, _ALIAS, request)
    if not around.policy.admits(model):
        raise NotAllowed(model, around.two_free())
    if not around.purse.limit and not model.endswith(FREE_SUFFIX):
        raise NotFree(model, _costs(entry, request), around.purse.name, _free_twin(entry, around) or around.two_free())
    return [entry]


_ALIAS = "is an alias that OpenRouter may point elsewhere at any time"


def _unlisted(model: str) -> str:
    """Why an id is refused by its form alone; empty when it may be looked up."""
    author, _, name = model.partition("/")
    if model.startswith("@") or "@preset" in model:
        return "is a preset: what it would run and cost is not known beforehand"
    if model.startswith("~"):
        return _ALIAS
    suffixes = name.split(":")[1:]
    if len(suffixes) > 1 or _ROUTING_SUFFIXES & {*suffixes}:
        return "carries a routing suffix, which can lead to a billed tier or a paid extra"
    if author == "openrouter" and not name.endswith(FREE_SUFFIX):
        return "is one of OpenRouter's routers, which picks models of any price"
    return ""


# --- price ----------------------------------------------------------------------------------------------------------


def _priced(request: ChatRequest, entries: Iterable[Model], around: _Around) -> Vetted:
    """The dearest any of the `entries` can be for the request."""
    prices, typical, tokens = Prices(), Decimal(0), _prompt_tokens(request)
    for entry in entries:
        if is_free(entry):
            continue
        bound = dearest(entry)
        if not around.purse.limit or entry.id.endswith(FREE_SUFFIX):  # what is called free is never bought
            reason = "is listed with a price that is not plainly zero"
            raise NotFree(entry.id, reason, around.purse.name, around.two_free())
        if bound is None:
            raise around.refusal(entry.id, "is listed with a price that cannot be counted beforehand", request)
        prices = prices.or_dearer(bound)
        typical = max(typical, typical_cost(entry, tokens, request.max_tokens))
    return Vetted(request, tuple(entries), prices, prices.cost(tokens, request.max_tokens), typical)


def _within(vetted: Vetted, purse: Purse, around: _Around) -> Vetted:
    """`vetted` with its output limit lowered to what `purse` bears, if need be and if that leaves enough."""
    if vetted.worst <= purse.left:
        return vetted
    request, tokens = vetted.request, _prompt_tokens(vetted.request)
    bearable = vetted.prices.affordable(tokens, purse.left)
    if bearable is None or bearable < min(_FEWEST_TOKENS, request.max_tokens):
        cheaper = around.two_priced(request) or around.two_free()
        raise OverBudget(
            f"{request.model!r} can cost {vetted.estimate} for this call; {purse.name}, of which {usd(purse.left)} is "
            f"left. Nothing was sent. Ask for less (a shorter prompt, fewer max_tokens)"
            + (f", or use {' or '.join(cheaper)}." if cheaper else ".")
        )
    request = replace(request, max_tokens=bearable)
    return replace(vetted, request=request, worst=vetted.prices.cost(tokens, bearable), shortened=True)


def _prompt_tokens(request: ChatRequest) -> int:
    return most_prompt_tokens([encodable(text) for _, text in request.messages])


def _costs(entry: Model, request: ChatRequest) -> str:
    """Why a listed model is not free, and what this call could cost."""
    if costs_nothing(entry.pricing):
        return "is priced at zero today but is not a `:free` variant, so its price may change unannounced"
    bound, tokens = dearest(entry), _prompt_tokens(request)
    if bound is None:
        return "has a price that cannot be counted beforehand"
    most = min(request.max_tokens, entry.top_provider.max_completion_tokens or request.max_tokens)
    worst, typical = about_usd(bound.cost(tokens, most)), about_usd(typical_cost(entry, tokens, most))
    return f"costs {per_million(entry)}, which is up to {worst} for this call, typically {typical}"


def _free_twin(entry: Model, around: _Around) -> list[str]:
    twin = around.known.get(entry.id.partition(":")[0] + FREE_SUFFIX)
    return [twin.id] if twin and is_free(twin) and around.policy.admits(twin.id) else []


def _ids(ranked: Iterable[Model]) -> list[str]:
    return [model.id for model in choice.different_families(ranked)[:2]]
