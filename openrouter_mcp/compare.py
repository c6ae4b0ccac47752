"""Several models, one question."""

from collections.abc import Sequence
from dataclasses import replace

import anyio

from openrouter_mcp import choice
from openrouter_mcp.answers import LONGEST_WAIT_S, Answer, Answers
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.errors import InvalidRequest, NoProvider, OpenRouterMCPError
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.wire import ChatRequest

SPARE = 2  # of a minute's requests, left for a person's next question


async def three_free(catalog: Catalog, ledger: Ledger) -> list[str]:
    """The best free model of each of the three best families, none of them on cooldown.

    Raises:
        NoProvider: when there are fewer than two.
    """
    cooling = (await ledger.standing()).cooldowns
    ranked = choice.free_ranked(await catalog.models(), cooling)
    chosen = [model.id for model in choice.different_families(ranked, 3)]
    if len(chosen) < 2:
        raise NoProvider(f"Free models that can be asked right now: {len(chosen)}, too few to compare.")
    return chosen


async def compare(
    answers: Answers, ledger: Ledger, request: ChatRequest, models: Sequence[str]
) -> list[Answer | OpenRouterMCPError]:
    """Ask all `models` at once; one row each, in their order. A failure is a row too.

    Raises:
        InvalidRequest: when a model is named twice.
        MinuteQuota, DailyQuota: when the allowance does not hold a request for each; nothing is sent then.
    """
    twice = sorted({model for model in models if list(models).count(model) > 1})
    if twice:
        raise InvalidRequest(f"{', '.join(twice)} is named twice; each model is asked once.")
    results: dict[str, Answer | OpenRouterMCPError] = {}
    for model in models:
        if refusal := await _refusal(answers, replace(request, model=model)):
            results[model] = refusal
    sendable = [model for model in models if model not in results]
    reserved = await ledger.reserve(len(sendable), longest_wait=LONGEST_WAIT_S, spare=SPARE) if sendable else []
    slots = dict(zip(sendable, reserved, strict=True))

    async def ask(model: str) -> None:
        try:
            results[model] = await answers.ask(replace(request, model=model), slots.pop(model))
        except OpenRouterMCPError as failure:
            failure.model = model
            results[model] = failure

    try:
        async with anyio.create_task_group() as group:
            for model in sendable:
                group.start_soon(ask, model)
    finally:
        await ledger.give_back(list(slots.values()))  # of those a cancel kept from starting
    return [results[model] for model in models]


async def _refusal(answers: Answers, request: ChatRequest) -> OpenRouterMCPError | None:
    """Why `request` will not be sent, or None."""
    try:
        await answers.check(request)
    except OpenRouterMCPError as failure:
        failure.model = request.model
        return failure
    return None
