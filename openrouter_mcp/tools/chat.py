"""Asking: one model, or several at once."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from openrouter_mcp import compare, render
from openrouter_mcp.render import Reply
from openrouter_mcp.tools.arguments import CurrentApp, MaxCost, MaxTokens, Prompt, System
from openrouter_mcp.tools.consent import AgreedToAsk, AgreedToCompare
from openrouter_mcp.wire import ChatRequest


async def ask_model(
    app: CurrentApp,
    agreed: AgreedToAsk,
    *,
    prompt: Prompt,
    model: Annotated[str, Field(description="An id; omitted: the best free ones right now.")] = "",
    system: System = "",
    max_tokens: MaxTokens = 8192,
    max_cost_usd: MaxCost = None,
) -> Reply:
    """Ask another AI model and get its answer.

    Use it for a second opinion, a draft or a task to hand over. A free model uses 1 of the day's free requests, up to
    3 if it must try again. A priced one, which must be named, costs money within the user's budget ($0 unless set).
    """
    model = model or app.guard.default_model(max_cost_usd)
    request = ChatRequest(model=model, prompt=prompt, system=system, max_tokens=max_tokens)
    return render.answer(await app.answers.ask(request, app.guard.purse(max_cost_usd, agreed=agreed)))


async def compare_models(
    app: CurrentApp,
    agreed: AgreedToCompare,
    *,
    prompt: Prompt,
    models: Annotated[
        tuple[str, ...],
        Field(min_length=2, max_length=8, description="2 to 8 ids; omitted: three free ones by different makers."),
    ] = (),
    system: System = "",
    max_tokens: MaxTokens = 8192,
    max_cost_usd: MaxCost = None,
) -> Reply:
    """Ask 2 to 8 models the same thing at once and see their answers side by side.

    Use it when opinions may differ or to choose a model. Uses a free request per free model, more if one must try
    again; priced ones cost money within the user's budget. A model that fails is a row, not an error.
    """
    app.client.require_key()  # one error, not one a row
    request = ChatRequest(model="", prompt=prompt, system=system, max_tokens=max_tokens)
    purse = app.guard.purse(max_cost_usd if models else Decimal(0), agreed=agreed)
    chosen = models or await compare.three_free(app.catalog, app.ledger, app.guard)
    return render.comparison(await compare.compare(app.answers, app.guard, request, chosen, purse))
