"""What clients can show beside the tools: the same texts by address, and the ids to complete them with."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass

from openrouter_mcp import finding, render
from openrouter_mcp.app import App
from openrouter_mcp.callers import Caller
from openrouter_mcp.choice import free_ranked
from openrouter_mcp.tools.account import check_credits
from openrouter_mcp.tools.answers import read_answer
from openrouter_mcp.tools.models import list_free_models, model_in_depth


@dataclass(frozen=True)
class Resource:
    """A text at `uri`, which `read` gives, with the parts of the address that are in braces."""

    uri: str
    name: str
    description: str
    read: Callable[..., Awaitable[str]]


async def _free(app: App) -> str:
    return (await list_free_models(app, limit=50)).text


async def _model(app: App, author: str, slug: str) -> str:
    return (await model_in_depth(app, f"{author}/{slug}")).text


async def _answer(app: App, id: str) -> str:  # noqa: A002 - as in the address
    watch = app.writing.watch(_nobody_is_told, wanted=False)
    return (await read_answer(app, watch, READER.get(), id=id, wait_seconds=0)).text


async def _nobody_is_told(_: float, __: str) -> None: ...


async def _usage(app: App) -> str:
    return (await check_credits(app, READER.get())).text


async def _options(_: App) -> str:
    return render.options()


# Who reads: the SDK hands a resource without parts nothing at all.
READER: ContextVar[Caller] = ContextVar("reader")

RESOURCES = (
    Resource("openrouter://models/free", "free models", "What is free now, best first.", _free),
    Resource("openrouter://models/{author}/{slug}", "model", "All about one model.", _model),
    Resource("openrouter://answers/{id}", "answer", "An answer or a batch, as far as it is.", _answer),
    Resource("openrouter://usage", "usage", "What is left and what was spent.", _usage),
    Resource("openrouter://options", "options", "Every field of `options`.", _options),
)


async def completed(app: App, name: str, value: str, author: str = "") -> list[str]:
    """What the argument `name` of an address or a prompt may be that begins with `value`: the `author` and `slug` of a
    model, an id, or the last of several ids; free models first."""
    offered = [model for model in app.guard.admitted(await app.catalog.models()) if finding.is_offered(model)]
    free = [model.id for model in free_ranked(offered, seen=app.ledger.seen)]
    ids = [*free, *sorted({model.id for model in offered} - {*free})]
    before = ""
    if name == "author":
        ids = list(dict.fromkeys(id_.partition("/")[0] for id_ in ids))
    elif name == "slug":
        ids = [id_.partition("/")[2] for id_ in ids if not author or id_.startswith(f"{author}/")]
    elif name == "models":
        before, _, value = value.rpartition(",")
        before = before and f"{before},"
    elif name != "model":
        return []
    wanted = value.strip().casefold()
    begin = [id_ for id_ in ids if id_.casefold().startswith(wanted)]
    contain = [id_ for id_ in ids if wanted in id_.casefold() and id_ not in begin]
    return [before + id_ for id_ in [*begin, *contain]]
