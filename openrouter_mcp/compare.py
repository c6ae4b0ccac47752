"""Several models, one question."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal

import anyio

from openrouter_mcp import choice
from openrouter_mcp.attempts import LONGEST_WAIT_S
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.errors import InvalidRequest, NoProvider, OpenRouterMCPError
from openrouter_mcp.guard import Guard
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.transcript import Answer, Draft, failed
from openrouter_mcp.vetting import Purse, Vetted
from openrouter_mcp.wire import ChatRequest
from openrouter_mcp.writing import Watch, Writing

SPARE = 2  # of a minute's requests, left for a person's next question


async def three_free(catalog: Catalog, ledger: Ledger, guard: Guard, request: ChatRequest) -> list[str]:
    """The best free model for `request` of each of the three best families, none of them on cooldown.

    Raises:
        NoProvider: when there are fewer than two.
    """
    cooling = (await ledger.standing()).cooldowns
    suited = choice.free_for(request, guard.admitted(await catalog.models()), cooling)
    chosen = await ledger.claim([model.id for model in suited[:3]])
    if len(chosen) < 2:
        why = f"; {len(cooling)} are left alone for a while, check_credits says which" if cooling else ""
        raise NoProvider(f"Free models that can be asked right now: {len(chosen)}, too few to compare{why}.")
    return chosen


def require_distinct(models: Sequence[str]) -> None:
    """Raise InvalidRequest when a model is named twice."""
    twice = next((model for model in models if list(models).count(model) > 1), None)
    if twice is not None:
        raise InvalidRequest(f"{twice[:200]!r} is named twice; each model is asked once.")


async def compare(
    writing: Writing,
    guard: Guard,
    request: ChatRequest,
    models: Sequence[str],
    purse: Purse,
    *,
    watch: Watch,
    caller: str = "",
) -> list[Draft]:
    """Ask all `models` at once, for what `purse` may spend in all, and wait as long as the client does; one row each,
    in their order, done or not. A failure is a row too.

    Raises:
        InvalidRequest: when a model is named twice.
        CannotVerifyPrice, Network: when the catalogue cannot be read.
        OverBudget, Declined, MinuteQuota, DailyQuota: when the worst case of them all does not fit; nothing is sent.
    """
    require_distinct(models)
    started = anyio.current_time()
    vetted, rows = await vet_all(guard, [replace(request, model=model) for model in models], purse)
    if vetted:
        time_left = max(0.0, LONGEST_WAIT_S - (anyio.current_time() - started))
        held = await guard.reserve(vetted, purse, longest_wait=time_left, spare=SPARE)
        running = [
            writing.start(replace(request, model=one.request.model), purse, held=each, spare=SPARE, caller=caller)
            for one, each in zip(vetted, held, strict=True)
        ]
        rows |= {one.request.model: each.draft for one, each in zip(vetted, running, strict=True)}
        await writing.wait(running, watch)
    return [rows[model] for model in models]


async def vet_all(guard: Guard, requests: Iterable[ChatRequest], purse: Purse) -> tuple[list[Vetted], dict[str, Draft]]:
    """Those of `requests` that may be sent, and why not for the other models. Where `purse` does not bear them all,
    each may cost an equal share of it."""
    vetted, refused = await _vet_each(guard, requests, purse)
    priced = [one for one in vetted if one.worst]
    if sum(one.worst for one in priced) > purse.left:
        share = replace(purse, limit=purse.left / len(priced), held=Decimal(0))
        shorter, too_dear = await _vet_each(guard, [one.request for one in vetted], share)
        vetted = vetted if too_dear else shorter  # else `reserve` says what they would cost together
    return vetted, refused


async def _vet_each(
    guard: Guard, requests: Iterable[ChatRequest], purse: Purse
) -> tuple[list[Vetted], dict[str, Draft]]:
    await guard.require_prices()  # one failure for all, not one after the other
    vetted: list[Vetted] = []
    refused: dict[str, Draft] = {}
    for request in requests:
        try:
            vetted.append(await guard.vet(request, purse))
        except OpenRouterMCPError as failure:
            refused[request.model] = failed(Answer(models=(request.model,)), failure)
    return vetted, refused
