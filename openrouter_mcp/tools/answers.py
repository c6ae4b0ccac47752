"""Reading answers that were asked for before."""

from typing import Annotated

from pydantic import Field

from openrouter_mcp import render
from openrouter_mcp.batch import PREFIX
from openrouter_mcp.render import Reply
from openrouter_mcp.tools.arguments import CurrentApp, CurrentCaller, CurrentWatch

_LISTED = 20


async def read_answer(
    app: CurrentApp,
    watch: CurrentWatch,
    who: CurrentCaller,
    *,
    id: Annotated[str, Field(description="From an earlier result; omitted: lists your newest answers.")] = "",  # noqa: A002
    page: Annotated[int, Field(ge=1, description="Which page of a long answer.")] = 1,
    wait_seconds: Annotated[int, Field(ge=0, le=180, description="How long to wait if it is still writing.")] = 45,
    cancel: Annotated[bool, Field(description="Stop what is still being written or asked.")] = False,
) -> Reply:
    """Read an answer or a batch again: its next page, or what was not done in time.

    Use it when a result says "still writing" or "page 1 of 4", or when a call was cut off: without `id` it lists your
    newest answers and batches. Costs nothing, uses no free request.
    """
    caller = who.name
    if not id:
        return render.answers(await app.answers.newest(_LISTED, caller), await app.results.newest(who))
    if id.startswith(PREFIX):
        if cancel:
            await app.results.stop(id, who)
        return render.batch(await app.results.read(id, page, watch, wait_s=wait_seconds, caller=who))
    if cancel:
        await app.answers.stop(id, caller)
    return render.answer(await app.answers.read(id, page, watch, wait_s=wait_seconds, caller=caller))
