"""Asking: one model, several at once, or one many things."""

from typing import Annotated

from pydantic import Field

from openrouter_mcp import compare, render
from openrouter_mcp.render import Reply
from openrouter_mcp.tools.arguments import (
    Attach,
    AttachToo,
    ContinueFrom,
    CurrentApp,
    CurrentCaller,
    CurrentWatch,
    Form,
    MaxCost,
    MaxCostToo,
    MaxTokens,
    MaxTokensToo,
    ObjectToo,
    Prompt,
    RareOptions,
    System,
)
from openrouter_mcp.tools.consent import AgreedToAsk, AgreedToAskMany, AgreedToCompare
from openrouter_mcp.tools.requests import base_request, for_default, question, require_single


async def ask_model(
    app: CurrentApp,
    agreed: AgreedToAsk,
    watch: CurrentWatch,
    caller: CurrentCaller,
    *,
    prompt: Prompt,
    model: Annotated[str, Field(description="An id; omitted: the best free ones right now.")] = "",
    system: System = "",
    schema: Form = None,
    attach: Attach = (),
    continue_from: ContinueFrom = "",
    max_tokens: MaxTokens = 8192,
    max_cost_usd: MaxCost = None,
    options: RareOptions = None,
) -> Reply:
    """Ask another AI model and get its answer.

    Use it for a second opinion, a draft or a task to hand over. A free model uses 1 of the day's free requests, up to
    3 if it must try again. A priced one, which must be named, costs money within the user's budget ($0 unless set).
    What takes too long comes later: read_answer waits for it.
    """
    app.client.require_key()
    request = await base_request(
        app, caller, model=model, prompt=prompt, system=system, schema=schema, attach=attach, max_tokens=max_tokens,
        options=options,
    )  # fmt: skip
    asked = await question(app, caller, request, continue_from=continue_from, max_cost=max_cost_usd)
    if kept := await app.answers.repeated(asked.request, caller.name):
        return render.answer(app.answers.view(kept))
    purse = app.guard.purse(max_cost_usd, agreed=agreed, caller=caller)
    running = app.writing.start(asked.request, purse, parent=asked.parent, note=asked.note, caller=caller.name)
    await app.writing.wait([running], watch)
    if running.failure:
        raise running.failure
    return render.answer(app.answers.view(running.draft))


async def compare_models(
    app: CurrentApp,
    agreed: AgreedToCompare,
    watch: CurrentWatch,
    caller: CurrentCaller,
    *,
    prompt: Prompt,
    models: Annotated[
        tuple[str, ...],
        Field(min_length=2, max_length=8, description="2 to 8 ids; omitted: three free ones by different makers."),
    ] = (),
    judge: Annotated[str, Field(description="Id of a model that ranks the answers blind.")] = "",
    system: System = "",
    schema: ObjectToo = None,
    attach: AttachToo = (),
    max_tokens: MaxTokensToo = 8192,
    max_cost_usd: MaxCostToo = None,
    options: ObjectToo = None,
) -> Reply:
    """Ask 2 to 8 models the same thing at once and see their answers side by side.

    Use it when opinions may differ or to choose a model. Uses a free request per free model, the judge included, more
    if one must try again; priced ones cost money within the user's budget. A model that fails is a row, not an error.
    """
    app.client.require_key()  # one error, not one a row
    request = await base_request(
        app, caller, prompt=prompt, system=system, schema=schema, max_tokens=max_tokens, options=options, attach=attach
    )
    require_single(request)
    named = app.guard.purse(max_cost_usd, agreed=agreed, caller=caller)
    purse = named if models else app.guard.nothing(caller)
    chosen = models or await compare.three_free(app.catalog, app.ledger, app.guard, request)
    rows, judged = await compare.compare(
        app.answers, app.guard, request, chosen, purse, watch=watch, judge=judge, judges_purse=named, caller=caller.name
    )
    return render.comparison(rows, judged)


async def ask_many(
    app: CurrentApp,
    agreed: AgreedToAskMany,
    watch: CurrentWatch,
    caller: CurrentCaller,
    *,
    prompts: Annotated[
        tuple[str, ...], Field(min_length=1, max_length=100, description="1 to 100 tasks, each complete in itself.")
    ],
    model: Annotated[str, Field(description="An id; omitted: the best free ones right now.")] = "",
    system: System = "",
    schema: ObjectToo = None,
    max_tokens: MaxTokensToo = 8192,
    max_cost_usd: MaxCostToo = None,
) -> Reply:
    """Ask one model many separate things in one call.

    Use it for the same job over a list of inputs. Uses a free request per different prompt, paced so that other calls
    find room; a priced model costs money within the user's budget for one call. Returns what is done in time and an id:
    read_answer(id) shows how far it is and the answers in order.
    """
    app.client.require_key()
    request = await base_request(app, caller, model=model, system=system, schema=schema, max_tokens=max_tokens)
    request = for_default(app, caller, request, max_cost_usd)
    purse = app.guard.purse(max_cost_usd, agreed=agreed, caller=caller)
    id_ = await app.batches.begin(request, prompts, purse, max_cost=max_cost_usd, agreed=agreed, caller=caller)
    return render.batch(await app.results.wait(id_, watch, caller=caller))
