"""Finding models."""

from typing import Annotated

from pydantic import Field

from openrouter_mcp import choice, render
from openrouter_mcp.render import Reply
from openrouter_mcp.tools.arguments import CurrentApp


async def list_free_models(
    app: CurrentApp,
    search: Annotated[str, Field(description="Keep ids and names containing this.")] = "",
    limit: Annotated[int, Field(ge=1, le=50, description="Most rows to show.")] = 15,
) -> Reply:
    """List the models that cost nothing right now, best first.

    Use it to choose an id for ask_model or compare_models: ids change weekly. Costs nothing, uses no free request.
    """
    free = choice.free_ranked(app.guard.admitted(await app.catalog.models()))
    wanted = search.strip().casefold()
    found = [model for model in free if wanted in model.id.casefold() or wanted in model.name.casefold()]
    return render.free_models(found[:limit], matching=len(found), free=len(free))
