"""The arguments that tools share: what the SDK hands in, and the fields a model fills."""

from decimal import Decimal
from typing import Annotated, Any

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, Resolve
from pydantic import Field, WithJsonSchema

from openrouter_mcp.app import App
from openrouter_mcp.callers import Caller
from openrouter_mcp.writing import Watch


async def current_app(context: Context[App]) -> App:
    """The process's one App, which `server.build` put into every connection's lifespan."""
    return context.request_context.lifespan_context


def caller_of(context: ServerRequestContext[App, Any]) -> Caller:
    """Whoever sent the request, as the door let them in; over stdio the user of this process."""
    if context.request is None:
        settings = context.lifespan_context.settings
        return Caller(settings.caller, files=settings.files)
    caller: Caller = context.request.scope["state"]["caller"]  # never somebody else in their place: it fails without
    return caller


async def current_caller(context: Context[App]) -> Caller:
    """Whoever called this tool."""
    return caller_of(context.request_context)


async def current_watch(context: Context[App]) -> Watch:
    """Whoever called this tool, if their client asked to be told of progress."""

    async def report(value: float, words: str) -> None:
        await context.report_progress(value, None, words)

    wanted = "progress_token" in (context.request_context.meta or {})
    return context.request_context.lifespan_context.writing.watch(report, wanted=wanted)


CurrentApp = Annotated[App, Resolve(current_app)]
CurrentCaller = Annotated[Caller, Resolve(current_caller)]
CurrentWatch = Annotated[Watch, Resolve(current_watch)]
Prompt = Annotated[str, Field(description="The whole task: the model sees nothing else of your conversation.")]
System = Annotated[str, Field(description="System prompt: role, tone, rules.")]
MaxTokens = Annotated[int, Field(ge=1, description="Most tokens to write, reasoning included.")]
# Written as the plain number it is: pydantic's own schema of a Decimal is a union with a pattern.
MaxCost = Annotated[
    Decimal | None,
    Field(ge=0, max_digits=30, description="Most USD this call may cost; only lowers the user's budget. 0: free only."),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
ContinueFrom = Annotated[str, Field(description="Id of an answer to go on from: its whole conversation is sent along.")]
# What is in it stands in a resource, not in the schema, which is sent along with every conversation.
RareOptions = Annotated[
    dict[str, Any] | None,
    Field(
        description="Rare fields: temperature, seed, stop, reasoning_effort, fallbacks, provider, tools, ...; "
        "openrouter://options has all, an error names the nearest."
    ),
    WithJsonSchema({"type": "object"}),
]
Form = Annotated[
    dict[str, Any] | None,
    Field(description="JSON Schema the answer must follow; {}: any JSON object. It is checked, and mended once."),
    WithJsonSchema({"type": "object"}),
]
Attach = Annotated[
    tuple[str, ...],
    Field(max_length=16, description="Paths in the user's folder for files, or https addresses of pictures and PDFs."),
]

# The same fields of other tools: the list of tools is sent along with every conversation, so it says each thing once.
_THERE = "As in ask_model."
MaxTokensToo = Annotated[int, Field(ge=1, description=_THERE)]
MaxCostToo = Annotated[
    Decimal | None, Field(ge=0, max_digits=30, description=_THERE), WithJsonSchema({"type": "number", "minimum": 0})
]
ObjectToo = Annotated[dict[str, Any] | None, Field(description=_THERE), WithJsonSchema({"type": "object"})]
AttachToo = Annotated[tuple[str, ...], Field(max_length=16, description=_THERE)]
