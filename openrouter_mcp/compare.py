"""Several models, one question."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal

import anyio

from openrouter_mcp import choice
from openrouter_mcp.answers import LONGEST_WAIT_S, Answers
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.errors import InvalidRequest, NoProvider, OpenRouterMCPError
from openrouter_mcp.guard import Guard, Held
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.transcript import Answer
from openrouter_mcp.vetting import Purse, Vetted
from openrouter_mcp.wire import ChatRequest

SPARE = 2  # of a minute's requests, left for a person's next question


async def three_free(catalog: Catalog, ledger: Ledger, guard: Guard) -> list[str]:
    """The best free model of each of the three best families, none of them on cooldown.

    Raises:
        NoProvider: when there are fewer than two.
    """
    cooling = (await ledger.standing()).cooldowns
    ranked = choice.free_ranked(guard.admitted(await catalog.models()), cooling)
    chosen = await ledger.claim([model.id for model in choice.different_families(ranked, 3)])
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
    answers: Answers,
    guard: Guard,
    request: ChatRequest,
    models: Sequence[str],
    purse: Purse,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[Answer | OpenRouterMCPError]:
    """Ask all `models` at once, for what `purse` may spend in all; one row each, in their order. A failure is a row
    too.

    Raises:
        InvalidRequest: when a model is named twice.
        CannotVerifyPrice, Network: when the catalogue cannot be read.
        OverBudget, Declined, MinuteQuota, DailyQuota: when the worst case of them all does not fit; nothing is sent.
    """
    require_distinct(models)
    gives_up_at = clock() + LONGEST_WAIT_S
    vetted, results = await vet_all(guard, [replace(request, model=model) for model in models], purse)
    if vetted:
        held = await guard.reserve(vetted, purse, longest_wait=gives_up_at - clock(), spare=SPARE)
        waiting = {one.request.model: each for one, each in zip(vetted, held, strict=True)}
        results |= await _ask_all(answers, guard, request, purse, waiting)
    return [results[model] for model in models]


async def vet_all(
    guard: Guard, requests: Iterable[ChatRequest], purse: Purse
) -> tuple[list[Vetted], dict[str, Answer | OpenRouterMCPError]]:
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
) -> tuple[list[Vetted], dict[str, Answer | OpenRouterMCPError]]:
    await guard.require_prices()  # one failure for all, not one after the other
    vetted: list[Vetted] = []
    refused: dict[str, Answer | OpenRouterMCPError] = {}
    for request in requests:
        try:
            vetted.append(await guard.vet(request, purse))
        except OpenRouterMCPError as failure:
            failure.model = request.model
            refused[request.model] = failure
    return vetted, refused


async def _ask_all(
    answers: Answers, guard: Guard, request: ChatRequest, purse: Purse, waiting: dict[str, Held]
) -> dict[str, Answer | OpenRouterMCPError]:
    """Ask each model with what is held for it, all at once."""
    results: dict[str, Answer | OpenRouterMCPError] = {}

    async def ask(model: str) -> None:
        try:
            results[model] = await answers.ask(replace(request, model=model), purse, waiting.pop(model), spare=SPARE)
        except OpenRouterMCPError as failure:
            failure.model = model
            results[model] = failure

    try:
        async with anyio.create_task_group() as group:
            for model in list(waiting):
                group.start_soon(ask, model)
    finally:
        with anyio.CancelScope(shield=True):
            for held in waiting.values():  # of those a cancel kept from starting
                await guard.give_back(held)
    return results
