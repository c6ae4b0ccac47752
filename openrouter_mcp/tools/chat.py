"""Asking: one model, or several at once."""

from typing import Annotated

from pydantic import Field

from openrouter_mcp import compare, render
from openrouter_mcp.render import Reply
from openrouter_mcp.tools.arguments import CurrentApp, MaxTokens, Prompt, System
from openrouter_mcp.wire import ChatRequest


async def ask_model(
    app: CurrentApp,
    prompt: Prompt,
    model: Annotated[str, Field(description="Id ending in :free; omitted: the best free ones right now.")] = "",
    system: System = "",
    max_tokens: MaxTokens = 8192,
) -> Reply:
    """Ask another AI model and get its answer.

    Use it for a second opinion, a draft or a task to hand over. Uses 1 of the day's free requests, up to 3 if it
    must try again; never money.
    """
    request = ChatRequest(model=model, prompt=prompt, system=system, max_tokens=max_tokens)
    return render.answer(await app.answers.ask(request))


async def compare_models(
    app: CurrentApp,
    prompt: Prompt,
    models: Annotated[
        tuple[str, ...],
        Field(min_length=2, max_length=8, description="2 to 8 ids; omitted: three free ones by different makers."),
    ] = (),
    system: System = "",
    max_tokens: MaxTokens = 8192,
) -> Reply:
    """Ask 2 to 8 models the same thing at once and see their answers side by side.

    Use it when opinions may differ or to choose a model. Uses a free request per model, more if one must try again;
    never money. A model that fails is a row, not an error.
    """
    request = ChatRequest(model="", prompt=prompt, system=system, max_tokens=max_tokens)
    app.client.require_key()  # one error, not one a row
    chosen = models or await compare.three_free(app.catalog, app.ledger)
    return render.comparison(await compare.compare(app.answers, app.catalog, app.ledger, request, chosen))
