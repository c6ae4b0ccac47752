"""Finding models."""

from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from openrouter_mcp import choice, finding, nearest, render
from openrouter_mcp.app import App
from openrouter_mcp.finding import Wanted
from openrouter_mcp.records import FREE_SUFFIX, MODEL_ID
from openrouter_mcp.render import Reply
from openrouter_mcp.tools.arguments import CurrentApp
from openrouter_mcp.vetting import why_refused


def _as_list(value: object) -> object:
    """Agents write "tools, json" as well."""
    return [need for need in value.replace(",", " ").split() if need] if isinstance(value, str) else value


Search = Annotated[str, Field(description="Words in the id or name.")]
Needs = Annotated[
    tuple[str, ...],
    BeforeValidator(_as_list),
    Field(description=f"Of: {', '.join(finding.ABILITIES[:8])}."),
]
Limit = Annotated[int, Field(ge=1, le=50, description="Most rows.")]


async def list_free_models(
    app: CurrentApp,
    *,
    search: Search = "",
    needs: Needs = (),
    task: Annotated[
        str,
        Field(description="code, reasoning, writing, translation (and the language), vision, long or fast."),
    ] = "",
    limit: Limit = 15,
) -> Reply:
    """List the models that cost nothing right now, best first for the task.

    Use it to choose an id for ask_model or compare_models: ids change weekly. Costs nothing, uses no free request.
    """
    aim = finding.read_aim(task)
    models = app.guard.admitted(await app.catalog.models())
    seen = (await app.ledger.standing()).seen
    free = choice.free_ranked(models, seen=seen)
    found = choice.free_ranked(finding.matching(free, Wanted(search, needs)), aim=aim, seen=seen)
    return render.free_models(found, limit, free=len(free), aim=aim, seen=seen, about=_about_the_list(app))


async def find_models(
    app: CurrentApp,
    *,
    search: Search = "",
    needs: Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(description="As in list_free_models.")] = (),
    max_price: Annotated[
        Decimal | None,
        Field(ge=0, max_digits=30, description="Most USD per million tokens, in or out."),
        WithJsonSchema({"type": "number", "minimum": 0}),
    ] = None,
    min_context: Annotated[int, Field(ge=0, description="Tokens.")] = 0,
    sort: Annotated[str, Field(description="price, newest, context, or a task as in list_free_models.")] = "",
    limit: Limit = 15,
    model: Annotated[str, Field(description="An id: all about that one, free or not.")] = "",
) -> Reply:
    """Find models that cost money, with their prices, or learn all about one model.

    Use it before naming a priced model, or to see a model's limits and providers. Costs nothing, uses no free request.
    """
    if model:
        return await model_in_depth(app, model)
    models = app.guard.admitted(await app.catalog.models())
    seen = (await app.ledger.standing()).seen
    priced = [one for one in models if finding.is_offered(one) and not one.id.endswith(FREE_SUFFIX)]
    found = finding.matching(priced, Wanted(search, needs, max_price, min_context))
    ordered, aim = finding.in_order(found, sort, seen)
    budget, about = app.guard.policy.daily_budget, _about_the_list(app)
    return render.found_models(ordered, limit, priced=len(priced), aim=aim, budget=budget, seen=seen, about=about)


async def model_in_depth(app: App, model: str) -> Reply:
    """All about the one model of that id.

    Raises:
        UnknownModel: with the nearest ids.
        OpenRouterMCPError: when OpenRouter does not say who serves it.
    """
    listed = await app.catalog.models()
    known = {one.id: one for one in listed if MODEL_ID.fullmatch(one.id.removeprefix("~"))}  # the id goes into a path
    entry = nearest.find(model, known)
    seen = (await app.ledger.standing()).seen
    offers = await app.client.endpoints(entry.id)
    strict = {(offer.model_id, offer.tag) for offer in await app.client.zero_retention()}
    refused = why_refused(entry, app.guard.policy)
    about = _about_the_list(app)
    return render.model(entry, offers, strict, known=known, seen=seen, refused=refused, about=about)


def _about_the_list(app: App) -> str:
    return render.about_the_list(app.catalog.skipped, app.catalog.stale_since)
