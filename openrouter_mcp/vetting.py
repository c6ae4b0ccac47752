"""Whether a request may be sent at all, and the most it can cost: the guard's first two layers, each enough by itself.

1. Grammar and catalogue: the id is byte for byte an entry read minutes ago; where nothing may be spent it carries the
   one suffix `:free`.
2. Price: the worst case, over every price the entry lists, fits what may be spent; where that is nothing, every price
   is exactly zero.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from openrouter_mcp import choice
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.errors import InvalidRequest, OpenRouterMCPError, TooLarge
from openrouter_mcp.nearest import find, unknown
from openrouter_mcp.policy import Policy
from openrouter_mcp.pricing import (
    Prices,
    costs_nothing,
    dearest,
    is_free,
    most_prompt_tokens,
    per_million,
    typical_cost,
)
from openrouter_mcp.purse import Purse, Vetted
from openrouter_mcp.records import FREE_ROUTER, FREE_SUFFIX, MODEL_ID, Model
from openrouter_mcp.refusals import NoBound, NotAllowed, NotFree, OverBudget, Unable
from openrouter_mcp.text import about_usd, encodable, usd

MAX_PROMPT_BYTES = 1024 * 1024
_MAX_ID = 200
_FEWEST_TOKENS = 512  # an answer cut to less by the budget is not worth its price
# https://openrouter.ai/docs/guides/features/plugins/web-search: $4 for 1,000 results of Exa; rather too much than too
# little, since a search of few results may cost as much as one of five.
_SEARCH_USD = Decimal("0.02")
# Tokens that a provider adds, and charges, to explain tools to its model, some hundreds with Anthropic:
# https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/overview#pricing
_AROUND_TOOLS = 1024
_CACHE = "input_cache_write"
_INSTEAD_OF_SUFFIX = {
    "online": '{"web_search": 5}',
    "nitro": '{"provider": {"sort": "throughput"}}',
    "floor": '{"provider": {"sort": "price"}}',
    "exacto": '{"provider": {"sort": "exacto"}}',
}


async def vet(
    request: ChatRequest, catalog: Catalog, policy: Policy, purse: Purse, seen: choice.Seen = choice.NOTHING
) -> Vetted:
    """`request` as it may be sent. `seen` is what the models offered instead of a refused one are ranked by.

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
    around = _Around(known, policy, purse, seen)
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
    seen: choice.Seen

    def admitted(self) -> list[Model]:
        return [model for model in self.known.values() if self.policy.admits(model.id)]

    def two_free(self, request: ChatRequest) -> list[str]:
        free = choice.free_ranked(self.admitted(), seen=self.seen)
        return _ids(model for model in free if choice.can(model, request))

    def two_priced(self, request: ChatRequest) -> list[str]:
        """Two that the purse bears, the most capable first."""
        least = min(_FEWEST_TOKENS, request.max_tokens)
        bearable = []
        for model in self.admitted():
            prices, tokens = dearest(model), _prompt_tokens(request, model)
            if _unlisted(model.id) or not prices or prices == Prices() or tokens is None:
                continue
            if choice.can(model, request) and prices.cost(tokens, least) <= self.purse.left - _fee(
                request, prices.image
            ):
                bearable.append(model)
        return _ids(choice.ranked(bearable, seen=self.seen))

    def two_able(self, request: ChatRequest) -> list[str]:
        """Two that can do what the request needs, free ones first."""
        free = _ids(choice.free_for(request, self.admitted(), seen=self.seen))
        return free or (self.two_priced(request) if self.purse.limit else [])

    def refusal(self, model: str, reason: str, request: ChatRequest) -> OpenRouterMCPError:
        """`model` cannot be bounded, for a `reason` that nothing changes."""
        if self.purse.limit:
            return NoBound(model, reason, self.two_priced(request))
        return NotFree(model, reason, self.purse.name, self.two_free(request))


def check_prompt(request: ChatRequest) -> None:
    """Raise InvalidRequest or TooLarge where no model could be asked this."""
    if not request.prompt.strip() and not request.options.tool_results:
        raise InvalidRequest("The prompt is empty. Send the question or task in `prompt`.")
    attached = sum(len(part.text.encode()) for part in request.parts)
    size = sum(len(text.encode("utf-8", "replace")) for text in request.texts) - attached
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
            raise NotAllowed(model, around.two_free(request))
        return []
    if reason := _unlisted(model):
        raise around.refusal(model, reason, request)
    if not MODEL_ID.fullmatch(model):
        raise unknown(model, around.known)
    entry = find(model, around.known)
    if entry.alias_target:
        raise around.refusal(model, _ALIAS, request)
    if not around.policy.admits(model):
        raise NotAllowed(model, around.two_free(request))
    if not around.purse.limit and not model.endswith(FREE_SUFFIX):
        raise NotFree(
            model,
            _costs(entry, request),
            around.purse.name,
            _free_twin(entry, request, around) or around.two_free(request),
        )
    if not choice.can(entry, request):
        raise Unable(model, choice.lacking(entry, request), around.two_able(request))
    return [entry]


_ALIAS = "is an alias that OpenRouter may point elsewhere at any time"
_FREE_TODAY = "is priced at zero today but is not a `:free` variant, so its price may change unannounced"


def _unlisted(model: str) -> str:
    """Why an id is refused by its form alone; empty when it may be looked up."""
    author, _, name = model.partition("/")
    if model.startswith("@") or "@preset" in model:
        return "is a preset: what it would run and cost is not known beforehand"
    if model.startswith("~"):
        return _ALIAS
    suffixes = name.split(":")[1:]
    routing = [suffix for suffix in suffixes if suffix in _INSTEAD_OF_SUFFIX]
    if len(suffixes) > 1 or routing:
        instead = f"; options {_INSTEAD_OF_SUFFIX[routing[0]]} does the same" if routing else ""
        return f"carries a routing suffix, which can lead to a billed tier or a paid extra{instead}"
    if author == "openrouter" and not name.endswith(FREE_SUFFIX):
        return "is one of OpenRouter's routers, which picks models of any price"
    return ""


def why_refused(entry: Model, policy: Policy) -> str:
    """Why no request could be for `entry`, whatever it asks; empty when one could."""
    routes_free = entry.id == FREE_ROUTER
    if not routes_free and (reason := _unlisted(entry.id) or (_ALIAS if entry.alias_target else "")):
        return f"it {reason}"
    if not policy.admits(entry.id):
        return "this server's user decided which models may be asked, and it is not one of them"
    if routes_free or is_free(entry):
        return ""
    if entry.id.endswith(FREE_SUFFIX):
        return "it is called free and listed with a price that is not plainly zero"
    if not policy.daily_budget:
        return f"it {_FREE_TODAY}" if costs_nothing(entry.pricing) else "it costs money, and this server's budget is $0"
    return "" if dearest(entry) else "its price cannot be counted beforehand"


# --- price ----------------------------------------------------------------------------------------------------------


def _priced(request: ChatRequest, entries: Iterable[Model], around: _Around) -> Vetted:
    """The dearest any of the `entries` can be for the request."""
    prices, typical, fee = Prices(), Decimal(0), _fee(request)
    tokens = _prompt_tokens(request, *entries)
    if fee and not around.purse.limit:
        reason = f"searches the web, which costs up to {usd(fee)} with any model"
        raise NotFree(request.model, reason, around.purse.name, without="options.web_search")
    if tokens is None:
        raise around.refusal(request.model, "does not say how much it reads", request)
    for entry in entries:
        if is_free(entry):
            continue
        bound = dearest(entry)
        if not around.purse.limit or entry.id.endswith(FREE_SUFFIX):  # what is called free is never bought
            reason = "is listed with a price that is not plainly zero"
            raise NotFree(entry.id, reason, around.purse.name, around.two_free(request))
        if bound is None:
            raise around.refusal(entry.id, "is listed with a price that cannot be counted beforehand", request)
        if request.options.cache == "1h" and _CACHE in entry.pricing and f"{_CACHE}_1h" not in entry.pricing:
            raise InvalidRequest(f'{entry.id!r} lists no price for a cache of 1h. Use options {{"cache": "5m"}}.')
        prices = prices.or_dearer(bound)
        typical = max(typical, typical_cost(entry, tokens, request.max_tokens))
    fee = _fee(request, prices.image)
    worst = prices.cost(tokens, request.max_tokens) + fee
    return Vetted(request, tuple(entries), prices, worst, typical + fee)


def _within(vetted: Vetted, purse: Purse, around: _Around) -> Vetted:
    """`vetted` with its output limit lowered to what `purse` bears, if need be and if that leaves enough."""
    if vetted.worst <= purse.left:
        return vetted
    request, fee = vetted.request, _fee(vetted.request, vetted.prices.image)
    tokens = _prompt_tokens(request, *vetted.entries) or 0
    bearable = vetted.prices.affordable(tokens, purse.left - fee)
    if bearable is None or bearable < min(_FEWEST_TOKENS, request.max_tokens):
        cheaper = around.two_priced(request) or around.two_free(request)
        raise OverBudget(
            f"{request.model!r} can cost {vetted.estimate} for this call; {purse.name}, of which {usd(purse.left)} is "
            f"left. Nothing was sent. Ask for less (a shorter prompt, fewer max_tokens)"
            + (f", or use {' or '.join(cheaper)}." if cheaper else ".")
        )
    request = replace(request, max_tokens=bearable)
    return replace(vetted, request=request, worst=vetted.prices.cost(tokens, bearable) + fee, shortened=True)


def _prompt_tokens(request: ChatRequest, *entries: Model) -> int | None:
    """The most that any of the `entries` reads for it; None when that has no bound."""
    if not request.is_bounded:
        contexts = [entry.context_length for entry in entries if not is_free(entry)]
        known = [context for context in contexts if context and context > 0]
        return max(known, default=0) if len(known) == len(contexts) else None
    around = _AROUND_TOOLS if request.options.tools else 0
    return most_prompt_tokens([encodable(text) for text in request.texts]) + around


def _fee(request: ChatRequest, image: Decimal = Decimal(0)) -> Decimal:
    """What is paid besides tokens, where a picture costs so much."""
    pictures = sum(part.kind != "text" for part in request.parts)
    return _SEARCH_USD * (request.options.web_search or 0) + image * pictures


def _costs(entry: Model, request: ChatRequest) -> str:
    """Why a listed model is not free, and what this call could cost."""
    if costs_nothing(entry.pricing):
        return _FREE_TODAY
    bound, tokens = dearest(entry), _prompt_tokens(request, entry)
    if bound is None or tokens is None:
        return "has a price that cannot be counted beforehand"
    most = min(request.max_tokens, entry.top_provider.max_completion_tokens or request.max_tokens)
    worst, typical = about_usd(bound.cost(tokens, most)), about_usd(typical_cost(entry, tokens, most))
    return f"costs {per_million(entry)}, which is up to {worst} for this call, typically {typical}"


def _free_twin(entry: Model, request: ChatRequest, around: _Around) -> list[str]:
    twin = around.known.get(entry.id.partition(":")[0] + FREE_SUFFIX)
    serves = twin and is_free(twin) and around.policy.admits(twin.id) and choice.can(twin, request)
    return [twin.id] if twin and serves else []


def _ids(ranked: Iterable[Model]) -> list[str]:
    return [model.id for model in choice.different_families(ranked)[:2]]
