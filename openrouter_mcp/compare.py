"""Several models, one question."""

from collections.abc import Sequence
from dataclasses import replace

import anyio

from openrouter_mcp import choice
from openrouter_mcp.answers import Answer, Answers
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.errors import InvalidRequest, NoProvider, OpenRouterMCPError
from openrouter_mcp.wire import ChatRequest


async def three_free(catalog: Catalog) -> list[str]:
    """The best free model of each of the three best families.

    Raises:
        NoProvider: when there are fewer than two.
    """
    ranked = choice.free_ranked(await catalog.models())
    chosen = [model.id for model in choice.different_families(ranked, 3)]
    if len(chosen) < 2:
        raise NoProvider(f"OpenRouter lists {len(chosen)} free models right now, too few to compare.")
    return chosen


async def compare(answers: Answers, request: ChatRequest, models: Sequence[str]) -> list[Answer | OpenRouterMCPError]:
    """Ask all `models` at once; one row each, in their order. A failure is a row too.

    Raises:
        InvalidRequest: when a model is named twice.
    """
    twice = sorted({model for model in models if list(models).count(model) > 1})
    if twice:
        raise InvalidRequest(f"{', '.join(twice)} is named twice; each model is asked once.")
    rows: dict[str, Answer | OpenRouterMCPError] = {}

    async def ask(model: str) -> None:
        try:
            rows[model] = await answers.ask(replace(request, model=model))
        except OpenRouterMCPError as failure:
            failure.model = model
            rows[model] = failure

    async with anyio.create_task_group() as group:
        for model in models:
            group.start_soon(ask, model)
    return [rows[model] for model in models]
