"""What the arguments of a question ask for."""

from dataclasses import dataclass, replace
from decimal import Decimal

from openrouter_mcp.app import App
from openrouter_mcp.conversation import fitting
from openrouter_mcp.records import FREE_SUFFIX
from openrouter_mcp.text import encodable
from openrouter_mcp.vetting import MAX_PROMPT_BYTES
from openrouter_mcp.wire import ChatRequest

_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Question:
    """A request, the answer it continues if any, and what the agent should know of it."""

    request: ChatRequest
    parent: str = ""
    note: str = ""


def many(app: App, *, model: str, system: str, max_tokens: int, max_cost: Decimal | None) -> ChatRequest:
    """The request that is the same for all prompts of a batch."""
    model = model or app.guard.default_model(max_cost)
    return ChatRequest(model=model, prompt="", system=encodable(system), max_tokens=max_tokens)


async def question(
    app: App, *, prompt: str, model: str, system: str, max_tokens: int, continue_from: str, max_cost: Decimal | None
) -> Question:
    """The request for these arguments; with `continue_from`, after as much of that conversation as the model can read.

    Raises:
        UnknownAnswer, InvalidRequest: when there is nothing to continue.
        OpenRouterMCPError: when the catalogue cannot be read.
    """
    if not continue_from:
        model = model or app.guard.default_model(max_cost)
        return Question(ChatRequest(model=model, prompt=prompt, system=system, max_tokens=max_tokens))
    talk = await app.answers.conversation(continue_from, app.settings.caller)
    free = not model
    if free:  # money is spent only on a model that the call itself names
        model = talk.model if talk.model.endswith(FREE_SUFFIX) else app.guard.default_model(max_cost)
    request = ChatRequest(model=model, prompt=prompt, system=system or talk.system, max_tokens=max_tokens)
    entry = next((entry for entry in await app.catalog.models() if entry.id == model), None)
    context = (entry and entry.context_length) or _NO_LIMIT
    most = (entry and entry.top_provider.max_completion_tokens) or max_tokens
    shortened = replace(request, max_tokens=min(max_tokens, most, context // 2))  # half at most is for the answer
    history = fitting(talk.turns, shortened, context=context, max_bytes=MAX_PROMPT_BYTES)
    dropped = len(talk.turns) - len(history)
    switched = free and model != talk.model
    notes = [
        f"the {dropped} oldest of {len(talk.turns)} turns were left out: {model} cannot read more" if dropped else "",
        "what was said before that is no longer kept" if talk.lost else "",
        f"a call that names no model is free: name {talk.model} to go on with it" if switched else "",
    ]
    return Question(replace(shortened, history=history), continue_from, "; ".join(filter(None, notes)))
