"""What the arguments of a question ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import anyio.to_thread

from openrouter_mcp.answers import Conversation
from openrouter_mcp.app import App
from openrouter_mcp.attachments import load
from openrouter_mcp.callers import Caller
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.conversation import fitting
from openrouter_mcp.errors import InvalidRequest, TooLarge
from openrouter_mcp.options import read
from openrouter_mcp.records import FREE_ROUTER, FREE_SUFFIX, Model
from openrouter_mcp.schemas import Json, require_usable
from openrouter_mcp.text import encodable, one_line
from openrouter_mcp.transcript import Answer
from openrouter_mcp.vetting import MAX_PROMPT_BYTES

_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Question:
    """A request, the answer it continues if any, and what the agent should know of it."""

    request: ChatRequest
    parent: str = ""
    note: str = ""


async def base_request(
    app: App,
    caller: Caller,
    *,
    model: str = "",
    prompt: str = "",
    system: str,
    schema: Json | None,
    max_tokens: int,
    options: Json | None = None,
    attach: Sequence[str] = (),
) -> ChatRequest:
    """The request that these arguments of a tool ask for; files are the caller's.

    Raises:
        InvalidRequest: when the options or the schema cannot be used.
        BadFile: when something cannot be attached.
    """
    rare = read(options or {})
    if schema is not None:
        require_usable(schema)
    parts = await anyio.to_thread.run_sync(load, attach, app.settings, caller) if attach else ()
    return ChatRequest(
        model,
        prompt,
        rare.fallbacks,
        encodable(system),
        max_tokens=max_tokens,
        options=rare,
        schema=schema,
        parts=parts,
    )


def require_single(request: ChatRequest) -> None:
    """Raise InvalidRequest where an option is for one model's one answer alone."""
    if request.options.fallbacks or request.options.tool_results:
        raise InvalidRequest("options.fallbacks and options.tool_results are for ask_model; here each is asked once.")


def for_default(app: App, caller: Caller, request: ChatRequest, max_cost: Decimal | None) -> ChatRequest:
    """With the user's own choice of a model where none is named."""
    return request if request.model else replace(request, model=app.guard.default_model(max_cost, caller))


async def question(
    app: App, caller: Caller, request: ChatRequest, *, continue_from: str, max_cost: Decimal | None
) -> Question:
    """What is to be asked; with `continue_from`, after as much of that conversation as the model can read.

    Raises:
        UnknownAnswer, InvalidRequest: when there is nothing to continue.
        OpenRouterMCPError: when the catalogue cannot be read.
    """
    if request.fallbacks and request.model in ("", FREE_ROUTER):
        raise InvalidRequest("options.fallbacks are for a named model: name one, or leave them out.")
    if not continue_from:
        _check_results(request, None)
        return Question(for_default(app, caller, request, max_cost))
    talk = await app.answers.conversation(continue_from, caller.name)
    _check_results(request, talk.last)
    free, model = not request.model, request.model
    if free:  # money is spent only on a model that the call itself names
        model = talk.model if talk.model.endswith(FREE_SUFFIX) else app.guard.default_model(max_cost, caller)
    request = replace(request, model=model, system=request.system or talk.system)
    entry = next((entry for entry in await app.catalog.models() if entry.id == model), None)
    request = _with_history(request, talk, entry)
    dropped = len(talk.turns) - len(request.history)
    switched = free and model != talk.model
    notes = [
        f"the {dropped} oldest of {len(talk.turns)} turns were left out: {model} cannot read more" if dropped else "",
        "what was said before that is no longer kept" if talk.lost else "",
        f"a call that names no model is free: name {talk.model} to go on with it" if switched else "",
    ]
    return Question(request, continue_from, "; ".join(filter(None, notes)))


def _with_history(request: ChatRequest, talk: Conversation, entry: Model | None) -> ChatRequest:
    """`request` after as much of what was said as its model can read."""
    context = (entry and entry.context_length) or _NO_LIMIT
    most = (entry and entry.top_provider.max_completion_tokens) or request.max_tokens
    request = replace(request, max_tokens=min(request.max_tokens, most, context // 2))  # half at most is for the answer
    history = fitting(talk.turns, request, context=context, max_bytes=MAX_PROMPT_BYTES)
    if request.options.tool_results and not history:
        raise TooLarge(f"{request.model} cannot read the answer that called the tools beside what they came to.")
    return replace(request, history=history)


def _check_results(request: ChatRequest, last: Answer | None) -> None:
    """Raise InvalidRequest where the results of tools are not one for each call of the `last` answer: no provider reads
    that."""
    results = [one.tool_call_id for one in request.options.tool_results or ()]
    called = [call.id for call in last.calls] if last else []
    if sorted(called) == sorted(results):
        return
    if not last:
        raise InvalidRequest("options.tool_results need continue_from: the id of the answer that called the tools.")
    if not called:
        raise InvalidRequest("That answer called no tools. Ask without options.tool_results.")
    raise InvalidRequest(
        "That answer called tools: send what each call came to in options.tool_results, once, by its tool_call_id: "
        f"{one_line(', '.join(called), 300)}. For one that was not run, say so in its content."
    )
