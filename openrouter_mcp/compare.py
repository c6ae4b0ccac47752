"""Several models, one question."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import anyio

from openrouter_mcp import choice
from openrouter_mcp.answers import LONGEST_WAIT_S, Answers
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.errors import InvalidRequest, NoProvider, OpenRouterMCPError
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.slots import Slot
from openrouter_mcp.transcript import Answer
from openrouter_mcp.wire import ChatRequest

SPARE = 2  # of a minute's requests, left for a person's next question


async def three_free(catalog: Catalog, ledger: Ledger) -> list[str]:
    """The best free model of each of the three best families, none of them on cooldown.

    Raises:
        NoProvider: when there are fewer than two.
    """
    cooling = (await ledger.standing()).cooldowns
    ranked = choice.free_ranked(await catalog.models(), cooling)
    chosen = await ledger.claim([model.id for model in choice.different_families(ranked, 3)])
    if len(chosen) < 2:
        why = f"; {len(cooling)} are left alone for a while, check_credits says which" if cooling else ""
        raise NoProvider(f"Free models that can be asked right now: {len(chosen)}, too few to compare{why}.")
    return chosen


async def compare(
    answers: Answers,
    catalog: Catalog,
    ledger: Ledger,
    request: ChatRequest,
    models: Sequence[str],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[Answer | OpenRouterMCPError]:
    """Ask all `models` at once; one row each, in their order. A failure is a row too.

    Raises:
        InvalidRequest: when a model is named twice.
        CannotVerifyPrice, Network: when the catalogue cannot be read.
        MinuteQuota, DailyQuota: when the allowance does not hold a request for each; nothing is sent then.
    """
    twice = sorted({model for model in models if list(models).count(model) > 1})
    if twice:
        raise InvalidRequest(f"{', '.join(twice)} is named twice; each model is asked once.")
    gives_up_at = clock() + LONGEST_WAIT_S
    await catalog.trusted()  # one failure for all, not one after the other
    results: dict[str, Answer | OpenRouterMCPError] = {}
    for model in models:
        if refusal := await _refusal(answers, replace(request, model=model)):
            results[model] = refusal
    sendable = [model for model in models if model not in results]
    if sendable:
        slots = await ledger.reserve(len(sendable), longest_wait=gives_up_at - clock(), spare=SPARE)
        results |= await _ask_all(answers, ledger, request, dict(zip(sendable, slots, strict=True)))
    return [results[model] for model in models]


async def _ask_all(
    answers: Answers, ledger: Ledger, request: ChatRequest, slots: dict[str, Slot]
) -> dict[str, Answer | OpenRouterMCPError]:
    """Ask each model in its slot, all at once."""
    results: dict[str, Answer | OpenRouterMCPError] = {}

    async def ask(model: str) -> None:
        try:
            results[model] = await answers.ask(replace(request, model=model), slots.pop(model), spare=SPARE)
        except OpenRouterMCPError as failure:
            failure.model = model
            results[model] = failure

    try:
        async with anyio.create_task_group() as group:
            for model in list(slots):
                group.start_soon(ask, model)
    finally:
        await ledger.give_back(list(slots.values()))  # of those a cancel kept from starting
    return results


async def _refusal(answers: Answers, request: ChatRequest) -> OpenRouterMCPError | None:
    """Why `request` will not be sent, or None."""
    try:
        await answers.check(request)
    except OpenRouterMCPError as failure:
        failure.model = request.model
        return failure
    return None
