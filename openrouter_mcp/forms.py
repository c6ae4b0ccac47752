"""Answers in a form: asked for as JSON that follows a schema, checked here, and mended once by the model itself."""

from dataclasses import replace
from decimal import Decimal
from functools import partial

import anyio
import anyio.to_thread

from openrouter_mcp.attempts import Attempts
from openrouter_mcp.chat import ChatRequest, Turn
from openrouter_mcp.errors import OpenRouterMCPError
from openrouter_mcp.guard import Held
from openrouter_mcp.pages import PAGE, Text
from openrouter_mcp.purse import Purse
from openrouter_mcp.schemas import UNCHECKABLE, Json, follow, not_checked
from openrouter_mcp.transcript import Answer, Draft

_ASKING = (
    "That does not follow the schema: {problem}. Reply with the whole corrected JSON and nothing else: no explanation, "
    "no code fence."
)


async def ask(
    attempts: Attempts, request: ChatRequest, purse: Purse, draft: Draft, *, held: Held | None = None, spare: int = 0
) -> None:
    """As `Attempts.ask`; and where the request has a schema, an answer that does not follow it is mended once, by the
    model that wrote it, counted and paid for like any other request.

    Raises:
        OpenRouterMCPError: as `Attempts.ask` does; not where the mending fails: then the answer stays as it was.
    """
    note = draft.answer.note
    await attempts.ask(request, purse, draft, held=held, spare=spare)
    schema, answer = request.schema, draft.answer
    if schema is None or not draft.text.has_words or answer.calls:  # the answer comes after the calls
        return
    await _check(draft, schema)
    if not answer.invalid or answer.invalid.startswith(UNCHECKABLE):
        return
    if answer.refused or answer.problem or draft.text.size > PAGE:  # cut off, or too long to be sent along
        return
    await _mend(attempts, request, purse, draft, note=note, spare=spare)


async def _mend(attempts: Attempts, request: ChatRequest, purse: Purse, draft: Draft, *, note: str, spare: int) -> None:
    answer = draft.answer
    again = replace(
        request,
        model=answer.asked,
        fallbacks=(),
        history=(*request.history, Turn(request.prompt, str(draft.text), results=request.options.tool_results or ())),
        prompt=_ASKING.format(problem=answer.invalid),
        options=request.options.model_copy(update={"tool_results": None}),
    )
    mended = Draft(Answer(id=answer.id, note=note, results=answer.results), caller=draft.caller)
    try:
        await attempts.ask(again, purse, mended, spare=spare)
    except OpenRouterMCPError as failure:
        mended.answer.attempts, mended.answer.allowance = failure.attempts, failure.allowance or answer.allowance
    except anyio.get_cancelled_exc_class():
        mended.answer.attempts = int(mended.sent.is_set())
        _account_for(answer, mended.answer)
        raise
    if not mended.text.has_words or mended.answer.problem:  # it failed, called a tool, or broke off
        answer.allowance = mended.answer.allowance
        _account_for(answer, mended.answer)
        return
    _account_for(mended.answer, answer)
    await _check(mended, request.schema or {})
    draft.text = mended.text
    vars(answer).update(vars(mended.answer))


def _account_for(kept: Answer, other: Answer) -> None:
    """Let `kept` say what both came to."""
    kept.attempts += other.attempts
    kept.before += other.before + (other.usage.cost or Decimal(0))
    kept.warning = kept.warning or other.warning
    if other.held:
        kept.held += other.held
        kept.usage = replace(kept.usage, cost=None)


async def _check(draft: Draft, schema: Json) -> None:
    """Note whether the answer follows `schema`; what is JSON is left bare."""
    draft.text.finish()
    bare, draft.answer.invalid = await anyio.to_thread.run_sync(partial(follow, schema, str(draft.text)))
    draft.answer.checked = True
    if unchecked := not_checked(schema):
        draft.answer.note = "; ".join(filter(None, [draft.answer.note, f"not checked here: {', '.join(unchecked)}"]))
    if draft.text.size <= PAGE:
        draft.text = Text.of([bare])
